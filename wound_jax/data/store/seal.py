"""Seal of a training store: 48 bytes behind the end of its file, by which every damage shows.

    seal = "wound_jax seal 1" + SHA-256(digests of all pieces);  a piece is 4 MiB of the file

It covers each byte that was written, labels and notes too, and is checked before HDF5 reads
anything. HDF5 itself leaves what lies behind its end alone, and cuts it off when it writes. Pieces
are read and digested in threads; a GB takes a second where the disk is as fast as that.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wound_jax.files import DamagedFile

CONVERT = "python -m wound_jax convert --config CONFIG --output STORE.h5ad data.path=CELLS.h5ad"
AGAIN = f"convert the cells again: {CONVERT}."
_MARK = b"wound_jax seal 1"
_LENGTH = len(_MARK) + hashlib.sha256().digest_size
_PIECE = 1 << 22


def seal(path: Path) -> None:
    """Puts the seal behind a file that is whole."""
    mark = _MARK + _digest(path, path.stat().st_size)
    with path.open("ab") as file:
        file.write(mark)


def is_sealed(path: Path) -> bool:
    """Whether a file ends with a seal, be it the right one."""
    return _seal_of(path).startswith(_MARK)


def require_unbroken(path: Path) -> None:
    """Compares a sealed file with its seal.

    Raises:
        DamagedFile: a byte of it is not what was written.
    """
    try:
        unbroken = _seal_of(path)[len(_MARK) :] == _digest(path, path.stat().st_size - _LENGTH)
    except OSError as e:
        raise DamagedFile(f"{path} cannot be read: {e}; {AGAIN}") from e
    if not unbroken:
        raise DamagedFile(f"{path} is damaged: it is not what was written (SHA-256); {AGAIN}")


def _seal_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LENGTH))
        return file.read()


def _digest(path: Path, size: int) -> bytes:
    """SHA-256 of the digests of the pieces of a file up to a byte."""
    file = os.open(path, os.O_RDONLY)

    def digest(start: int) -> bytes:
        # hashlib works beside other threads.
        return hashlib.sha256(os.pread(file, min(_PIECE, size - start), start)).digest()

    try:
        with ThreadPoolExecutor() as threads:
            return hashlib.sha256(b"".join(threads.map(digest, range(0, size, _PIECE)))).digest()
    finally:
        os.close(file)
