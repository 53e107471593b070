"""What a metric is computed from: one stratum, its prediction, and what several metrics share.

Owns the choice of cells. Sets that are compared hold equally many cells, n = min(n_control,
n_treated, cap), drawn without replacement by (seed, stratum). Predictions are taken at the control
cells that were drawn, so that all predictions of a stratum meet the same cells and differences
between them are paired.
"""

import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, overload

import numpy as np
from jaxtyping import Float, Int

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.context import ScoreContext

# Against the size of the mean control cell: below it a delta is the rounding of float32 means.
ZERO_DELTA = 1e-6

S = TypeVar("S", bound="Memo")
T = TypeVar("T")


class Memo:
    """Something that several metrics compute the same figure from, those of a user's own included.

    Attributes:
        memory: function -> what it returned; it goes with the object.
    """

    memory: dict[Callable, Any]

    def once(self: S, compute: Callable[[S], T]) -> T:
        """`compute(self)`, computed at the first request only."""
        if compute not in self.memory:
            self.memory[compute] = compute(self)
        return self.memory[compute]


def once_for_all(memos: Sequence[S], compute: Callable[[Sequence[S]], Sequence[T]]) -> list[T]:
    """What a function gives for each of several, in one call for those that lack it."""
    new = [memo for memo in memos if compute not in memo.memory]
    for memo, value in zip(new, compute(new) if new else (), strict=True):
        memo.memory[compute] = value
    return [memo.memory[compute] for memo in memos]


@dataclass(frozen=True, eq=False)
class RealStratum(Memo):
    """The real cells of a stratum as metrics need them, the same for every prediction.

    Attributes:
        stratum: the real cells.
        context: what is known from training cells.
        memory: see `Memo`.
    """

    stratum: Stratum
    context: ScoreContext
    memory: dict[Callable, Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def order(self) -> tuple[Int[np.ndarray, " cells"], Int[np.ndarray, " cells"]]:
        """Positions of the control and treated cells that were drawn, in the order of drawing."""
        stratum = self.stratum
        n = min(stratum.n_control, stratum.n_treated, self.context.max_cells)
        rng = np.random.default_rng([self.context.seed, zlib.crc32(stratum.key.encode())])
        control = rng.choice(stratum.n_control, n, replace=False)
        return control, rng.choice(stratum.n_treated, n, replace=False)

    def first_drawn(self, n: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Where the n control and n treated cells that were drawn first stand in the samples."""
        control, treated = self.order
        return np.argsort(np.argsort(control))[:n], np.argsort(np.argsort(treated))[:n]

    def samples(self, n: int) -> tuple[Float[np.ndarray, "n genes"], Float[np.ndarray, "n genes"]]:
        """The n control and n treated cells that were drawn first, or all that were drawn."""
        control, treated = (order[:n] for order in self.order)
        return take(self.stratum.control, control), take(self.stratum.treated, treated)

    @cached_property
    def projected(self) -> tuple[Float[np.ndarray, "n dims"], Float[np.ndarray, "n dims"]]:
        """All control and treated cells that were drawn, on the training components."""
        control, treated = self.samples(self.context.max_cells)
        return self.context.project(control), self.context.project(treated)

    @cached_property
    def non_negative(self) -> bool:
        """Whether no real cell of the stratum holds a negative value."""
        arms = (self.stratum.control, self.stratum.treated)
        return all(not arm.size or bool(arm.min() >= 0) for arm in arms)


@dataclass(frozen=True, eq=False)
class Comparison(Memo):
    """One stratum, its prediction, and the quantities that several metrics share.

    Attributes:
        real: the real cells, and what is computed from them alone.
        predicted: [n_control, genes], row i made from control cell i.
        memory: see `Memo`.
    """

    real: RealStratum
    predicted: Float[np.ndarray, "cells genes"]
    memory: dict[Callable, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def stratum(self) -> Stratum:
        """The real cells."""
        return self.real.stratum

    @property
    def context(self) -> ScoreContext:
        """What is known from training cells."""
        return self.real.context

    @cached_property
    def true_delta(self) -> Float[np.ndarray, " genes"]:
        """Mean treated minus mean control cell, float64."""
        return self.stratum.mean_delta

    @cached_property
    def predicted_delta(self) -> Float[np.ndarray, " genes"]:
        """Mean predicted minus mean control cell, float64."""
        return self.predicted.mean(axis=0, dtype=np.float64) - self.stratum.control_mean

    @cached_property
    def predicts_no_change(self) -> bool:
        """Whether the predicted delta is zero up to rounding."""
        size = np.linalg.norm(self.predicted_delta)
        return bool(size <= ZERO_DELTA * np.linalg.norm(self.stratum.control_mean))

    @property
    def samples(
        self,
    ) -> tuple[
        Float[np.ndarray, "n genes"], Float[np.ndarray, "n genes"], Float[np.ndarray, "n genes"]
    ]:
        """Control, treated and predicted cells, at most `context.max_cells` of each."""
        return self._drawn(self.context.max_cells)

    @cached_property
    def gene_samples(
        self,
    ) -> tuple[
        Float[np.ndarray, "n genes"], Float[np.ndarray, "n genes"], Float[np.ndarray, "n genes"]
    ]:
        """Control, treated and predicted cells, at most `context.max_gene_cells` of each."""
        return self._drawn(self.context.max_gene_cells)

    @cached_property
    def projected(
        self,
    ) -> tuple[
        Float[np.ndarray, "n dims"], Float[np.ndarray, "n dims"], Float[np.ndarray, "n dims"]
    ]:
        """`samples` on the training components."""
        predicted = take(self.predicted, self.real.order[0])
        return *self.real.projected, self.context.project(predicted)

    def _drawn(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return *self.real.samples(n), take(self.predicted, self.real.order[0][:n])


class Comparisons(Memo, Sequence[Comparison]):
    """The comparisons of all strata with the predictions of one method."""

    def __init__(self, items: Sequence[Comparison]):
        self.memory = {}
        self._items = tuple(items)

    @overload
    def __getitem__(self, index: int) -> Comparison: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Comparison, ...]: ...

    def __getitem__(self, index: int | slice) -> Comparison | tuple[Comparison, ...]:
        """One comparison, or several."""
        return self._items[index]

    def __len__(self) -> int:
        """The number of strata."""
        return len(self._items)

    def __iter__(self) -> Iterator[Comparison]:
        """The comparisons in the order of the strata."""
        return iter(self._items)

    def grouped(self, key: Callable[[Stratum], Hashable]) -> list[list[int]]:
        """Positions of the strata that share a key, group by group."""
        groups: dict[Hashable, list[int]] = {}
        for position, comparison in enumerate(self):
            groups.setdefault(key(comparison.stratum), []).append(position)
        return list(groups.values())


def take(
    cells: Float[np.ndarray, "cells genes"], drawn: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n genes"]:
    """The drawn cells in their own order; not copied where all were drawn."""
    return cells if len(drawn) == len(cells) else cells[np.sort(drawn)]
