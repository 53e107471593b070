"""The training loop.

Order of operations, for each step k = 0, 1, ...:
    1. the epoch's plan, when k enters a new epoch (a pure function of (seed, epoch));
    2. the step on batch k of that plan, dispatched without waiting;
    3. every `log_every` steps: pending metrics are fetched and written;
    4. every `val_every` steps and at the end: validation on the fixed sets, `best` and `last`
       checkpoints, early stopping.
A run resumed at step k repeats none of this and equals one that went straight through.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np

from wound_jax.assemble import Run
from wound_jax.checkpoint import Checkpoints
from wound_jax.config.schema import TrainingConfig
from wound_jax.data.plan import SetPlan
from wound_jax.data.spec import DataSpec
from wound_jax.errors import UserError
from wound_jax.interruption import HeldInterrupt
from wound_jax.runlog import RunLog
from wound_jax.train_step import TrainState


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


class Loop:
    """Trains one run to its end.

    Args:
        run: what `wound_jax.assemble` put together.
        config: the rhythm of logs and validation.
        spec: stored with each checkpoint.
        folder: the run folder.
        progress_bar: whether to draw one.

    Raises:
        UserError: early stopping is asked for, and there are no validation cells to judge by.
    """

    def __init__(
        self,
        run: Run,
        config: TrainingConfig,
        spec: DataSpec,
        folder: Path,
        *,
        progress_bar: bool = True,
    ):
        if config.early_stopping is not None and not run.validation:
            raise UserError(
                f"training.early_stopping={config.early_stopping} needs validation cells, and the "
                "split leaves none; hold some out (split.val or split.val_fraction), or set "
                "training.early_stopping=null."
            )
        self._run = run
        self._config = config
        self._spec = spec
        self._folder = folder
        self._progress_bar = progress_bar

    def train(self, *, resume: bool = False) -> Progress:
        """Trains, from the start or from the last checkpoint, and returns what was reached.

        On an interrupt the state is saved first, so that `--resume` goes on from there.

        Raises:
            UserError: a loss or a gradient is not finite.
        """
        with Checkpoints(self._folder) as checkpoints:
            state, progress = self._run.state, Progress()
            if resume and checkpoints.has("last"):
                state, saved = checkpoints.restore("last", state, self._run.devices)
                progress = Progress(**saved)
            start = int(state.step)
            with RunLog(self._folder, self._run.total_steps, start, self._progress_bar) as log:
                if start == 0:
                    # Also where a run was interrupted before its first step: it starts anew.
                    progress = Progress()
                    self._validate(state, 0, progress, log, checkpoints)
                return self._train(state, progress, start, log, checkpoints)

    def _train(
        self,
        state: TrainState,
        progress: Progress,
        start: int,
        log: RunLog,
        checkpoints: Checkpoints,
    ) -> Progress:
        plan: list[SetPlan] = []
        with HeldInterrupt() as interrupt:
            try:
                for k in range(start, self._run.total_steps):
                    if self._stop_early(progress):
                        break
                    epoch, i = divmod(k, self._run.batches_per_epoch)
                    if i == 0 or not plan:
                        plan = self._run.plans.epoch(epoch).batches(self._config.batch_size)
                    batch = self._run.feed.batch(plan[i])
                    state, metrics = self._run.step(state, self._run.feed.store, batch)
                    log.step(k + 1, metrics, int(plan[i].target_mask.sum()))
                    if (k + 1) % self._config.log_every == 0:
                        log.flush()
                    if (k + 1) % self._config.val_every == 0 or k + 1 == self._run.total_steps:
                        log.flush()
                        self._validate(state, k + 1, progress, log, checkpoints)
                    interrupt.check()
            except KeyboardInterrupt:
                log.flush()
                # A second Ctrl-C may come in mid-step, when the old state is given away already.
                if not state.step.is_deleted():
                    checkpoints.save("last", state, self._spec, asdict(progress))
                raise
        return progress

    def _validate(
        self,
        state: TrainState,
        step: int,
        progress: Progress,
        log: RunLog,
        checkpoints: Checkpoints,
    ) -> None:
        """Validation and checkpoints. Without validation cells, the latest state is the best."""
        metrics = self.validation_metrics(state)
        if metrics:
            log.validation(step, metrics)
        if not metrics or progress.update(step, metrics["loss"]):
            checkpoints.save("best", state, self._spec, asdict(progress))
        if step:
            checkpoints.save("last", state, self._spec, asdict(progress))

    def validation_metrics(self, state: TrainState) -> dict[str, float]:
        """Metrics over the validation sets, each cell with equal weight; empty without any."""
        results = [
            self._run.evaluate(state.parameters, self._run.feed.store, batch)
            for batch in self._run.validation
        ]
        if not results:
            return {}
        fetched = jax.device_get(results)
        weights = np.array([weight for _, weight in fetched], dtype=float)
        names = fetched[0][0]
        return {
            name: float(np.average([metrics[name] for metrics, _ in fetched], weights=weights))
            for name in names
        }

    def _stop_early(self, progress: Progress) -> bool:
        patience = self._config.early_stopping
        return patience is not None and progress.worse >= patience
