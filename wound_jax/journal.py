"""What one run leaves while it trains: its log, its `best` and `last` states, and its progress.

The loop (`wound_jax.loop`) says when; here is what is kept then. Validation figures are means over
the validation sets in which each measured cell counts alike. Of several processes the first keeps
everything; the others come to the same decisions from the same figures.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wound_jax import processes
from wound_jax.checkpoint import Checkpoints
from wound_jax.data.spec import DataSpec
from wound_jax.runlog import RunLog, SilentLog
from wound_jax.sharding import Devices, one_device, own_copy, place
from wound_jax.train_step import TrainState

# Metrics and weight of each validation batch, on the host or still on the devices.
Validations = Sequence[tuple[dict[str, Any], Any]]


@dataclass
class Progress:
    """What the loop remembers beside the state.

    Attributes:
        best_loss: lowest validation loss so far; None before the first validation.
        best_step: the step at which it was reached.
        worse: validations since then.
    """

    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0

    def update(self, step: int, loss: float) -> bool:
        """Takes note of a validation; whether it is the best so far."""
        better = self.best_loss is None or loss < self.best_loss
        if better:
            self.best_loss, self.best_step, self.worse = loss, step, 0
        else:
            self.worse += 1
        return better


class Journal:
    """Log, checkpoints and progress of one run; use as a context manager.

    Args:
        folder: the run folder.
        spec: stored with each checkpoint.
        total_steps: length of the run.
        progress_bar: whether to draw one.
    """

    def __init__(
        self, folder: Path, spec: DataSpec, total_steps: int, *, progress_bar: bool = True
    ):
        self.progress = Progress()
        self._folder = folder
        self._spec = spec
        self._total_steps = total_steps
        self._progress_bar = progress_bar
        self._open = ExitStack()
        self._checkpoints: Checkpoints | None = None
        self._log: RunLog | SilentLog = SilentLog()

    def __enter__(self) -> "Journal":
        if processes.is_first():
            self._checkpoints = self._open.enter_context(Checkpoints(self._folder))
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def begin(
        self, initial: TrainState, devices: Devices, *, resume: bool
    ) -> tuple[TrainState, int]:
        """The state to start from, and its step; what was logged after that step is dropped.

        Args:
            initial: the state before the first step.
            devices: where a saved state shall lie.
            resume: whether to go on from the last state that was saved, where there is one.
        """
        state = self._resumed(initial, devices) if resume else initial
        start = int(state.step)
        if start == 0:
            # Also where a run was interrupted before its first step: it starts anew.
            self.progress = Progress()
        if processes.is_first():
            self._log = self._open.enter_context(
                RunLog(self._folder, self._total_steps, start, self._progress_bar)
            )
        return state, start

    def _resumed(self, initial: TrainState, devices: Devices) -> TrainState:
        """The last state that was saved, with its progress, or the initial one."""
        saved = self._checkpoints
        if not processes.from_first(lambda: saved is not None and saved.has("last")):
            return initial
        # The first process reads and tells the others; alone it reads to where the state shall lie.
        where = one_device() if processes.several() else devices
        state, progress = own_copy(initial), asdict(self.progress)
        if saved is not None:
            state, progress = saved.restore("last", initial, where)
        self.progress = Progress(**processes.from_first(lambda: progress))
        return place(processes.share(state), devices.replicated) if processes.several() else state

    def step(self, step: int, metrics: dict[str, Any], cells: int, count: int = 1) -> None:
        """Keeps the metrics of `count` training steps up to `step`, still on the device."""
        self._log.step(step, metrics, cells, count)

    def flush(self) -> None:
        """Fetches and writes what is pending.

        Raises:
            UserError: a loss or a gradient is not finite.
        """
        self._log.flush()

    def validated(self, step: int, state: TrainState, results: Validations) -> None:
        """Logs a validation and saves states. Without validation cells, the latest is the best.

        Raises:
            UserError: the loss is not finite.
        """
        metrics = mean_metrics(results)
        if metrics:
            self._log.validation(step, metrics)
        if not metrics or self.progress.update(step, metrics["loss"]):
            self._save("best", state)
        if step:
            self._save("last", state)

    def ends_early(self, patience: int | None) -> bool:
        """Whether that many validations in a row were no better; None never ends a run."""
        return patience is not None and self.progress.worse >= patience

    def interrupted(self, state: TrainState) -> None:
        """Saves what is needed to go on from here."""
        self.flush()
        # A second Ctrl-C may come in mid-step, when the old state is given away already.
        if not state.step.is_deleted():
            self._save("last", state)

    def _save(self, slot: str, state: TrainState) -> None:
        if self._checkpoints is not None:
            self._checkpoints.save(slot, state, self._spec, asdict(self.progress))


def mean_metrics(results: Validations) -> dict[str, float]:
    """Metrics over all validation sets, each cell with equal weight; empty without any."""
    if not results:
        return {}
    fetched = jax.device_get(list(results))
    weights = np.array([weight for _, weight in fetched], dtype=float)
    return {
        name: float(np.average([metrics[name] for metrics, _ in fetched], weights=weights))
        for name in fetched[0][0]
    }
