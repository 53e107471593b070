"""Training loop, and Ctrl-C held back until the state is whole.

Order of operations, for each step k = 0, 1, ...:
    1. the epoch's plan, when k enters a new epoch (a pure function of (seed, epoch));
    2. the step on batch k of that plan, dispatched without waiting, or `steps_per_dispatch` of them
       at once as long as none of what follows falls in between;
    3. every `log_every` steps: pending metrics are fetched and written;
    4. every `val_every` steps and at the end: validation on the fixed sets, `best` and `last`
       checkpoints, early stopping.
A run resumed at step k repeats none of this and equals one that went straight through.

Two programs are compiled, for one step and for `steps_per_dispatch` n: with L steps to the next log
or validation, floor(L / n) dispatches of n are followed by L mod n of one, so n should divide
`log_every` and `val_every`. The end of an epoch cuts nothing: only the plan changes there. Ctrl-C
is seen between two dispatches; several processes agree on it every `log_every` steps.
"""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from wound_jax.data.sets import SetPlan
from wound_jax.data.spec import DataSpec
from wound_jax.devices import processes
from wound_jax.devices.mesh import Devices
from wound_jax.errors import UserError
from wound_jax.models.build import Model
from wound_jax.training.batch import Feed
from wound_jax.training.log import Progress, TrainingLog, Validations, mean_metrics
from wound_jax.training.settings import TrainingSettings
from wound_jax.training.step import TrainState

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class HeldInterrupt:
    """Notes Ctrl-C and raises it where `check` is called; use as a context manager.

    A step gives the old state's buffers away when it is dispatched, and the new state has a name
    only once the call has returned. An interruption in between would leave nothing to save, so the
    first Ctrl-C is noted and raised between two steps; a second one is raised at once. SIGTERM, by
    which a scheduler takes a machine back, is treated alike.

    Several processes end together, at a step that all of them have done: `check` asks whether any
    was interrupted. There a second signal ends the process, and with it the others.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "HeldInterrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            # None: it was installed by other code than Python's.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def check(self) -> None:
        """Raises what was noted, here or on another process; all processes have to call it.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if processes.any_of(self._asked):
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._leave(number)
        self._asked = True

    def _leave(self, number: int) -> None:
        """What a second signal does."""
        if not processes.several():
            raise KeyboardInterrupt
        # An exception would wait at the exit for the other processes, and these for this one.
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


# Batches that are announced beforehand, so that what lies on disk is read while a step computes.
_AHEAD = 2


# A batch, and those that come next.
_Announced = tuple[SetPlan, Sequence[SetPlan]]


@runtime_checkable
class Trainable(Protocol):
    """What is trained: a `wound_jax.training.setup.Run`, or whatever else has its parts.

    Attributes:
        model: structure, initial parameters and labels.
        devices: where it computes.
        feed: places the cells and the batches on the devices.
        batches_per_epoch: how many batches an epoch has.
        total_steps: length of the run.
        validation: the fixed validation batches, on the devices.
        state: the state before the first step.
        step: the compiled training step.
        steps: the same for several batches at once.
        evaluate: the compiled evaluation step.
    """

    model: Model
    devices: Devices
    feed: Feed
    batches_per_epoch: int
    total_steps: int
    validation: list
    state: TrainState
    step: Callable[..., tuple[TrainState, Any]]
    steps: Callable[..., tuple[TrainState, Any]]
    evaluate: Callable[..., tuple[Any, Any]]

    def epoch(self, epoch: int) -> list[SetPlan]:
        """The batches of one epoch."""
        ...


@runtime_checkable
class _Log(Protocol):
    """What is kept while training: a `wound_jax.training.log.TrainingLog`, or one of many seeds."""

    def begin(
        self, initial: TrainState, devices: Devices, *, resume: bool
    ) -> tuple[TrainState, int]: ...

    def step(self, step: int, metrics: dict[str, Any], cells: int, count: int = 1) -> None: ...

    def flush(self) -> None: ...

    def validated(self, step: int, state: TrainState, results: Validations) -> None: ...

    def interrupted(self, state: TrainState) -> None: ...

    def ends_early(self, patience: int | None) -> bool: ...


