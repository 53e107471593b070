"""Wound markers: do registered genes move the registered way, beyond what any genes do.

A pair (stratum, gene) qualifies when the gene is registered for the stratum's cell type
(`gene_sets.WOUND_MARKERS`), differs between the arms in the held-out replicates (false discovery
rate 5 % over all registered pairs; Benjamini and Hochberg 1995, J R Stat Soc B 57:289), and moves
the registered way there. Then

    accuracy = share of qualifying pairs whose predicted change has the registered sign
    p        = (1 + #{random sets with accuracy >= that}) / (1 + number of random sets)

where a random set puts one gene of like expression in the place of each marker, so that lifting
all genes, or all genes of an expression level, earns nothing. The prediction is accepted where
p < .05 and accuracy >= .9. The second is needed: one mean cell for all types, of treated cells, is
still above most untreated cells in the genes that a wound induces, and beats random sets so.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.biology.differential import differential
from wound_jax.evaluation.biology.gene_sets import (
    FEWEST_GENES,
    WOUND_MARKERS,
    Labels,
    families_of,
    find_genes,
    not_applicable,
    require_predictions,
    signs_in,
)

# Fewer markers than this make a share that one gene can turn.
FEWEST_MARKERS = 5
_FDR = 0.05
_ALPHA = 0.05
# One mean cell for all types reaches .53 to .82 on simulated wounds, other cells of the same
# replicates .98 to 1 (six simulations, all mice and one mouse in each arm).
LEAST_ACCURACY = 0.9
_SETS = 1000
# Genes nearest in expression that may stand for a marker.
_MATCHED = 50
# On the log scale; below it a change is the rounding of float32 and has no sign.
_ROUNDING = 1e-6


class _Pairs(NamedTuple):
    """Pairs of a stratum and a registered gene, one entry each."""

    stratum: Int[np.ndarray, " pairs"]
    gene: Int[np.ndarray, " pairs"]
    sign: Int[np.ndarray, " pairs"]

    def take(self, kept: np.ndarray) -> "_Pairs":
        return _Pairs(*(column[kept] for column in self))


def wound_markers(
    strata: Sequence[Stratum],
    predictions: Sequence[np.ndarray],
    genes: Sequence[str],
    *,
    cell_types: Labels | None = None,
    seed: int = 0,
) -> dict:
    """Judge the registered wound markers (module docstring).

    Args:
        strata: the held-out strata.
        predictions: [n_control, genes] for each stratum, on the log scale of the cells.
        genes: symbols of the genes, mouse or human.
        cell_types: family -> labels, for data whose labels do not say it (`cell_types`).
        seed: seed of the random sets.

    Returns:
        "applicable"; "accepted"; "accuracy", "p_value", "null_mean" (accuracy of random sets) and
        "null_mismatch" (mean distance in expression of their genes to the markers); "size_ratio"
        (median of predicted over true change: reported, not judged); "n_qualifying" pairs of
        "n_genes" distinct genes, out of "n_tested" pairs; "n_contradicting": pairs that differ the
        other way in the held-out replicates; "strata_by": how many strata were tested by
        replicates, and by cells; "markers": each gene and how often it was right; "notes". With
        fewer than `FEWEST_MARKERS` genes the figures are given and "applicable" is False.

    Raises:
        UserError: predictions do not belong to the strata, genes to the columns, or `cell_types`
            names a family that is not known.
    """
    require_predictions(strata, predictions, genes)
    usable = [i for i, s in enumerate(strata) if min(s.n_control, s.n_treated) >= 2]
    strata, predictions = [strata[i] for i in usable], [predictions[i] for i in usable]
    tested = _registered_pairs(strata, genes, cell_types)
    measured = len(set(tested.gene.tolist()))
    if measured < FEWEST_GENES:
        return not_applicable(
            f"{measured} registered wound markers are among the {len(genes)} genes of these cell "
            f"types; at least {FEWEST_GENES} are needed"
        )
    qualifying, counts = _qualifying(strata, tested)
    if not counts["n_qualifying"]:
        reason = "no registered wound marker differs in the held-out replicates"
        return {**not_applicable(reason), **counts}
    return _verdict({**counts, **_accuracy(qualifying, strata, predictions, genes, seed)})


def _verdict(figures: dict) -> dict:
    """The figures with the verdict on them, or why there is none."""
    n_genes, n_matched = figures["n_genes"], figures["n_matched"]
    if n_genes < FEWEST_MARKERS or not n_matched:
        reason = f"{n_genes} markers qualify and {n_matched} genes can stand for them"
        return {**not_applicable(reason + ", too few for a verdict"), **figures}
    accepted = figures["p_value"] < _ALPHA and figures["accuracy"] >= LEAST_ACCURACY
    return {"applicable": True, "accepted": accepted, **figures}


def _registered_pairs(
    strata: Sequence[Stratum], genes: Sequence[str], cell_types: Labels | None
) -> _Pairs:
    """All registered pairs whose gene is measured."""
    pairs = []
    for index, stratum in enumerate(strata):
        signs = signs_in(families_of(stratum.cell_type, cell_types))
        pairs += [(index, place, signs[gene]) for gene, place in find_genes(signs, genes).items()]
    return _Pairs(*np.array(pairs, dtype=int).reshape(-1, 3).T)


def _qualifying(strata: Sequence[Stratum], tested: _Pairs) -> tuple[_Pairs, dict]:
    """The pairs that the held-out data confirm, and how they were found."""
    tests = [differential(stratum) for stratum in strata]
    p = np.array([tests[s].p_value[g] for s, g in zip(tested.stratum, tested.gene, strict=True)])
    differs = stats.false_discovery_control(p) < _FDR
    true = np.stack([stratum.mean_delta for stratum in strata])[tested.stratum, tested.gene]
    confirmed = differs & (np.sign(true) == tested.sign)
    used = [tests[s].unit for s in sorted(set(tested.stratum.tolist()))]
    by_cells = used.count("cells")
    notes = []
    if by_cells:
        notes.append(
            f"{by_cells} of {len(used)} strata have too few replicates and are tested by cells, "
            "which finds more genes than replicates would"
        )
    return tested.take(confirmed), {
        "n_tested": len(p),
        "n_qualifying": int(confirmed.sum()),
        "n_contradicting": int((differs & ~confirmed).sum()),
        "strata_by": {"replicates": len(used) - by_cells, "cells": by_cells},
        "notes": notes,
    }


def _accuracy(
    pairs: _Pairs,
    strata: Sequence[Stratum],
    predictions: Sequence[np.ndarray],
    genes: Sequence[str],
    seed: int,
) -> dict:
    """Accuracy and size of the predicted changes, and the accuracy of the random sets."""
    control = np.stack([stratum.control_mean for stratum in strata])
    moved = np.stack([p.mean(axis=0, dtype=np.float64) for p in predictions]) - control
    signs = np.where(np.abs(moved) > _ROUNDING, np.sign(moved), 0.0)
    place = pairs.stratum, pairs.gene
    right = signs[place] == pairs.sign
    true = np.stack([stratum.mean_delta for stratum in strata])[place]
    markers = {
        str(genes[gene]): {
            "right": int(right[pairs.gene == gene].sum()),
            "of": int((pairs.gene == gene).sum()),
        }
        for gene in np.unique(pairs.gene)
    }
    return {
        "accuracy": float(right.mean()),
        "size_ratio": float(np.median(moved[place] / true)),
        "n_genes": len(markers),
        "markers": markers,
        **_random_sets(pairs, signs, control, genes, int(right.sum()), seed),
    }


def _random_sets(
    pairs: _Pairs,
    signs: Float[np.ndarray, "strata genes"],
    control: Float[np.ndarray, "strata genes"],
    genes: Sequence[str],
    n_right: int,
    seed: int,
) -> dict:
    """How often random sets are right as often as `n_right`.

    One gene replaces a marker in all strata where it qualifies: pairs of one gene are not
    independent, and the random sets must share that.
    """
    registered = find_genes((marker.gene for marker in WOUND_MARKERS), genes)
    others = np.setdiff1d(np.arange(len(genes)), list(registered.values()))
    if not len(others):
        return {"p_value": np.nan, "null_mean": np.nan, "null_mismatch": np.nan, "n_matched": 0}
    rng = np.random.default_rng(seed)
    hits, gaps = np.zeros(_SETS, dtype=int), []
    for gene in np.unique(pairs.gene):
        rows, sign = (column[pairs.gene == gene] for column in (pairs.stratum, pairs.sign))
        gap = np.abs(control[rows][:, others] - control[rows, gene][:, None]).mean(axis=0)
        nearest = np.argsort(gap, kind="stable")[:_MATCHED]
        gaps.append(gap[nearest].mean())
        drawn = others[rng.choice(nearest, _SETS)]
        hits += (signs[rows][:, drawn] == sign[:, None]).sum(axis=0)
    return {
        "p_value": (1 + int((hits >= n_right).sum())) / (1 + _SETS),
        "null_mean": float(hits.mean() / len(pairs.gene)),
        "null_mismatch": float(np.mean(gaps)),
        "n_matched": min(len(others), _MATCHED),
    }
