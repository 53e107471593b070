"""Trains and evaluates the runs of one job: one run, or the seeds of a variant that go together.

Every run gets its own folder, as if it were trained alone: what `wound_jax.train` writes, and
nothing else, so that each can be resumed, evaluated and predicted with by itself.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wound_jax.config import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.experiments.shared_cells import SharedCells
from wound_jax.experiments.variants import folder_of
from wound_jax.report.score_run import score_run
from wound_jax.training import provenance
from wound_jax.training.checkpoint import Checkpoints
from wound_jax.training.log import Journal
from wound_jax.training.loop import Loop, drive
from wound_jax.training.run_record import add_seconds, record_start
from wound_jax.training.seeds import SeedsJournal, SeedsRun
from wound_jax.training.setup import Run


def train_job(job: Sequence[RunConfig], cells: SharedCells, *, progress_bar: bool) -> None:
    """Trains runs of one variant from where they stand to their end, and evaluates them.

    Args:
        job: configs that differ in seed and folder alone; several train in one program, and stand
            at one step.
        cells: of the comparison.
        progress_bar: whether to draw one.

    Raises:
        UserError: a loss or a gradient is not finite.
        KeyboardInterrupt: Ctrl-C; all runs can be resumed.
    """
    train_only(job, cells.of(job[0]), progress_bar=progress_bar)
    for config in job:
        score_run(folder_of(config), config, cells.of(config), cells.yardstick(config))


def train_only(job: Sequence[RunConfig], data: PreparedData, *, progress_bar: bool) -> None:
    """As `train_job`, without the evaluation."""
    if len(job) == 1:
        _train_alone(job[0], data, progress_bar)
    else:
        _train_together(job, data, progress_bar)


def step_of(config: RunConfig) -> int:
    """The step from which a run would go on; 0 where it has not begun."""
    if not (folder_of(config) / "checkpoints" / "last").is_dir():
        return 0
    with Checkpoints(folder_of(config), create=False) as checkpoints:
        return checkpoints.step("last") if checkpoints.has("last") else 0


def _train_alone(config: RunConfig, data: PreparedData, progress_bar: bool) -> None:
    run = Run(config, data)
    folder = _open(config, data, run)
    loop = Loop(run, config.training, data.spec, folder, progress_bar=progress_bar)
    with _timed([folder]):
        loop.train(resume=True)


def _train_together(job: Sequence[RunConfig], data: PreparedData, progress_bar: bool) -> None:
    run = SeedsRun(job[0], [config.seed for config in job], data)
    folders = [_open(config, data, run) for config in job]
    journals = [
        # One bar for all: they do their steps at once.
        Journal(folder, data.spec, run.total_steps, progress_bar=progress_bar and i == 0)
        for i, folder in enumerate(folders)
    ]
    with _timed(folders), SeedsJournal(journals, run.axis) as journal:
        drive(run, job[0].training, journal, resume=True)


def _open(config: RunConfig, data: PreparedData, run: Run | SeedsRun) -> Path:
    """The folder of a run, with what is known before its first step, or the note that it goes on.

    Where a run was broken before that was written, it starts anew.
    """
    folder = folder_of(config)
    if (folder / "provenance.json").is_file():
        provenance.resume(folder, run.devices.mesh.devices.flat)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        record_start(folder, config, data, run)
    return folder


@contextmanager
def _timed(folders: Sequence[Path]) -> Iterator[None]:
    """Adds the time to each run's own, shared out evenly, also where training is broken off."""
    start = time.perf_counter()
    try:
        yield
    finally:
        for folder in folders:
            add_seconds(folder, (time.perf_counter() - start) / len(folders))
