"""Schedule of an experiment: what is missing is trained, or goes on from where it stands.

The seeds of a variant that stand at one step train together, in one program; a seed that is alone
at its step, or whose common program failed, trains by itself. With early stopping every seed has an
end of its own, and with shuffled velocities cells of its own, so there all train one by one. Every
run gets its own folder, as if `wound_jax.train` had made it, so that each can be resumed, evaluated
and predicted with by itself.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wound_jax.config import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.errors import UserError, shown
from wound_jax.experiments.cells import SharedCells, cells_key
from wound_jax.experiments.plan import PlannedVariant, folder_of
from wound_jax.files import make_folder
from wound_jax.training.checkpoint import Checkpoints
from wound_jax.training.diverged import explaining
from wound_jax.training.launch import warn_of_no_gain
from wound_jax.training.log import TrainingLog
from wound_jax.training.loop import Loop, drive
from wound_jax.training.record import add_seconds, record_resumed, record_start, require_own_config
from wound_jax.training.run_lock import training
from wound_jax.training.seeds import SeedsLog, SeedsRun
from wound_jax.training.setup import Run


class Schedule:
    """The runs of all variants and folds, in turn.

    Args:
        variants: of all folds.
        is_done: whether a run is left as it is.
        finish: what is done with a run that was trained, for `is_done` to hold from then on.
        together: whether the seeds of a variant may train in one program.
        progress_bar: whether to draw one while a program trains.

    Attributes:
        failures: one line for each run that could not be trained to its end.
    """

    def __init__(
        self,
        variants: Sequence[PlannedVariant],
        is_done: Callable[[RunConfig], bool],
        finish: Callable[[RunConfig, SharedCells], object],
        *,
        together: bool,
        progress_bar: bool,
    ):
        self.failures: list[str] = []
        self._is_done, self._finish = is_done, finish
        self._together, self._progress_bar = together, progress_bar
        self._total = sum(len(variant.runs) for variant in variants)
        self._left = sum(len(self.missing(variant)) for variant in variants)
        self._place = 0
        # Seconds of each run that was trained here, up to its end.
        self._seconds: list[float] = []

    def missing(self, variant: PlannedVariant) -> list[RunConfig]:
        """The runs of a variant that are not done."""
        return [config for config in variant.runs.values() if not self._is_done(config)]

    def drop(self, variants: Sequence[PlannedVariant]) -> None:
        """Counts out variants that are not trained after all."""
        self._total -= sum(len(variant.runs) for variant in variants)
        self._left -= sum(len(self.missing(variant)) for variant in variants)

    def train(self, variant: PlannedVariant, cells: SharedCells) -> None:
        """Trains every run of a variant that is not done; failures are noted.

        Args:
            variant: one of the schedule's.
            cells: of its fold.

        Raises:
            KeyboardInterrupt: Ctrl-C; all runs can be resumed.
        """
        missing = self.missing(variant)
        finished = len(variant.runs) - len(missing)
        if finished:
            say(f"{variant.name}: {finished} of {len(variant.runs)} seeds finished before")
        self._place += finished
        for job in jobs(missing, together=self._together):
            self._place += len(job)
            self._train(variant.name, job, cells, _span(self._place, len(job)))

    def _train(self, name: str, job: Sequence[RunConfig], cells: SharedCells, place: str) -> None:
        seeds = ", ".join(str(config.seed) for config in job)
        step = step_of(job[0])
        say(
            f"[{place}/{self._total}] {name}: seed{'s' if len(job) > 1 else ''} {seeds}"
            f"{' together' if len(job) > 1 else ''}{f', from step {step}' if step else ''}"
        )
        start = time.perf_counter()
        try:
            train_job(job, cells.of(job[0]), progress_bar=self._progress_bar)
            for config in job:
                self._finish(config, cells)
        except UserError as e:
            if len(job) == 1:
                self._left -= 1
                self.failures.append(f"{name}, seed {seeds} failed: {e}")
                say(self.failures[-1])
                return
            say(f"{name}: together they failed: {e}\nso each of these seeds goes on alone")
            for config in job:
                self._train(name, [config], cells, place)
            return
        self._left -= len(job)
        self._seconds += [(time.perf_counter() - start) / len(job)] * len(job)
        say(f"    {_duration(self._seconds[-1])} a run{self._time_left()}")

    def _time_left(self) -> str:
        if not self._left:
            return ""
        seconds = self._left * sum(self._seconds) / len(self._seconds)
        return f"; {self._left} runs left, about {_duration(seconds)}"


def jobs(missing: Sequence[RunConfig], *, together: bool) -> list[list[RunConfig]]:
    """Divides the missing runs of a variant into those that train at once, in one program.

    Args:
        missing: configs that differ in their seed and folder alone.
        together: whether any may train at once.
    """
    stop_early = any(config.training.early_stopping is not None for config in missing)
    # Velocities that are shuffled by the run's seed are other cells for each seed.
    share_cells = len({cells_key(config) for config in missing}) == 1
    if not together or stop_early or not share_cells:
        return [[config] for config in missing]
    by_step: dict[int, list[RunConfig]] = {}
    for config in missing:
        by_step.setdefault(step_of(config), []).append(config)
    return list(by_step.values())


def step_of(config: RunConfig) -> int:
    """The step from which a run would go on; 0 where it has not begun."""
    if not (folder_of(config) / "checkpoints" / "last").is_dir():
        return 0
    with Checkpoints(folder_of(config), create=False) as checkpoints:
        return checkpoints.step("last") if checkpoints.has("last") else 0


def train_job(job: Sequence[RunConfig], data: PreparedData, *, progress_bar: bool) -> None:
    """Trains runs of one variant from where they stand to their end, without evaluating them.

    Args:
        job: configs that differ in seed and folder alone; several train in one program, and stand
            at one step.
        data: their cells.
        progress_bar: whether to draw one.

    Raises:
        UserError: a loss or a gradient is not finite.
        KeyboardInterrupt: Ctrl-C; all runs can be resumed.
    """
    if len(job) == 1:
        _train_alone(job[0], data, progress_bar)
    else:
        _train_together(job, data, progress_bar)


def _train_alone(config: RunConfig, data: PreparedData, progress_bar: bool) -> None:
    run = Run(config, data)
    with _opened([config], data, run) as folders, _timed(folders):
        (folder,) = folders
        loop = Loop(run, config.training, data.spec, folder, progress_bar=progress_bar)
        with explaining(folder, config, data, run.plan):
            progress = loop.train(resume=True)
        warn_of_no_gain(folder, progress, config.training.learning_rate)


def _train_together(job: Sequence[RunConfig], data: PreparedData, progress_bar: bool) -> None:
    run, settings = SeedsRun(job[0], [config.seed for config in job], data), job[0].training
    with _opened(job, data, run) as folders, _timed(folders):
        logs = [
            TrainingLog(
                folder,
                data.spec,
                run.total_steps,
                # One bar for all: they do their steps at once.
                progress_bar=progress_bar and i == 0,
                tolerated=settings.tolerated,
            )
            for i, folder in enumerate(folders)
        ]
        with SeedsLog(logs, run) as log:
            drive(run, settings, log, resume=True)
        for folder, one in zip(folders, logs, strict=True):
            warn_of_no_gain(folder, one.progress, settings.learning_rate)


@contextmanager
def _opened(
    job: Sequence[RunConfig], data: PreparedData, run: Run | SeedsRun
) -> Iterator[list[Path]]:
    """The folders of runs, kept for this process, each with what is known before its first step.

    One that was begun gets the note that it goes on; where it was broken before its config was
    written, it starts anew.
    """
    folders = [folder_of(config) for config in job]
    with ExitStack() as locks:
        for folder, config in zip(folders, job, strict=True):
            begun = (folder / "config.yaml").is_file()
            if not begun:
                make_folder(folder)
                record_start(folder, config, data, run)
            locks.enter_context(training(folder))
            if begun:
                require_own_config(folder)
                record_resumed(folder, run.devices.mesh.devices.flat)
        yield folders


@contextmanager
def _timed(folders: Sequence[Path]) -> Iterator[None]:
    """Adds the time to each run's own, shared out evenly, also where training is broken off."""
    start = time.perf_counter()
    try:
        yield
    finally:
        for folder in folders:
            add_seconds(folder, (time.perf_counter() - start) / len(folders))


def say(text: str) -> None:
    """Tells the person at the keyboard how the experiment goes."""
    print(shown(text), file=sys.stderr, flush=True)


def _span(last: int, n: int) -> str:
    return str(last) if n == 1 else f"{last - n + 1}-{last}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
