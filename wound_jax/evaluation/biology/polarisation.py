"""Macrophage polarisation: do predicted macrophages move as those of the replicates do?

The score of a gene list is the mean of its genes minus that of control genes of like expression:

    score(cell) = mean_{g in list} x_g - mean_{g in control genes} x_g

As `scanpy.tl.score_genes` 1.11 (Satija et al. 2015, Nat Biotechnol 33:495): genes are cut into
bins by their mean, and control genes are drawn from the bins of the list. Here the bins and the
draw are those of real control cells, and the same genes then serve real and predicted cells: drawn
anew from predicted cells they would hide a delta that moves all genes.

For each score (pro-inflammatory, repair), macrophage type and timepoint:

    true change = mean score T - mean score C,   predicted change = mean score P - mean score C

The prediction is accepted when its sign is right wherever the replicates decide the sign, and when
every change lies inside the interval of the replicates (`replicate_interval`). The intervals hold
jointly: each leaves out 5 % divided by the number of changes, so that a further replicate passes
all of them at least 19 times in 20.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from wound_jax.data.strata import Stratum
from wound_jax.errors import named
from wound_jax.evaluation.biology.differential import (
    Interval,
    ReplicateChanges,
    cell_interval,
    replicate_changes,
    replicate_intervals,
)
from wound_jax.evaluation.biology.gene_sets import (
    FEWEST_GENES,
    POLARISATION,
    find_genes,
    is_macrophage,
    not_applicable,
    require_predictions,
)

# Defaults of scanpy.
_PER_BIN = 50


_BINS = 25


@dataclass(frozen=True, eq=False)
class GeneScore:
    """A score with its genes chosen.

    Attributes:
        genes: positions of the list's genes.
        controls: positions of the control genes, none of the list.
    """

    genes: Int[np.ndarray, " listed"]
    controls: Int[np.ndarray, " controls"]

    def __call__(self, cells: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, " cells"]:
        """Score of each cell, float64 [cells], in the unit of the expression."""
        listed, controls = (
            cells[:, place].mean(axis=1, dtype=np.float64) for place in (self.genes, self.controls)
        )
        return listed - controls


def fit_gene_score(
    genes: Sequence[int], cells: Float[np.ndarray, "cells genes"], seed: int
) -> GeneScore:
    """Choose the control genes of a list.

    Args:
        genes: positions of the list's genes, at least one.
        cells: the real control cells that expression is measured in.
        seed: seed of the draw.

    Returns:
        The score. Its control genes are none where every gene of these bins is in the list.
    """
    listed = np.asarray(genes, dtype=int)
    mean = pd.Series(cells.mean(axis=0, dtype=np.float64))
    per_bin = max(1, int(np.round(len(mean) / (_BINS - 1))))
    bins = (mean.rank(method="min") // per_bin).to_numpy()
    # The generator scanpy uses, so that one seed draws the same genes here and there.
    rng = np.random.RandomState(seed)
    drawn = []
    for one in np.unique(bins[listed]):
        pool = np.flatnonzero(bins == one)
        if len(pool) > _PER_BIN:
            pool = pool[rng.choice(len(pool), _PER_BIN, replace=False)]
        drawn.append(pool)
    return GeneScore(listed, np.setdiff1d(np.concatenate(drawn), listed))


_ALPHA = 0.05


# An arm with fewer cells has no spread to speak of.
_FEWEST_CELLS = 10


# On the log scale; below it a change is the rounding of float32 and has no sign.
_ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class _Scored:
    """A stratum and its prediction, seen through one score."""

    stratum: Stratum
    control: Float[np.ndarray, " cells"]
    treated: Float[np.ndarray, " targets"]
    predicted: Float[np.ndarray, " cells"]

    @property
    def replicates(self) -> ReplicateChanges:
        return replicate_changes(self.stratum, self.control, self.treated)


def polarisation(
    strata: Sequence[Stratum],
    predictions: Sequence[np.ndarray],
    genes: Sequence[str],
    *,
    training: Sequence[Stratum] = (),
    cell_types: Collection[str] | None = None,
    seed: int = 0,
) -> dict:
    """Judge the polarisation of predicted macrophages (module docstring).

    Args:
        strata: the held-out strata, of all cell types.
        predictions: [n_control, genes] for each stratum, on the log scale of the cells.
        genes: symbols of the genes, mouse or human.
        training: training strata, whose replicates widen the comparison where held-out ones are
            few.
        cell_types: labels that count as macrophages or monocytes; None matches them by words
            (`cell_types.is_macrophage`).
        seed: seed of the control genes.

    Returns:
        "applicable"; "accepted"; "signs_right" of "signs_judged"; "inside" of "n_values";
        "scores": {score: genes found and their source}; "values": one row a score and stratum
        (changes, interval, what the interval is made of, verdicts); "notes".

    Raises:
        UserError: predictions do not belong to the strata, or genes to the columns.
    """
    require_predictions(strata, predictions, genes)
    chosen = _macrophages(strata, predictions, cell_types)
    if not chosen:
        return not_applicable(_no_macrophages(strata))
    scores, listed = _fit_scores(genes, np.concatenate([s.control for s, _ in chosen]), seed)
    if not scores:
        return {**not_applicable(_no_genes(listed)), "scores": listed}
    alpha = _ALPHA / (len(chosen) * len(scores))
    values = [
        row
        for name, score in scores.items()
        for row in _judge_score(name, score, chosen, training, alpha)
    ]
    return {**_verdict(values), "scores": listed, "values": values, "notes": _notes(values, listed)}


def _macrophages(
    strata: Sequence[Stratum],
    predictions: Sequence[np.ndarray],
    cell_types: Collection[str] | None,
) -> list[tuple[Stratum, np.ndarray]]:
    """The strata to judge, with their predictions."""
    return [
        (stratum, predicted)
        for stratum, predicted in zip(strata, predictions, strict=True)
        if is_macrophage(stratum.cell_type, cell_types)
        and min(stratum.n_control, stratum.n_treated) >= _FEWEST_CELLS
    ]


def _no_macrophages(strata: Sequence[Stratum]) -> str:
    seen = named(sorted({stratum.cell_type for stratum in strata}))
    return (
        f"no held-out stratum of macrophages or monocytes with {_FEWEST_CELLS} cells in both arms "
        f"(cell types: {seen or 'none'}); name them if they go by another label"
    )


def _no_genes(listed: dict[str, dict]) -> str:
    found = ", ".join(f"{name} {one['n_found']}" for name, one in listed.items())
    return f"fewer than {FEWEST_GENES} genes, or no control genes, of each list: {found}"


def _fit_scores(
    genes: Sequence[str], controls: Float[np.ndarray, "cells genes"], seed: int
) -> tuple[dict[str, GeneScore], dict[str, dict]]:
    """The scores that can be computed, and what was found of every list."""
    scores, listed = {}, {}
    for name, wanted in POLARISATION.items():
        found = find_genes(wanted.genes, genes)
        fitted = fit_gene_score(list(found.values()), controls, seed) if found else None
        n_controls = len(fitted.controls) if fitted else 0
        listed[name] = {
            "n_genes": len(wanted.genes),
            "n_found": len(found),
            "found": list(found),
            "n_control_genes": n_controls,
            "source": wanted.source,
        }
        if fitted and len(found) >= FEWEST_GENES and n_controls:
            scores[name] = fitted
    return scores, listed


def _judge_score(
    name: str,
    score: GeneScore,
    chosen: Sequence[tuple[Stratum, np.ndarray]],
    training: Sequence[Stratum],
    alpha: float,
) -> list[dict]:
    """One row for each stratum; the timepoints of a type are judged together."""
    groups: dict[tuple[str, str], list[_Scored]] = {}
    for stratum, predicted in chosen:
        scored = _Scored(stratum, score(stratum.control), score(stratum.treated), score(predicted))
        groups.setdefault((stratum.cell_type, stratum.perturbation), []).append(scored)
    rows = []
    for group in groups.values():
        for scored, interval in zip(group, _intervals(group, score, training, alpha), strict=True):
            rows.append({"score": name, **_row(scored, interval)})
    return rows


def _intervals(
    group: Sequence[_Scored], score: GeneScore, training: Sequence[Stratum], alpha: float
) -> list[Interval]:
    """Intervals of the held-out replicates, else with those of training, else of cells."""
    held_out = [one.replicates for one in group]
    found = replicate_intervals(held_out, alpha, "held-out replicates")
    if found is None:
        keys = [one.stratum.key for one in group]
        trained = {
            s.key: replicate_changes(s, score(s.control), score(s.treated))
            for s in training
            if s.key in keys and s.n_treated
        }
        nobody = ReplicateChanges({}, frozenset())
        joined = [
            own.joined(trained.get(key, nobody)) for own, key in zip(held_out, keys, strict=True)
        ]
        found = replicate_intervals(joined, alpha, "held-out and training replicates")
    return found or [cell_interval(one.control, one.treated, alpha) for one in group]


def _row(scored: _Scored, interval: Interval) -> dict:
    """The figures and verdicts of one score in one stratum."""
    stratum = scored.stratum
    base = scored.control.mean()
    true, predicted = float(scored.treated.mean() - base), float(scored.predicted.mean() - base)
    # A held-out replicate that goes against the others leaves the sign open.
    judged = interval.sign != 0 and np.sign(true) == interval.sign
    right = bool(predicted * interval.sign > _ROUNDING) if judged else None
    inside = interval.low <= predicted <= interval.high
    return {
        "cell_type": stratum.cell_type,
        "timepoint": stratum.timepoint,
        "perturbation": stratum.perturbation,
        "true_change": true,
        "predicted_change": predicted,
        "low": interval.low,
        "high": interval.high,
        "interval_from": interval.source,
        "n_replicates": interval.n_replicates,
        "sign_right": right,
        "inside": inside,
    }


def _verdict(values: Sequence[dict]) -> dict:
    """Accepted where all judged signs are right and all values inside."""
    signs = [row["sign_right"] for row in values if row["sign_right"] is not None]
    inside = [row["inside"] for row in values]
    counts = {
        "signs_right": sum(signs),
        "signs_judged": len(signs),
        "inside": sum(inside),
        "n_values": len(inside),
    }
    if not signs:
        reason = "no score changes by more than the replicates or cells vary, so no sign is decided"
        return {**not_applicable(reason), **counts}
    return {"applicable": True, "accepted": all(signs) and all(inside), **counts}


def _notes(values: Sequence[dict], listed: dict[str, dict]) -> list[str]:
    """What a reader must know to weigh the verdict."""
    notes = [
        f"{name}: {one['n_found']} of {one['n_genes']} genes are measured and "
        f"{one['n_control_genes']} control genes were found; not scored"
        for name, one in listed.items()
        if all(row["score"] != name for row in values)
    ]
    sources = {row["interval_from"] for row in values}
    if "held-out and training replicates" in sources:
        notes.append("too few held-out replicates for an interval: training replicates were added")
    if "cells" in sources:
        notes.append(
            "too few replicates for an interval: it is made of cells, leaves out how replicates "
            "differ, and is therefore narrow"
        )
    undecided = sum(row["sign_right"] is None for row in values)
    if undecided:
        notes.append(f"{undecided} of {len(values)} true changes are too small to have a sign")
    return notes
