"""Small strata with a known response, for the tests of the metrics."""

import numpy as np

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.context import ScoreContext, fit_context
from wound_jax.evaluation.metrics import score_all

N_GENES = 60


def sparse_cells(rng: np.random.Generator, n: int, level: np.ndarray) -> np.ndarray:
    """Cells like log-normalised counts: many zeros, mean rising with `level`."""
    counts = rng.poisson(np.clip(level, 0.0, None), size=(n, len(level)))
    return np.log1p(counts).astype(np.float32)


def make_stratum(
    seed: int,
    name: str = "Fib",
    n: tuple[int, int] = (90, 120),
    timepoint: str | None = "day10",
    perturbation: str = "Burn",
) -> Stratum:
    """A type with its own profile in which the first 12 genes respond."""
    rng = np.random.default_rng(seed)
    level = rng.gamma(0.6, 1.0, size=N_GENES)
    response = np.zeros(N_GENES)
    response[:12] = rng.uniform(1.0, 4.0, size=12)
    control = sparse_cells(rng, n[0], level)
    treated = sparse_cells(rng, n[1], level + response)
    return Stratum(name, timepoint, control, treated, perturbation)


def context_of(*training: Stratum, n_pcs: int = 20, n_top: int = 15) -> ScoreContext:
    cells = np.concatenate([arm for s in training for arm in (s.control, s.treated)])
    return fit_context(training, cells, n_pcs=n_pcs, n_top_genes=n_top, seed=0)


def score(stratum: Stratum, predicted: np.ndarray, context: ScoreContext) -> dict[str, float]:
    """The metrics of one stratum on its own."""
    return score_all([stratum], [predicted], context)[0]


def energy_float64(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased squared energy distance by its definition."""
    n, m = len(x), len(y)
    within = distances_float64(x, x).sum() / (n * (n - 1))
    within += distances_float64(y, y).sum() / (m * (m - 1))
    return float(2 * distances_float64(x, y).mean() - within)


def distances_float64(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None].astype(np.float64) - b[None].astype(np.float64), axis=-1)
