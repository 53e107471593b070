"""The metrics of one stratum, one registered function each.

Owns how good a prediction is, in numbers. Each metric names its best value, from which tables
take the better direction; None marks a figure that is reported beside a metric and not ranked.
Means over cells are float64.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from wound_jax.errors import UserError, unknown_name
from wound_jax.evaluation.context import ScoreContext
from wound_jax.evaluation.distances import energy_distance, nearest_cosine_distance
from wound_jax.evaluation.strata import Stratum

# Against the size of the mean control cell: below it a delta is the rounding of float32 means.
_ZERO_DELTA = 1e-6


@dataclass(frozen=True, eq=False)
class Comparison:
    """One stratum, its prediction, and the quantities that several metrics share.

    Attributes:
        stratum: the real cells.
        predicted: [n_control, genes], row i made from control cell i.
        context: what is known from training cells.
    """

    stratum: Stratum
    predicted: Float[np.ndarray, "cells genes"]
    context: ScoreContext

    @cached_property
    def true_delta(self) -> Float[np.ndarray, " genes"]:
        """Mean treated minus mean control cell."""
        return self.stratum.mean_delta

    @cached_property
    def predicted_delta(self) -> Float[np.ndarray, " genes"]:
        """Mean predicted minus mean control cell."""
        return self.predicted.mean(axis=0, dtype=np.float64) - self.stratum.control_mean

    @cached_property
    def predicts_no_change(self) -> bool:
        """Whether the predicted delta is zero up to rounding."""
        size = np.linalg.norm(self.predicted_delta)
        return bool(size <= _ZERO_DELTA * np.linalg.norm(self.stratum.control_mean))

    @cached_property
    def samples(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Control, treated and predicted cells, equally many of each, [n, genes].

        n = min(n_control, n_treated, context.max_cells), drawn without replacement by
        (seed, stratum). Predictions are taken at the control cells drawn, and every prediction of
        a stratum meets the same cells, so that differences between predictions are paired.
        """
        stratum = self.stratum
        n = min(stratum.n_control, stratum.n_treated, self.context.max_cells)
        rng = np.random.default_rng([self.context.seed, zlib.crc32(stratum.key.encode())])
        control = np.sort(rng.choice(stratum.n_control, n, replace=False))
        treated = np.sort(rng.choice(stratum.n_treated, n, replace=False))
        return stratum.control[control], stratum.treated[treated], self.predicted[control]

    @cached_property
    def projected(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`samples` on the training components, [n, dims]."""
        control, treated, predicted = (self.context.project(cells) for cells in self.samples)
        return control, treated, predicted

    @cached_property
    def remaining_distance(self) -> float:
        """E^2 between predicted and treated cells."""
        _, treated, predicted = self.projected
        return energy_distance(predicted, treated)

    @cached_property
    def effect_distance(self) -> float:
        """E^2 between control and treated cells."""
        control, treated, _ = self.projected
        return energy_distance(control, treated)


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: key in the results.
        best_value: the value of a perfect prediction; None for a figure that is not ranked.
        compute: the number, from a comparison.
    """

    name: str
    best_value: float | None
    compute: Callable[[Comparison], float]

    @property
    def arrow(self) -> str:
        """Which way is better: up towards 1, down towards 0, nothing for an unranked figure."""
        return "" if self.best_value is None else "↑" if self.best_value > 0 else "↓"


METRICS: dict[str, Metric] = {}


def metric(
    name: str, best_value: float | None
) -> Callable[[Callable[[Comparison], float]], Callable[[Comparison], float]]:
    """Register a function of a `Comparison` as a metric."""

    def register(compute: Callable[[Comparison], float]) -> Callable[[Comparison], float]:
        METRICS[name] = Metric(name, best_value, compute)
        return compute

    return register


def get_metric(name: str) -> Metric:
    """The metric of that name; an unknown one is a `UserError` listing those there are."""
    if name not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[name]


def score(
    stratum: Stratum, predicted: Float[np.ndarray, "cells genes"], context: ScoreContext
) -> dict[str, float]:
    """All metrics of one prediction.

    Args:
        stratum: the real cells, at least one treated.
        predicted: [n_control, genes], row i made from control cell i.
        context: from `fit_context` on the training cells.

    Returns:
        metric name -> value; NaN where a metric is not defined for the stratum.

    Raises:
        UserError: the prediction has the wrong shape or values that are not finite, or there are
            no treated cells to compare with.
    """
    if predicted.shape != stratum.control.shape:
        raise UserError(
            f"stratum {stratum.key}: prediction of shape {predicted.shape}; expected "
            f"{stratum.control.shape}, one row for each control cell."
        )
    if not np.isfinite(predicted).all():
        raise UserError(
            f"stratum {stratum.key}: the prediction holds NaN or infinity; expected finite values. "
            "Take a checkpoint from before training diverged."
        )
    if not stratum.n_treated:
        raise UserError(
            f"stratum {stratum.key} has no treated cells to compare with; expected at least one. "
            "Score only strata with cells in both arms."
        )
    comparison = Comparison(stratum, predicted, context)
    return {name: float(entry.compute(comparison)) for name, entry in METRICS.items()}


def _delta_correlation(comparison: Comparison, genes: np.ndarray | slice) -> float:
    """Pearson correlation of predicted and true delta over some genes."""
    predicted = comparison.predicted_delta[genes]
    true = comparison.true_delta[genes]
    if np.ptp(true) == 0:
        return float("nan")
    if comparison.predicts_no_change or np.ptp(predicted) == 0:
        return 0.0
    return float(np.corrcoef(predicted, true)[0, 1])


@metric("pearson_delta", best_value=1.0)
def pearson_delta(comparison: Comparison) -> float:
    """corr(mean P - mean C, mean T - mean C) over all genes.

    A predicted delta that is zero or the same for all genes scores 0; a true one gives NaN.
    Correlating the means themselves instead is passed by the identity (about .96). Same
    definition as `pearson_delta` of cell-eval 0.8.2.
    """
    return _delta_correlation(comparison, slice(None))


@metric("pearson_delta_top100", best_value=1.0)
def pearson_delta_top100(comparison: Comparison) -> float:
    """`pearson_delta` over the genes that respond most in training cells (100 by default).

    The genes are `ScoreContext.top_genes_of`; none is chosen on the cells that are scored.
    """
    return _delta_correlation(comparison, comparison.context.top_genes_of(comparison.stratum))


@metric("delta_is_zero", best_value=None)
def delta_is_zero(comparison: Comparison) -> float:
    """1 where the predicted delta is zero, so that correlations are 0 by decree; else 0."""
    return float(comparison.predicts_no_change)


@metric("mse", best_value=0.0)
def mse(comparison: Comparison) -> float:
    """mean over genes of (mean P - mean T)^2: of mean profiles, not of single cells.

    Same definition as `mse` of cell-eval 0.8.2.
    """
    return float(np.square(comparison.predicted_delta - comparison.true_delta).mean())


@metric("mae", best_value=0.0)
def mae(comparison: Comparison) -> float:
    """mean over genes of |mean P - mean T|: of mean profiles, not of single cells.

    Same definition as `mae` of cell-eval 0.8.2.
    """
    return float(np.abs(comparison.predicted_delta - comparison.true_delta).mean())


@metric("e_distance", best_value=0.0)
def e_distance(comparison: Comparison) -> float:
    """Unbiased squared energy distance E^2(P, T).

    E^2 = 2 E|P-T| - E|P-P'| - E|T-T'| with Euclidean |.|, on the principal components of the
    training cells, with equally many cells of both (`Comparison.samples`), pairs of a cell with
    itself left out. Not comparable with the E-distance of pertpy or scperturb, which squares |.|.
    """
    return comparison.remaining_distance


@metric("e_distance_control", best_value=None)
def e_distance_control(comparison: Comparison) -> float:
    """E^2(C, T), the size of the true effect, from the same cells and space as `e_distance`."""
    return comparison.effect_distance


@metric("e_distance_ratio", best_value=0.0)
def e_distance_ratio(comparison: Comparison) -> float:
    """E^2(P, T) / E^2(C, T): 0 is perfect, 1 is as far off as the identity.

    Slightly below 0 is chance, as the estimate is unbiased. NaN where E^2(C, T) <= 0: no effect
    can be told from sampling, and a ratio to it has no meaning.
    """
    effect = comparison.effect_distance
    return comparison.remaining_distance / effect if effect > 0 else float("nan")


@metric("legacy_nn_cosine", best_value=None)
def legacy_nn_cosine(comparison: Comparison) -> float:
    """mean over P of min over T of (1 - cos), in the full space, equally many cells of both.

    Kept for comparison with published figures and unranked on purpose: it **improves** when
    predictions collapse to one mean cell, which lies closer in angle to any sparse cell than
    another real cell does. Read it beside `legacy_nn_cosine_control`.
    """
    _, treated, predicted = comparison.samples
    return nearest_cosine_distance(predicted, treated)


@metric("legacy_nn_cosine_control", best_value=None)
def legacy_nn_cosine_control(comparison: Comparison) -> float:
    """`legacy_nn_cosine` of the control cells themselves: what the identity scores."""
    control, treated, _ = comparison.samples
    return nearest_cosine_distance(control, treated)
