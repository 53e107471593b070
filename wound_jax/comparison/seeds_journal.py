"""What several seeds that train together leave: to each its own folder, as if it were alone."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import jax

from wound_jax.comparison.seed_axis import SeedAxis
from wound_jax.journal import Journal, Validations
from wound_jax.sharding import Devices
from wound_jax.train_step import TrainState


class SeedsJournal:
    """The journals of all seeds as one; use as a context manager.

    Each seed has its own validation, and so its own best state.

    Args:
        journals: one a seed, not yet entered.
        axis: how the seeds lie.
    """

    def __init__(self, journals: Sequence[Journal], axis: SeedAxis):
        self._journals = list(journals)
        self._axis = axis
        self._open = ExitStack()
        # (last step, metrics of all seeds, cells of each seed, number of steps)
        self._pending: list[tuple[int, dict[str, jax.Array], int, int]] = []

    def __enter__(self) -> "SeedsJournal":
        for journal in self._journals:
            self._open.enter_context(journal)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def begin(
        self, initial: TrainState, devices: Devices, *, resume: bool
    ) -> tuple[TrainState, int]:
        """The states to start from, and their step.

        Raises:
            ValueError: to resume, the seeds were saved at different steps.
        """
        begun = [
            journal.begin(state, devices, resume=resume)
            for journal, state in zip(self._journals, self._axis.divide(initial), strict=True)
        ]
        starts = {start for _, start in begun}
        if len(starts) > 1:
            raise ValueError(f"the seeds are at the steps {sorted(starts)}; train them apart.")
        stacked = self._axis.stack([state for state, _ in begun])
        return jax.device_put(stacked, self._axis.states), starts.pop()

    def step(self, step: int, metrics: dict[str, Any], cells: int, count: int = 1) -> None:
        """Keeps the metrics of `count` steps of all seeds up to `step`, still on the devices."""
        self._pending.append((step, metrics, round(cells / self._axis.size), count))

    def flush(self) -> None:
        """Fetches what is pending and writes it to each seed's log.

        Raises:
            UserError: a loss or a gradient of some seed is not finite.
        """
        pending, self._pending = self._pending, []
        fetched = jax.device_get([metrics for _, metrics, _, _ in pending])
        for i, journal in enumerate(self._journals):
            for (step, _, cells, count), metrics in zip(pending, fetched, strict=True):
                journal.step(step, _of_seed(metrics, i), cells, count)
            journal.flush()

    def validated(self, step: int, state: TrainState, results: Validations) -> None:
        """Logs a validation of each seed and saves its states.

        Raises:
            UserError: the loss of some seed is not finite.
        """
        fetched, states = jax.device_get(list(results)), self._axis.divide(state)
        for i, journal in enumerate(self._journals):
            own = [(_of_seed(metrics, i), weights[i]) for metrics, weights in fetched]
            journal.validated(step, states[i], own)

    def ends_early(self, patience: int | None) -> bool:
        """Never.

        Raises:
            ValueError: early stopping is asked for; it ends each seed at a step of its own.
        """
        if patience is not None:
            raise ValueError("seeds with early stopping end at different steps; train them apart.")
        return False

    def interrupted(self, state: TrainState) -> None:
        """Saves what each seed needs to go on from here."""
        self.flush()
        # A second Ctrl-C may come in mid-step, when the old state is given away already.
        if state.step.is_deleted():
            return
        for journal, one in zip(self._journals, self._axis.divide(state), strict=True):
            journal.interrupted(one)


def _of_seed(metrics: dict[str, Any], i: int) -> dict[str, Any]:
    """The metrics of one seed; those of several steps have the axes `steps` and `seeds`."""
    return {name: values[..., i] for name, values in metrics.items()}
