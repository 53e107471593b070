"""A process that trains one tiny run, and may be killed at one of its writes.

Processes are forked from a server that has imported everything and computed nothing, so that each
costs what it does and not what it imports. Its messages are kept apart from the run.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

# What Python says of itself (sys.addaudithook) before it changes the disk.
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
_PATIENCE = 300

SETTINGS = (
    "data.source=synthetic",
    "data.synthetic.n_cells=600",
    "data.synthetic.n_genes=300",
    "data.synthetic.embedding_dim=8",
    "data.cell_set_len=16",
    "split.kind=replicate",
    "split.controls=shared",
    "model.hidden_dim=8",
    "model.layers=1",
    "model.heads=2",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "training.batch_size=4",
    "training.max_epochs=null",
    "training.max_steps=12",
    "training.val_every=3",
    "training.log_every=1",
    "evaluation.min_cells=4",
)


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        status: of the exit; negative is the signal, None where it had to be killed as it hung.
        said: all that it printed.
        writes: how often it changed the disk below its folder.
        seconds: how long it took.
    """

    status: int | None
    said: str
    writes: int
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether it ended well, or with one message and no traceback."""
        return self.status in (0, 2) and "Traceback" not in self.said


def train(
    folder: Path,
    *,
    resume: bool = False,
    kill_at: int | None = None,
    after: float | None = None,
    evaluated: bool = False,
) -> End:
    """Trains, or resumes, the run of a folder in a process of its own.

    Args:
        folder: the run folder.
        resume: whether to go on with it.
        kill_at: kill -9 before this write, counted from 1.
        after: kill -9 after so many seconds.
        evaluated: whether it is scored as well, which takes longer.
    """
    return begin(folder, resume=resume, kill_at=kill_at, evaluated=evaluated).end(after)


class Running:
    """A process that trains.

    Args:
        process: started.
        log: where it prints.
    """

    def __init__(self, process: Any, log: Path):
        self._process, self._log = process, log
        self._begun = time.perf_counter()

    def end(self, after: float | None = None) -> End:
        """How it ends, or is ended after so many seconds."""
        process = self._process
        process.join(after if after is not None else _PATIENCE)
        hangs = process.exitcode is None and after is None
        process.kill()
        process.join()
        lines = self._log.read_text(errors="replace").splitlines(keepends=True)
        self._log.unlink()
        writes = [int(line.split()[1]) for line in lines if line.startswith("#writes ")]
        said = "".join(line for line in lines if not line.startswith("#writes "))
        seconds = time.perf_counter() - self._begun
        status = None if hangs else process.exitcode
        return End(status, said, writes[-1] if writes else 0, seconds)


def begin(
    folder: Path, *, resume: bool = False, kill_at: int | None = None, evaluated: bool = False
) -> Running:
    """Begins to train in a process of its own; see `train`."""
    handle, name = tempfile.mkstemp(prefix=f"{folder.name}-", suffix=".log")
    os.close(handle)
    log = Path(name)
    process = _server().Process(target=_body, args=(folder, log, resume, kill_at, evaluated))
    process.start()
    return Running(process, log)


@cache
def _server() -> Any:
    """What processes are forked from, with all imported; it is told of no path but PYTHONPATH."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torturing.preload"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


def _body(folder: Path, log: Path, resume: bool, kill_at: int | None, evaluated: bool) -> None:
    """Of the process: trains, and leaves with the status that the command would have."""
    from wound_jax import cli
    from wound_jax.config import load_config
    from wound_jax.report.score_run import score_run
    from wound_jax.training import launch

    def training() -> int:
        if resume:
            trained = launch.resume(folder, [], progress_bar=False)
        else:
            config = load_config(None, [*SETTINGS, f"run_dir={folder}"])
            trained = launch.start(config, progress_bar=False)
        if trained and evaluated:
            score_run(trained.folder, trained.config, trained.data)
        return 0 if trained else 130

    with log.open("a", buffering=1) as file, redirect_stderr(file), redirect_stdout(file):
        os.dup2(file.fileno(), 2)
        writes = _count(folder, kill_at)
        try:
            status = cli.run(training)
        finally:
            print(f"#writes {writes[0]}", file=file)
    sys.exit(status)


def _count(folder: Path, kill_at: int | None) -> list[int]:
    """Counts the changes to the disk below the folder; the process dies before one of them."""
    writes, root = [0], os.path.join(folder, "")

    def hook(event: str, given: tuple) -> None:
        if event == "open":
            path, _, flags = given
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            path, changes = (given[0] if given else None), event in _CHANGES
        if not changes or not isinstance(path, str | os.PathLike):
            return
        if not os.path.join(os.path.abspath(path), "").startswith(root):
            return
        writes[0] += 1
        if writes[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return writes
