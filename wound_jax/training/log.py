"""Training log: metrics.jsonl, TensorBoard curves, a progress bar, `best` and `last` states.

Metrics stay on the device until a log step; then all pending ones are fetched at once, so that
logging every step's loss costs no wait in between. Validation figures are means over the
validation sets in which each measured cell counts alike. The loop (`wound_jax.training.loop`) says
when; here is what is kept then. Of several processes the first keeps everything; the others come
to the same decisions from the same figures.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from wound_jax.data.spec import DataSpec
from wound_jax.devices import processes
from wound_jax.devices.mesh import Devices, one_device, own_copy, place
from wound_jax.errors import UserError
from wound_jax.files import reason, write_text
from wound_jax.training.checkpoint import Checkpoints
from wound_jax.training.curves import Curves
from wound_jax.training.diverged import NotFinite
from wound_jax.training.step import TrainState

# What is not finite here makes the state worthless: the run ends before it is saved.
_FINITE = ("train/loss", "train/grad_norm", "val/loss")

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


class TrainingLog:
    """Metrics, checkpoints and progress of one run; use as a context manager.

    Args:
        folder: the run folder.
        spec: stored with each checkpoint.
        total_steps: length of the run.
        progress_bar: whether to draw one.
        slot: the checkpoint that a resumed run goes on from.
        tolerated: how many steps in a row may be without a finite loss, as their update is skipped.
    """

    def __init__(
        self,
        folder: Path,
        spec: DataSpec,
        total_steps: int,
        *,
        progress_bar: bool = True,
        slot: str = "last",
        tolerated: int = 0,
    ):
        self.progress = Progress()
        self._folder = folder
        self._spec = spec
        self._total_steps = total_steps
        self._progress_bar = progress_bar
        self._slot = slot
        self._tolerated = tolerated
        self._open = ExitStack()
        # Both None on a process that is not the first.
        self._checkpoints: Checkpoints | None = None
        self._writer: _Writer | None = None
        # (last step, number of steps, their metrics)
        self._pending: list[tuple[int, int, dict]] = []
        self._cells = 0
        self._clock = time.perf_counter()

    def __enter__(self) -> "TrainingLog":
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
            self._writer = _Writer(self._folder, self._total_steps, start, self._progress_bar)
            self._open.callback(self._writer.close)
        self._clock = time.perf_counter()
        return state, start

    def _resumed(self, initial: TrainState, devices: Devices) -> TrainState:
        """The state that was saved, with its progress, or the initial one."""
        saved, slot = self._checkpoints, self._slot
        if not processes.from_first(lambda: saved is not None and saved.has(slot)):
            return initial
        # The first process reads and tells the others; alone it reads to where the state shall lie.
        where = one_device() if processes.several() else devices
        state, progress = own_copy(initial), asdict(self.progress)
        if saved is not None:
            state, progress = saved.restore(slot, initial, where)
            # Where it goes on from another one, that becomes the last, in place of what is there.
            saved.save("last", state, self._spec, progress)
        self.progress = Progress(**processes.from_first(lambda: progress))
        return place(processes.share(state), devices.replicated) if processes.several() else state

    def step(self, step: int, metrics: dict[str, Any], cells: int, count: int = 1) -> None:
        """Keeps the metrics of training steps, still on the device.

        Args:
            step: number of steps done, these included.
            metrics: scalars of one step, or arrays `[steps]` of several.
            cells: measured cells that they saw.
            count: how many steps.
        """
        self._pending.append((step, count, metrics))
        self._cells += cells

    def flush(self) -> None:
        """Fetches and writes what is pending.

        Raises:
            NotFinite: a loss or a gradient is not finite.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        records = _fetched(pending)
        now = time.perf_counter()
        rate = {"train/cells_per_second": self._cells / max(now - self._clock, 1e-9)}
        self._clock, self._cells = now, 0
        for step, metrics in records:
            values = {f"train/{name}": v for name, v in metrics.items()}
            self._write(step, values | (rate if step == pending[-1][0] else {}))
        if self._writer:
            step, metrics = records[-1]
            self._writer.advance(step, metrics["loss"])

    def validated(self, step: int, state: TrainState, results: Validations) -> None:
        """Logs a validation and saves states. Without validation cells, the latest is the best.

        Raises:
            NotFinite: the loss is not finite.
        """
        metrics = mean_metrics(results)
        if metrics:
            self._write(step, {f"val/{name}": v for name, v in metrics.items()})
            # The time validation took is not the training's.
            self._clock = time.perf_counter()
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

    def _write(self, step: int, values: dict[str, float]) -> None:
        """Writes figures of one step, and ends a run that diverges."""
        if self._writer:
            self._writer.write(step, values)
        if 0 < values.get("train/skipped_in_a_row", 0) <= self._tolerated:
            return
        for name in _FINITE:
            if not math.isfinite(values.get(name, 0.0)):
                raise NotFinite(name, step, values)

    def _save(self, slot: str, state: TrainState) -> None:
        if self._checkpoints is not None:
            self._checkpoints.save(slot, state, self._spec, asdict(self.progress))


