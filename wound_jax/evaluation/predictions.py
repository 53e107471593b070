"""What is scored: the cells of a trained model, with means drawn to rules, with zeros counted."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from wound_jax.config.schema import EvaluationConfig, PredictionConfig
from wound_jax.data.prepare import PreparedData
from wound_jax.evaluation.across_genes import AcrossGenes
from wound_jax.evaluation.baselines.moving import moved
from wound_jax.evaluation.baselines.stacked_linear import StackedLinear
from wound_jax.evaluation.control_regression import ControlRegression
from wound_jax.evaluation.count_zeros import ROUNDING_SEED, with_counted_zeros
from wound_jax.evaluation.held_out import (
    PlannedStratum,
    Yardstick,
    large_strata,
    predict_strata,
)
from wound_jax.evaluation.mean_share import MeanShare, Members, mean_share
from wound_jax.inference import Predictor

# Cells and planned strata -> predicted cells of each, [n_control, genes].
Predict = Callable[[PreparedData, Sequence[PlannedStratum]], Sequence[np.ndarray]]


def of_model(predictor: Predictor) -> Predict:
    """The cells of a trained model, or of an ensemble, as they are."""

    def predict(data: PreparedData, planned: Sequence[PlannedStratum]) -> Sequence[np.ndarray]:
        return predict_strata(predictor, data.spec, data.cells, planned)

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


def finished(
    predict: Predict, yardstick: Yardstick, config: EvaluationConfig, prediction: PredictionConfig
) -> tuple[Predict, MeanShare]:
    """Predictions with everything that a config asks for after the network."""
    predict, share = with_mean_share(predict, yardstick, config, prediction)
    return (with_zeros(predict) if prediction.count_zeros else predict), share


def with_zeros(predict: Predict) -> Predict:
    """Predictions whose zeros are those of counting; see `count_zeros`."""

    def rounded(data: PreparedData, planned: Sequence[PlannedStratum]) -> Sequence[np.ndarray]:
        return [
            with_counted_zeros(cells, one.cells(data.cells).control, seed=ROUNDING_SEED)
            for cells, one in zip(predict(data, planned), planned, strict=True)
        ]

    return rounded


def of_genes(genes: AcrossGenes, *, non_negative: bool) -> Predict:
    """Control cells moved as is learnt across genes, without a network; unknown types alone.

    Args:
        genes: what is learnt.
        non_negative: whether predictions are kept at 0 or above.
    """

    def predict(data: PreparedData, planned: Sequence[PlannedStratum]) -> Sequence[np.ndarray]:
        strata = [one.cells(data.cells) for one in planned]
        return [moved(one.control, genes.shift(one), non_negative) for one in strata]

    return predict


def with_mean_share(
    predict: Predict, yardstick: Yardstick, config: EvaluationConfig, prediction: PredictionConfig
) -> tuple[Predict, MeanShare]:
    """Predictions whose means are drawn towards what training strata teach; see `mean_share`.

    Args:
        predict: without it.
        yardstick: fitted on the cells that the model was trained on; its rules are the share.
        config: which strata are large enough to choose by.
        prediction: the share, or "auto", whether the network's means are regressed, and whether
            unknown types are learnt across genes.

    Returns:
        The predictions, and the share as it was given or chosen.
    """
    rule, data = cast(StackedLinear, yardstick.baselines["stacked_linear"]), yardstick.data
    weight, regression, genes = prediction.linear_weight, None, None
    if prediction.regress_controls:
        made = predict(data, yardstick.planned)
        regression = ControlRegression.of(rule, [c.mean(axis=0, dtype=np.float64) for c in made])
    if prediction.across_genes:
        genes = _across_genes(rule, yardstick)
    planned = large_strata(data, config, "val")[0] if weight == "auto" else []
    strata = [one.cells(data.cells) for one in planned]
    predicted = predict(data, planned) if planned else []
    share = mean_share(Members(rule, regression, genes), weight, strata, predicted)

    def shared(data: PreparedData, planned: Sequence[PlannedStratum]) -> Sequence[np.ndarray]:
        cells = predict(data, planned)
        if not prediction.moves_means:
            return cells
        return [share.apply(c, p.cells(data.cells)) for c, p in zip(cells, planned, strict=True)]

    return shared, share


def _across_genes(rule: StackedLinear, yardstick: Yardstick) -> AcrossGenes:
    """What the training strata teach about genes, learnt for the first model that asks for it."""
    key = "across genes"
    if key not in yardstick.kept:
        taught = [stratum for stratum in yardstick.training() if stratum.n_treated]
        yardstick.kept[key] = AcrossGenes.of(rule, taught)
    return yardstick.kept[key]
