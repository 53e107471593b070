"""Noise ceiling: measured treated cells of real replicates, scored as if they were predicted.

Owns the ceiling of a stratum. Two kinds, in order of preference:

- "replicate": treated cells of other replicates of the same cell type, timepoint and perturbation,
  as far as training has them, against the stratum's treated cells;
- "split-half": half of the stratum's treated cells against the other half, by replicate where there
  are two or more, else by cell, averaged over several splits. A half is a noisier measurement than
  the whole, so correlations of deltas are corrected for length (Spearman 1910 and Brown 1910, Br.
  J. Psychol. 3),

      r_whole = 2 r_half / (1 + r_half),

  which is the correlation of two samples as large as the whole. All other metrics stay those of
  halves: errors of means are then larger than between whole samples, unbiased distances between
  populations are not. Halves by cell share their replicates, whose differences the ceiling misses.

Cells are drawn to the number of rows that a prediction has; they are not paired with control cells,
unlike a prediction's. Where rows repeat cells, distances come out a little too large. A replicate
is one more sample with its own error: a prediction of means that is learnt from many replicates can
be ahead of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from wound_jax.data.strata import Stratum

Kind = Literal["replicate", "split-half"]
Score = Callable[[list[Stratum], list[np.ndarray]], list[dict[str, float]]]

# Metrics that correlate the changes of two samples' mean profiles, to which the correction applies.
SPEARMAN_BROWN = frozenset(
    {"pearson_delta", "pearson_delta_top100", "pearson_delta_residual", "cosine_delta"}
)
# Cells of other replicates that are enough to stand for a prediction, and cells of a half.
_MIN_CELLS = 10
# Treated cells that can be cut into two halves with a distance within each.
_MIN_TO_HALVE = 4


@dataclass(frozen=True, eq=False)
class CeilingSource:
    """The measured cells that the ceiling of a stratum comes from.

    Attributes:
        stratum: the stratum.
        others: [others, genes], treated training cells of other replicates; none where the
            stratum's own cells are halved.
    """

    stratum: Stratum
    others: Float[np.ndarray, "others genes"] | None

    @property
    def kind(self) -> Kind:
        """Which of the two kinds it is."""
        return "split-half" if self.others is None else "replicate"

    def draw(self, rng: np.random.Generator) -> tuple[Stratum, Float[np.ndarray, "cells genes"]]:
        """A stratum to score on, and the measured cells that stand for its prediction."""
        stratum = self.stratum
        if self.others is not None:
            return stratum, self.others[_rows(len(self.others), stratum.n_control, rng)]
        first = _half(stratum, rng)
        replicates = stratum.treated_replicates
        truth = replace(
            stratum,
            treated=stratum.treated[~first],
            treated_replicates=None if replicates is None else replicates[~first],
        )
        pool = stratum.treated[first]
        return truth, pool[_rows(len(pool), stratum.n_control, rng)]


def ceiling_sources(
    strata: Sequence[Stratum], training: Sequence[Stratum]
) -> list[CeilingSource | None]:
    """Where the ceilings of strata come from; None where a stratum has too few treated cells.

    Args:
        strata: the strata that predictions are scored on.
        training: the training strata, where replicates are looked for. What is found is copied, so
            that they need not be kept.
    """
    return [_source(stratum, training) for stratum in strata]


def ceiling_scores(
    sources: Sequence[CeilingSource | None],
    score: Score,
    *,
    n_splits: int = 5,
    seed: int = 0,
) -> list[dict[str, float] | None]:
    """The scores of measured treated cells taken for predictions.

    Args:
        sources: of the strata that predictions are scored on, from `ceiling_sources`.
        score: from strata and predictions [n_control, genes] to a mapping metric -> value each,
            such as `score_all` with its context. Metrics of several strata see those that have a
            ceiling.
        n_splits: random halvings that split-half ceilings are averaged over; where all strata have
            replicates there is one round.
        seed: of the draws and halvings.

    Returns:
        For each stratum metric -> value, NaN where a metric is never defined; None where the
        stratum has no ceiling.
    """
    found = [source for source in sources if source is not None]
    if not found:
        return [None] * len(sources)
    rng = np.random.default_rng(seed)
    halved = any(source.kind == "split-half" for source in found)
    rounds = []
    for _ in range(n_splits if halved else 1):
        drawn = [source.draw(rng) for source in found]
        rounds.append(score([truth for truth, _ in drawn], [cells for _, cells in drawn]))
    scores = (
        _summary(source.kind, of_rounds)
        for source, of_rounds in zip(found, zip(*rounds, strict=True), strict=True)
    )
    return [None if source is None else next(scores) for source in sources]


def spearman_brown(r: float) -> float:
    """The correlation of two measurements of twice the length, from that of the halves.

    Args:
        r: correlation of the halves.

    Returns:
        2 r / (1 + r) for a positive r; any other is returned as it is, for a negative reliability
        has no length to correct for.
    """
    return 2.0 * r / (1.0 + r) if r > 0.0 else r


def _summary(kind: Kind, rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over rounds of each metric, corrected where that applies."""
    summary = {}
    for name in dict.fromkeys(name for scores in rounds for name in scores):
        values = np.array([scores.get(name, np.nan) for scores in rounds], dtype=np.float64)
        defined = values[~np.isnan(values)]
        mean = float(defined.mean()) if len(defined) else float("nan")
        corrected = kind == "split-half" and name in SPEARMAN_BROWN
        summary[name] = spearman_brown(mean) if corrected else mean
    return summary


