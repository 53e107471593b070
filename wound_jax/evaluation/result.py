"""Scores a model on held-out cells beside the baselines and the ceiling: the whole outcome.

    metrics of every method, stratum by stratum  ->  means over strata
    bootstrap over replicates                       ->  intervals, differences to the best baseline
    biology, mixing, training                    ->  the plan's criteria  ->  scorecard

Everything is computed from the same strata and the same predictions, in one place, so that no two
parts of a report can speak of different cells.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import numpy as np

from wound_jax.baselines import Baseline
from wound_jax.config.schema import EvaluationConfig, PredictionConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.groups import timepoint_or_none
from wound_jax.data.strata import PlannedStratum, Stratum
from wound_jax.evaluation.biology import polarisation, temporal_coherence, wound_markers
from wound_jax.evaluation.metrics import score_all
from wound_jax.evaluation.mixing import in_training_space, mixing
from wound_jax.evaluation.reference import Reference, Yardstick, reference_of
from wound_jax.evaluation.scorecard import scorecard
from wound_jax.evaluation.table import summarise
from wound_jax.evaluation.uncertainty import Draws, bootstrap
from wound_jax.prediction.calibration.blend import Blend
from wound_jax.prediction.calibration.fit import finished
from wound_jax.prediction.network import Predictor
from wound_jax.prediction.strata import Predict, of_model


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an evaluation found.

    Attributes:
        result: content of `eval/metrics.json`.
        strata: the held-out strata that were scored.
        predicted: the model's cells for each, [n_control, genes].
        draws: figures of every method in every draw of the bootstrap.
        genes: names of the predicted genes; none where an embedding was predicted.
        share: where the predicted means are from, if they are not the network's alone.
    """

    result: dict[str, Any]
    strata: tuple[Stratum, ...]
    predicted: tuple[np.ndarray, ...]
    draws: Draws
    genes: tuple[str, ...]
    share: Blend | None = None


def evaluate(
    predictor: Predictor,
    data: PreparedData,
    yardstick: Yardstick,
    config: EvaluationConfig,
    part: str = "test",
    *,
    training: Mapping[str, float] | None = None,
    prediction: PredictionConfig | None = None,
) -> Outcome:
    """Scores a trained model on one part of the split; see `judge`.

    Args:
        predictor: the model.
        data: the cells and their split.
        yardstick: from `fit_yardstick` on the cells the model was trained on.
        config: thresholds, and how many draws the bootstrap makes.
        part: "train", "val" or "test".
        training: figures of the training run (`stability.training_stability`), for the scorecard.
        prediction: what the network's cells go through before they are scored; None is nothing.

    Raises:
        UserError: no stratum of that part has enough cells.
    """
    after = prediction or PredictionConfig()
    predict, share = finished(of_model(predictor), yardstick, config, after)
    outcome = judge(predict, data, yardstick, config, part, training=training)
    outcome.result["mean_from"] = {
        stratum.key: share.figures(stratum) for stratum in outcome.strata
    }
    return replace(outcome, share=share if after.moves_means else None)


def judge(
    predict: Predict,
    data: PreparedData,
    yardstick: Yardstick,
    config: EvaluationConfig,
    part: str = "test",
    *,
    training: Mapping[str, float] | None = None,
) -> Outcome:
    """Scores whatever predicts treated cells from control cells on one part of the split.

    Args:
        predict: cells and planned strata -> [n_control, genes] for each stratum.
        data, yardstick, config, part, training: as for `evaluate`.

    Raises:
        UserError: no stratum of that part has enough cells.
    """
    reference = reference_of(data, yardstick, config, part)
    strata = reference.strata
    predicted = predict(data, reference.planned)
    rows = _rows(reference, score_all(strata, predicted, yardstick.context))
    methods = {"model": predicted} | {
        name: _OnDemand(baseline, strata) for name, baseline in yardstick.baselines.items()
    }
    draws = bootstrap(
        strata, methods, yardstick.context, draws=config.bootstrap, seed=yardstick.context.seed
    )
    genes = _gene_names(data, strata)
    result = {
        "split": _describe(data, part),
        "strata": rows,
        "skipped": [_skipped(one) for one in reference.small],
        "summary": summarise(rows),
        "uncertainty": draws.summary(),
        "mixing": mixing(in_training_space(strata, predicted, yardstick.context)),
        "training": dict(training) if training is not None else None,
    }
    if genes:
        result["biology"] = _biology(predict, reference, predicted, genes, yardstick)
    result["scorecard"] = scorecard(result)
    return Outcome(result, tuple(strata), tuple(predicted), draws, genes)