class _Writer:
    """The files that metrics are written to, and the bar.

    Args:
        folder: the run folder.
        total_steps: length of the run, for the bar's estimate.
        start_step: steps done before; what was logged after them is dropped, and all if 0.
        progress_bar: whether to draw the bar.
    """

    def __init__(self, folder: Path, total_steps: int, start_step: int, progress_bar: bool):
        self._folder = folder
        path = folder / "metrics.jsonl"
        _keep_until(path, start_step)
        with self._one_line():
            self._file = path.open("a")
            self._curves = Curves(folder / "tb", start_step)
        self._bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            disable=not progress_bar,
            smoothing=0.1,
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        # JSON has no NaN: a figure that is not finite is null.
        plain = {name: v if math.isfinite(v) else None for name, v in values.items()}
        with self._one_line():
            self._file.write(json.dumps({"step": step, **plain}) + "\n")
            self._file.flush()
            self._curves.write(step, values)

    def advance(self, step: int, loss: float) -> None:
        self._bar.set_postfix(loss=f"{float(loss):.4f}", refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()
        # All was written; where the disk refused that, it was said then.
        for file in (self._file, self._curves):
            with suppress(OSError):
                file.close()

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Says in one line what the disk refused, and how to go on."""
        try:
            yield
        except OSError as e:
            raise UserError(
                f"the log of {self._folder} could not be written: {reason(e)}. Make room, and go "
                f"on from the last state by: python -m wound_jax.train --resume {self._folder}"
            ) from e


def _fetched(pending: Sequence[tuple[int, int, dict]]) -> list[tuple[int, dict[str, float]]]:
    """Fetches pending metrics: each step with its own."""
    fetched = jax.device_get([metrics for _, _, metrics in pending])
    return [
        (last - count + 1 + i, {name: float(np.reshape(v, count)[i]) for name, v in of.items()})
        for (last, count, _), of in zip(pending, fetched, strict=True)
        for i in range(count)
    ]


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


def read_metrics(folder: Path) -> list[dict]:
    """All records of a run's `metrics.jsonl`, in order; none where the file is missing."""
    path = folder / "metrics.jsonl"
    return [record for _, record in _records(path)] if path.exists() else []


def _keep_until(path: Path, step: int) -> None:
    """Drops the records after a step, and all before the first: a resumed run writes them again."""
    if path.exists():
        kept = [line for line, record in _records(path) if step and record["step"] <= step]
        write_text(path, "".join(line + "\n" for line in kept))


def _records(path: Path) -> Iterator[tuple[str, dict]]:
    """Each line with its record, but for one that a crash cut short."""
    for line in path.read_text().splitlines():
        try:
            yield line, json.loads(line)
        except json.JSONDecodeError:
            continue
