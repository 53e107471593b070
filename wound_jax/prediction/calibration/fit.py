"""What is scored: the cells of a trained model, with means drawn to rules, with zeros counted."""

from collections.abc import Sequence
from typing import cast

import numpy as np

from wound_jax.baselines.moving import moved
from wound_jax.baselines.stacked_linear import StackedLinear
from wound_jax.config.schema import EvaluationConfig, PredictionConfig
from wound_jax.data.prepare import PreparedData
from wound_jax.data.strata import PlannedStratum, large_strata
from wound_jax.evaluation.reference import Yardstick
from wound_jax.prediction.calibration.across_genes import AcrossGenes
from wound_jax.prediction.calibration.blend import Blend, Members, blend
from wound_jax.prediction.calibration.round_to_counts import ROUNDING_SEED, rounded_to_counts
from wound_jax.prediction.calibration.shrink_controls import ShrunkControls
from wound_jax.prediction.strata import Predict


def finished(
    predict: Predict, yardstick: Yardstick, config: EvaluationConfig, prediction: PredictionConfig
) -> tuple[Predict, Blend]:
    """Predictions with everything that a config asks for after the network."""
    predict, share = with_blend(predict, yardstick, config, prediction)
    return (with_zeros(predict) if prediction.round_to_counts else predict), share


def with_zeros(predict: Predict) -> Predict:
    """Predictions whose zeros are those of counting; see `round_to_counts`."""

    def rounded(data: PreparedData, planned: Sequence[PlannedStratum]) -> Sequence[np.ndarray]:
        return [
            rounded_to_counts(cells, one.cells(data.cells).control, seed=ROUNDING_SEED)
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
        return [moved(one.control, genes.delta(one), non_negative) for one in strata]

    return predict


def with_blend(
    predict: Predict, yardstick: Yardstick, config: EvaluationConfig, prediction: PredictionConfig
) -> tuple[Predict, Blend]:
    """Predictions whose means are drawn towards what training strata teach; see `blend`.

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
    if prediction.shrink_controls:
        made = predict(data, yardstick.planned)
        regression = ShrunkControls.of(rule, [c.mean(axis=0, dtype=np.float64) for c in made])
    if prediction.across_genes:
        genes = _across_genes(rule, yardstick)
    planned = large_strata(data, config, "val")[0] if weight == "auto" else []
    strata = [one.cells(data.cells) for one in planned]
    predicted = predict(data, planned) if planned else []
    share = blend(Members(rule, regression, genes), weight, strata, predicted)

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
