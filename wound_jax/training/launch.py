"""Launch of a run, new or resumed, on one or several processes: from cells to trained states."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from wound_jax.config.keys import leaves
from wound_jax.config.load import parse_config
from wound_jax.config.schema import RunConfig
from wound_jax.config.text import inline
from wound_jax.data.cells import PreparedData
from wound_jax.data.prepare import prepare
from wound_jax.data.source import describe_source
from wound_jax.data.splits import split_table
from wound_jax.data.strata import plan_strata
from wound_jax.devices import processes
from wound_jax.devices.compilation import use_compilation_cache
from wound_jax.devices.mesh import make_devices
from wound_jax.errors import warn
from wound_jax.models.partition import format_parameter_table
from wound_jax.training.diverged import explaining
from wound_jax.training.log import Progress
from wound_jax.training.loop import Loop
from wound_jax.training.record import (
    add_seconds,
    record_resumed,
    record_start,
    require_own_config,
    require_same_data,
)
from wound_jax.training.run_folder import new_folder, require_free, require_run, require_single
from wound_jax.training.run_lock import training
from wound_jax.training.setup import Run


@dataclass(frozen=True)
class Trained:
    """A run that was trained to its end, ready to be evaluated.

    Attributes:
        folder: the run folder.
        config: the resolved config.
        data: its cells.
    """

    folder: Path
    config: RunConfig
    data: PreparedData


def start(config: RunConfig, *, progress_bar: bool) -> Trained | None:
    """Trains a new run; None if it was interrupted.

    Raises:
        UserError: the folder is taken, the cells do not fit the config, or a loss is not finite.
    """
    processes.from_first(lambda: require_free(config))
    say(f"data: {describe_source(config.data)}")
    data = _read(config)
    say(split_table(data.split, data.cells.annotations))
    run = _assemble(config, data)
    folder = Path(processes.from_first(lambda: str(new_folder(config))))
    if processes.is_first():
        warn_of_warmups(config, run.total_steps)
        say(format_parameter_table(record_start(folder, config, data, run)))
    with ExitStack() as lock:
        processes.from_first(lambda: _keep(folder, lock))
        return _train(Trained(folder, config, data), run, slot=None, progress_bar=progress_bar)


def resume(
    folder: Path, overrides: Sequence[str], slot: str = "last", *, progress_bar: bool
) -> Trained | None:
    """Trains the run in `folder` from where it stands; None if it was interrupted.

    Args:
        folder: the run folder; the first process alone has to reach it.
        overrides: `a.b.c=value` each, of keys that say where a run computes.
        slot: the checkpoint to go on from.
        progress_bar: whether to draw one.

    Raises:
        UserError: there is no run, its cells are others now, another process trains or reads it,
            or a loss is not finite.
    """

    def config_text() -> str:
        require_single(require_run(folder), "only a single run can be trained on")
        require_own_config(folder)
        return (folder / "config.yaml").read_text()

    text = processes.from_first(config_text)
    config = parse_config(text, overrides, str(folder / "config.yaml"))
    with ExitStack() as lock:
        # Before the cells are read: who comes second shall not wait for that.
        processes.from_first(lambda: _keep(folder, lock))
        data = _read(config)
        processes.from_first(lambda: require_same_data(folder, data.fingerprint))
        run = _assemble(config, data)
        if processes.is_first():
            record_resumed(folder, run.devices.mesh.devices.flat)
        return _train(Trained(folder, config, data), run, slot=slot, progress_bar=progress_bar)


def _keep(folder: Path, lock: ExitStack) -> None:
    """Keeps the run for this process until the stack is closed."""
    lock.enter_context(training(folder))


def _read(config: RunConfig) -> PreparedData:
    """The cells, once it is known that the devices suffice; the same ones on all processes."""

    def settings() -> dict[str, str]:
        return {key: inline(value) for key, value in leaves(config).items()}

    training = config.training
    processes.require_equal("settings", settings)
    make_devices(training.devices, training.batch_size, training.accumulate)
    data = processes.on_all(lambda: prepare(config))
    processes.require_equal("cells", lambda: {"fingerprint": data.fingerprint})
    return data


def _assemble(config: RunConfig, data: PreparedData) -> Run:
    use_compilation_cache()
    # Test cells too few to be scored are found before the training, not after it.
    plan_strata(data, config.evaluation, "test")
    return Run(config, data)


def _train(trained: Trained, run: Run, *, slot: str | None, progress_bar: bool) -> Trained | None:
    """Trains from the start, or from the checkpoint in a slot."""
    folder, settings, spec = trained.folder, trained.config.training, trained.data.spec
    say(f"run folder: {folder}")
    begun = time.perf_counter()
    try:
        loop = Loop(run, settings, spec, folder, progress_bar=progress_bar)
        with explaining(folder, trained.config, trained.data, run.plan):
            progress = loop.train(resume=True, slot=slot) if slot else loop.train()
    except KeyboardInterrupt:
        say(f"\ninterrupted; continue with --resume {folder}")
        return None
    finally:
        seconds = time.perf_counter() - begun
        if processes.is_first():
            add_seconds(folder, seconds)
    say(f"trained in {seconds:.0f} s; {_best(progress)}")
    if processes.is_first():
        warn_of_no_gain(folder, progress, settings.learning_rate)
    return trained


def warn_of_no_gain(folder: Path, progress: Progress, learning_rate: float) -> None:
    """Says so where the best state of a run is the one before its first step."""
    if progress.best_loss is not None and not progress.best_step:
        warn(
            f"{folder}: no step was better on the validation cells than the model before training, "
            f"which is what is evaluated. Lower training.learning_rate ({learning_rate:g} now), or "
            "train longer."
        )


def warn_of_warmups(config: RunConfig, total_steps: int) -> None:
    """Says so where a warm-up outlasts the run, and what is reached at its end."""
    warmups = {"training.warmup_steps": config.training.warmup_steps}
    if config.velocity.enable:
        warmups["velocity.warmup_steps"] = config.velocity.warmup_steps
    for key, steps in warmups.items():
        if steps > total_steps:
            print(
                f"warning: {key}={steps}, but the run has {total_steps} steps; only "
                f"{100 * total_steps / steps:.0f} % of the full value is reached at its end.",
                file=sys.stderr,
            )


def say(text: str) -> None:
    """Tells the person at the keyboard, once for all processes."""
    if processes.is_first():
        print(text, file=sys.stderr)


def _best(progress: Progress) -> str:
    if progress.best_loss is None:
        return "no validation cells, so the last state is evaluated"
    return f"lowest validation loss {progress.best_loss:.4f} at step {progress.best_step}"