def _source(stratum: Stratum, training: Sequence[Stratum]) -> CeilingSource | None:
    """The better of the two kinds that the cells at hand allow."""
    others = _of_others(stratum, training)
    if len(others) >= _MIN_CELLS and stratum.n_treated:
        return CeilingSource(stratum, others)
    return CeilingSource(stratum, None) if stratum.n_treated >= _MIN_TO_HALVE else None


def _of_others(stratum: Stratum, training: Sequence[Stratum]) -> Float[np.ndarray, "others genes"]:
    """Treated training cells of the same labels, of replicates known to be others."""
    labels = (stratum.cell_type, stratum.timepoint, stratum.perturbation)
    found = [stratum.treated[:0]]
    for other in training:
        same_labels = (other.cell_type, other.timepoint, other.perturbation) == labels
        if (
            same_labels
            and stratum.treated_replicates is not None
            and other.treated_replicates is not None
        ):
            new = ~np.isin(other.treated_replicates, stratum.treated_replicates)
            found.append(other.treated[new])
    return np.concatenate(found)


def _half(stratum: Stratum, rng: np.random.Generator) -> Bool[np.ndarray, " targets"]:
    """Which treated cells form the first half: those of some replicates, or any."""
    if stratum.treated_replicates is not None:
        first = _half_of_replicates(stratum.treated_replicates, rng)
        if min(first.sum(), (~first).sum()) >= _MIN_CELLS:
            return first
    return rng.permutation(stratum.n_treated) < stratum.n_treated // 2


def _half_of_replicates(
    replicates: np.ndarray, rng: np.random.Generator
) -> Bool[np.ndarray, " targets"]:
    """The cells of the replicates that fall to the first side, each in turn to the smaller one."""
    names, sizes = np.unique(replicates, return_counts=True)
    sides: tuple[list, list] = ([], [])
    cells = [0, 0]
    for i in rng.permutation(len(names)):
        smaller = int(np.argmin(cells))
        sides[smaller].append(names[i])
        cells[smaller] += int(sizes[i])
    return np.isin(replicates, sides[0])


def _rows(n_pool: int, n: int, rng: np.random.Generator) -> Int[np.ndarray, " cells"]:
    """n rows of a pool, every row equally often up to one, in random order."""
    repeats = [rng.permutation(n_pool) for _ in range(-(-n // n_pool))]
    return rng.permutation(np.concatenate(repeats)[:n])
