"""Strata of simulated replicates, and the figures of weighted cells computed the slow way."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.context import ScoreContext, fit_context

N_GENES = 24


def stratum(
    cell_type: str,
    control: Sequence[str],
    treated: Sequence[str],
    *,
    timepoint: str | None = None,
    perturbation: str = "Burn",
    seed: int = 0,
) -> Stratum:
    """A stratum from the replicate of each cell; replicates, arms and genes differ."""
    rng = np.random.default_rng([seed, *map(ord, f"{cell_type}{timepoint}{perturbation}")])
    own = {replicate: rng.normal(0, 0.3, N_GENES) for replicate in sorted({*control, *treated})}
    effect = rng.normal(0, 1.0, N_GENES) * (np.arange(N_GENES) % 3 == 0)

    def cells(replicates: Sequence[str], shift: np.ndarray) -> np.ndarray:
        base = 3 + np.arange(N_GENES) / 8 + shift
        noise = rng.normal(size=(len(replicates), N_GENES))
        return (base + np.stack([own[replicate] for replicate in replicates]) + noise).astype(
            np.float32
        )

    return Stratum(
        cell_type=cell_type,
        timepoint=timepoint,
        control=cells(control, np.zeros(N_GENES)),
        treated=cells(treated, effect),
        perturbation=perturbation,
        control_replicates=np.array(control),
        treated_replicates=np.array(treated),
    )


def replicates(*counts: tuple[str, int]) -> list[str]:
    """Labels of cells, so many of each replicate, in mixed order."""
    labels = [name for name, n in counts for _ in range(n)]
    return list(np.random.default_rng(len(labels)).permutation(labels))


def context_of(strata: Sequence[Stratum], max_cells: int = 1024) -> ScoreContext:
    cells = np.concatenate([arm for s in strata for arm in (s.control, s.treated)])
    return fit_context(strata, cells, n_pcs=6, n_top_genes=9, seed=3, max_cells=max_cells)


def guesses(strata: Sequence[Stratum]) -> dict[str, list[np.ndarray]]:
    """A model that is half right with noise, no change at all, and one cell for all."""
    rng = np.random.default_rng(7)
    half = [s.control + 0.5 * s.mean_delta + rng.normal(0, 0.2, s.control.shape) for s in strata]
    return {
        "model": [cells.astype(np.float32) for cells in half],
        "identity": [s.control for s in strata],
        "collapsed": [np.repeat(s.treated.mean(0, keepdims=True), s.n_control, 0) for s in strata],
    }


def repeated(labels: np.ndarray, copies: dict[str, int]) -> np.ndarray:
    """Positions of the cells, each as often as its replicate was drawn."""
    return np.repeat(np.arange(len(labels)), [copies[str(label)] for label in labels])


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) else 0.0


def energy(x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> float:
    """E^2 of repeated cells in float64; `of_x` and `of_y` tell which are copies of one cell."""

    def within(points: np.ndarray, which: np.ndarray) -> float:
        different = which[:, None] != which[None, :]
        return cdist(points, points)[different].mean() if different.any() else np.nan

    if not len(x) or not len(y):
        return np.nan
    return 2 * cdist(x, y).mean() - within(x, of_x) - within(y, of_y)


def slow_figures(
    s: Stratum,
    predicted: np.ndarray,
    context: ScoreContext,
    copies: dict[str, int],
    chosen: tuple[np.ndarray, np.ndarray],
) -> list[float]:
    """The four headline figures of one stratum with every cell written out as often as drawn."""
    assert s.control_replicates is not None
    assert s.treated_replicates is not None
    c, t = repeated(s.control_replicates, copies), repeated(s.treated_replicates, copies)
    if not len(c) or not len(t):
        return [np.nan] * 4
    control, made, treated = (
        cells[which].mean(axis=0, dtype=np.float64)
        for cells, which in ((s.control, c), (predicted, c), (s.treated, t))
    )
    top = context.top_genes_of(s)
    c, t = (
        sample[repeated(labels[sample], copies)]
        for sample, labels in zip(chosen, (s.control_replicates, s.treated_replicates), strict=True)
    )
    points = context.project(s.treated[t])
    effect, remaining = (
        energy(context.project(cells[c]), points, c, t) for cells in (s.control, predicted)
    )
    return [
        correlation(made - control, treated - control),
        correlation((made - control)[top], (treated - control)[top]),
        float(np.square(made - treated).mean()),
        remaining / effect if effect > 0 else np.nan,
    ]