class _OnDemand(Sequence):
    """A baseline's predictions, made when they are asked for: all at once need not fit."""

    def __init__(self, baseline: Baseline, strata: Sequence[Stratum]):
        self._baseline = baseline
        self._strata = strata

    def __len__(self) -> int:
        return len(self._strata)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._baseline.predict(self._strata[index])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))


def _rows(reference: Reference, scores: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """One row a stratum: sizes, and the scores of the model, every baseline and the ceiling."""
    return [
        {
            "cell_type": stratum.cell_type,
            "timepoint": stratum.timepoint,
            "perturbation": stratum.perturbation,
            "n_control": stratum.n_control,
            "n_treated": stratum.n_treated,
            "n_control_replicates": _n_replicates(stratum.control_replicates),
            "n_treated_replicates": _n_replicates(stratum.treated_replicates),
            "model": scores[i],
            "baselines": {name: rows[i] for name, rows in reference.baselines.items()},
            "ceiling": reference.ceilings[i],
            "ceiling_kind": reference.ceiling_kinds[i],
        }
        for i, stratum in enumerate(reference.strata)
    ]


def _n_replicates(replicates: np.ndarray | None) -> int | None:
    """How many replicates are named; None where none is."""
    names = set() if replicates is None else set(replicates) - {""}
    return len(names) or None


def _biology(
    predict: Predict,
    reference: Reference,
    predicted: Sequence[np.ndarray],
    genes: Sequence[str],
    yardstick: Yardstick,
) -> dict[str, Any]:
    """The plan's biological criteria."""
    strata, kind = reference.strata, reference.data.split.kind
    learnt = yardstick.training()
    # Steps between days need the trained days predicted as well; no other split asks for them.
    of_training = predict(yardstick.data, yardstick.planned) if kind == "timepoint" else None
    return {
        "polarisation": polarisation(strata, predicted, genes, training=learnt),
        "wound_markers": wound_markers(strata, predicted, genes),
        "temporal": temporal_coherence(
            strata, predicted, learnt, split_kind=kind, training_predictions=of_training
        ),
    }


def _gene_names(data: PreparedData, strata: Sequence[Stratum]) -> tuple[str, ...]:
    """The names of the columns that are scored; none where they are dimensions of an embedding."""
    genes = data.spec.genes
    return genes if len(genes) == strata[0].control.shape[1] else ()


def _describe(data: PreparedData, part: str) -> dict[str, Any]:
    """The part that was scored: kind of split, replicates, whether it is leaky."""
    split = data.split
    replicates = sorted(set(data.cells.annotations.replicate[split.treated[part]]) - {""})
    return {
        "kind": split.kind,
        "part": part,
        "leaky": split.leaky,
        "replicates": replicates,
        "n_replicates": len(replicates),
        "shared_controls": split.shared_controls(part),
        "data_fingerprint": data.fingerprint,
    }


def _skipped(stratum: PlannedStratum) -> dict[str, Any]:
    return {
        "cell_type": stratum.cell_type,
        "timepoint": timepoint_or_none(stratum.timepoint),
        "perturbation": stratum.condition,
        "n_control": len(stratum.controls),
        "n_treated": len(stratum.targets),
    }