class Loop:
    """Trains one run to its end.

    Args:
        run: what `wound_jax.training.setup` put together.
        config: the rhythm of logs and validation.
        spec: stored with each checkpoint.
        folder: the run folder.
        progress_bar: whether to draw one.

    Raises:
        UserError: early stopping is asked for, and there are no validation cells to judge by.
    """

    def __init__(
        self,
        run: Trainable,
        config: TrainingSettings,
        spec: DataSpec,
        folder: Path,
        *,
        progress_bar: bool = True,
    ):
        require_validation(config, bool(run.validation))
        self._run = run
        self._config = config
        self._spec = spec
        self._folder = folder
        self._progress_bar = progress_bar

    def train(self, *, resume: bool = False, slot: str = "last") -> Progress:
        """Trains, from the start or from a checkpoint, and returns what was reached.

        On an interrupt the state is saved first, so that `--resume` goes on from there.

        Args:
            resume: whether to go on from a checkpoint, where there is one.
            slot: which, "last" or "best".

        Raises:
            NotFinite: a loss or a gradient is not finite.
            DamagedFile: the checkpoint is not as it was written, or of another run.
        """
        with TrainingLog(
            self._folder,
            self._spec,
            self._run.total_steps,
            progress_bar=self._progress_bar,
            slot=slot,
            tolerated=self._config.tolerated,
        ) as log:
            drive(self._run, self._config, log, resume=resume)
            return log.progress

    def validation_metrics(self, state: TrainState) -> dict[str, float]:
        """Metrics over the validation sets, each cell with equal weight; empty without any."""
        return mean_metrics(_validate(self._run, state))


def require_validation(config: TrainingSettings, there_is_any: bool) -> None:
    """Refuses early stopping without validation cells to judge by.

    Raises:
        UserError: as said.
    """
    if config.early_stopping is not None and not there_is_any:
        raise UserError(
            f"training.early_stopping={config.early_stopping} needs validation cells, and the "
            "split leaves none; hold some out (split.val or split.val_fraction), or set "
            "training.early_stopping=null."
        )


def drive(run: Trainable, config: TrainingSettings, log: _Log, *, resume: bool = False) -> None:
    """Trains to the end; the log keeps what shall be kept, also on an interrupt.

    Args:
        run: what is trained.
        config: the rhythm of logs and validation.
        log: entered already.
        resume: whether to go on from the last checkpoint.

    Raises:
        NotFinite: a loss or a gradient is not finite.
        KeyboardInterrupt: Ctrl-C; the state has been saved.
    """
    state, start = log.begin(run.state, run.devices, resume=resume)
    if start == 0:
        log.validated(0, state, _validate(run, state))
    k, plans = start, _plans(run, start)
    with HeldInterrupt() as interrupt:
        try:
            for count in _dispatches(start, run.total_steps, config):
                if log.ends_early(config.early_stopping):
                    break
                now = list(islice(plans, count))
                state, metrics = _advance(run, state, now)
                k += count
                cells = sum(int(plan.target_mask.sum()) for plan, _ in now)
                log.step(k, metrics, cells, count)
                _keep(run, config, log, state, k)
                # To ask other processes is to wait for them: only where metrics are waited for.
                if not processes.several() or k % config.log_every == 0:
                    interrupt.check()
        except KeyboardInterrupt:
            log.interrupted(state)
            raise


def _dispatches(start: int, total: int, config: TrainingSettings) -> Iterator[int]:
    """How many steps each dispatch takes: `steps_per_dispatch`, or 1 where that does not fit."""
    k, most = start, config.steps_per_dispatch
    while k < total:
        ends = (k // every * every + every for every in (config.log_every, config.val_every))
        count = most if k + most <= min(total, *ends) else 1
        yield count
        k += count


def _plans(run: Trainable, start: int) -> Iterator[_Announced]:
    """The batches from step `start` on, epoch after epoch, each with the next ones of its epoch."""
    epoch, first = divmod(start, run.batches_per_epoch)
    while True:
        batches = run.epoch(epoch)
        for i in range(first, len(batches)):
            yield batches[i], batches[i + 1 : i + 1 + _AHEAD]
        epoch, first = epoch + 1, 0


def _advance(run: Trainable, state: TrainState, now: list[_Announced]) -> tuple[TrainState, Any]:
    """The state after these batches, and the metrics of each."""
    if len(now) == 1:
        return run.step(state, run.feed.cells, run.feed.batch(*now[0]))
    return run.steps(state, run.feed.cells, run.feed.batches([plan for plan, _ in now]))


def _keep(
    run: Trainable, config: TrainingSettings, log: _Log, state: TrainState, step: int
) -> None:
    """What the rhythm of the run asks for after a step: metrics written, validation, states."""
    validate = step % config.val_every == 0 or step == run.total_steps
    if validate or step % config.log_every == 0:
        log.flush()
    if validate:
        log.validated(step, state, _validate(run, state))


def _validate(run: Trainable, state: TrainState) -> Validations:
    return [run.evaluate(state.parameters, run.feed.cells, batch) for batch in run.validation]
