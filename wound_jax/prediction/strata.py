"""Predictions of strata: their control cells, group by group, through a trained network.

Owns `Predict`, the form in which whatever predicts is calibrated and scored: of cells and strata
given by position the predicted cells, an array a stratum.
"""

from collections.abc import Callable, Sequence

import numpy as np

from wound_jax.data.cells import Cells, PreparedData
from wound_jax.data.strata import PlannedStratum
from wound_jax.prediction.network import Predictor


def predict_strata(
    predictor: Predictor, cells: Cells, strata: Sequence[PlannedStratum]
) -> list[np.ndarray]:
    """Predicts all control cells of each stratum, rows in the order of `controls`."""
    groups = [group for stratum in strata for group in stratum.groups]
    predicted = iter(predictor.predict(cells, groups))
    return [np.concatenate([next(predicted) for _ in stratum.groups]) for stratum in strata]


# Cells and planned strata -> predicted cells of each, [n_control, genes].
Predict = Callable[[PreparedData, Sequence[PlannedStratum]], Sequence[np.ndarray]]


def of_model(predictor: Predictor) -> Predict:
    """The cells of a trained model, or of an ensemble, as they are."""

    def predict(data: PreparedData, planned: Sequence[PlannedStratum]) -> Sequence[np.ndarray]:
        return predict_strata(predictor, data.cells, planned)

    return predict


def remembered(predict: Predict) -> Predict:
    """The same predictions, made once for the same strata and kept in memory."""
    made: dict[tuple[PlannedStratum, ...], Sequence[np.ndarray]] = {}

    def predict_once(data: PreparedData, planned: Sequence[PlannedStratum]) -> Sequence[np.ndarray]:
        # Strata are compared by identity, and one is of one set of cells alone.
        key = tuple(planned)
        if key not in made:
            made[key] = predict(data, planned)
        return made[key]

    return predict_once
