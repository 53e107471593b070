"""Scores predictions: every registered metric, for all strata of one method in one call.

What metrics take from real cells (distances among them, their ranks) stays with the context and
the strata, so that the second method scored on the same strata costs less than the first.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.evaluation.context import ScoreContext
from wound_jax.evaluation.metrics.comparison import Comparison, Comparisons
from wound_jax.evaluation.metrics.registry import METRICS, get_metric


def score_all(
    strata: Sequence[Stratum],
    predictions: Sequence[Float[np.ndarray, "cells genes"]],
    context: ScoreContext,
    names: Sequence[str] | None = None,
) -> list[dict[str, float]]:
    """Metrics of the predictions of one method, all of them or those that are named.

    Args:
        strata: the real cells, at least one treated in each. Pass the same objects for every
            method: what is known of a stratum is found again by the object.
        predictions: for each stratum [n_control, genes], row i made from control cell i.
        context: from `fit_context` on the training cells.
        names: of registered metrics; None computes all.

    Returns:
        For each stratum, in their order: metric name -> value; NaN where a metric is not defined.

    Raises:
        UserError: a prediction is missing, has the wrong shape or values that are not finite, or
            a stratum has no treated cells to compare with.
    """
    if len(strata) != len(predictions):
        raise UserError(
            f"{len(predictions)} predictions for {len(strata)} strata; expected one for each."
        )
    for stratum, predicted in zip(strata, predictions, strict=True):
        _check(stratum, predicted)
    comparisons = Comparisons(
        [
            Comparison(s, predicted, context)
            for s, predicted in zip(strata, predictions, strict=True)
        ]
    )
    chosen = METRICS if names is None else names
    values = {name: get_metric(name).compute(comparisons) for name in chosen}
    return [{name: float(of[i]) for name, of in values.items()} for i in range(len(strata))]


def _check(stratum: Stratum, predicted: Float[np.ndarray, "cells genes"]) -> None:
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
