"""Lock of a run folder: one process trains a run, and nobody reads what is being replaced.

An advisory lock of the system on `config.yaml`, which every run has and nothing replaces: it goes
with the process that holds it, however that ends, and leaves no file.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wound_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None

# What a file system answers that has no locks.
_NONE = (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_BUSY = (errno.EAGAIN, errno.EACCES)


@contextmanager
def training(folder: Path) -> Iterator[None]:
    """Keeps a run for this process, which trains it.

    Raises:
        UserError: another process trains or reads it.
    """
    with _locked(
        folder,
        alone=True,
        busy=f"{folder} is being trained, or read, by another process. Wait until that ends, or "
        "stop it: what is trained twice at once would be neither run.",
    ):
        yield


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keeps a run as it is, beside others who read it.

    Raises:
        UserError: another process trains it.
    """
    with _locked(
        folder,
        alone=False,
        busy=f"{folder} is being trained by another process, which replaces its checkpoints. Wait "
        "until it ends, or take a copy of the folder.",
    ):
        yield


@contextmanager
def _locked(folder: Path, *, alone: bool, busy: str) -> Iterator[None]:
    path = folder / "config.yaml"
    if fcntl is None or not path.is_file():
        yield
        return
    # Network file systems lock alone only what may be written.
    writable = alone and os.access(path, os.W_OK)
    file = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno in _BUSY:
                raise UserError(busy) from e
            if e.errno not in _NONE:
                raise
        yield
    finally:
        os.close(file)
