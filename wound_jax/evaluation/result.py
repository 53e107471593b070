"""Result: a model scored on held-out cells beside the baselines and the noise ceiling.

    metrics of every method, stratum by stratum  ->  means over strata
    bootstrap over replicates                    ->  intervals, differences to the best baseline
    biology, mixing, training                    ->  the plan's criteria  ->  scorecard

Everything is computed from the same strata and the same predictions, in one place, so that no two
parts of a report can speak of different cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from wound_jax.baselines import Baseline
from wound_jax.data.cells import PreparedData
from wound_jax.data.groups import timepoint_or_none
from wound_jax.data.strata import PlannedStratum, Stratum
from wound_jax.evaluation.biology import polarisation, temporal_coherence, wound_markers
from wound_jax.evaluation.mixing import in_training_space, mixing
from wound_jax.evaluation.reference import HeldOut
from wound_jax.evaluation.scorecard import scorecard
from wound_jax.evaluation.table import summarise
from wound_jax.evaluation.uncertainty import Draws, bootstrap
from wound_jax.prediction.calibration.calibration import Calibration
from wound_jax.prediction.network import Predictor
from wound_jax.prediction.settings import PredictionSettings
from wound_jax.prediction.strata import Predict, of_model


@dataclass(frozen=True, eq=False)
class Result:
    """What an evaluation found.

    Attributes:
        figures: content of `eval/metrics.json`.
        strata: the held-out strata that were scored.
        predicted: the model's cells for each, [n_control, genes].
        draws: figures of every method in every draw of the bootstrap.
        genes: names of the predicted genes; none where an embedding was predicted.
        calibration: what the network's cells went through.
    """

    figures: dict[str, Any]
    strata: tuple[Stratum, ...]
    predicted: tuple[np.ndarray, ...]
    draws: Draws
    genes: tuple[str, ...]
    calibration: Calibration = field(default_factory=Calibration)


def evaluate_model(
    predictor: Predictor,
    held_out: HeldOut,
    prediction: PredictionSettings | None = None,
    *,
    training: Mapping[str, float] | None = None,
) -> Result:
    """Calibrates a trained network and scores it on held-out strata; see `evaluate`.

    Args:
        predictor: the network, or several.
        held_out: the strata, from a reference on the cells that the network was trained on.
        prediction: what the network's cells go through before they are scored; None is nothing.
        training: as for `evaluate`.
    """
    network = of_model(predictor)
    calibration = held_out.reference.calibrate(network, prediction or PredictionSettings())
    result = evaluate(calibration.after(network), held_out, training=training)
    result.figures["mean_from"] = {one.key: calibration.figures(one) for one in result.strata}
    return replace(result, calibration=calibration)


def evaluate(
    predict: Predict, held_out: HeldOut, *, training: Mapping[str, float] | None = None
) -> Result:
    """Scores whatever predicts treated cells from control cells on held-out strata.

    Args:
        predict: cells and planned strata -> [n_control, genes] for each stratum.
        held_out: the strata, and what is known of them.
        training: figures of the training run (`stability.training_stability`), for the scorecard.

    Raises:
        UserError: what is predicted is of a size that no cell has.
    """
    strata, context = held_out.strata, held_out.reference.context
    # Computed first, while the model's cells do not take memory beside those of a baseline.
    _ = held_out.baselines, held_out.noise_ceilings
    predicted = predict(held_out.data, held_out.planned)
    rows = _rows(held_out, held_out.score_model(predicted))
    baselines = held_out.reference.baselines
    scored = {name: _OnDemand(baselines[name], strata) for name in held_out.baselines}
    methods = {"model": predicted} | scored
    n_draws = held_out.reference.settings.bootstrap
    draws = bootstrap(strata, methods, context, draws=n_draws, seed=context.seed)
    genes = _gene_names(held_out.data, strata)
    figures = {
        "split": _describe(held_out.data, held_out.part),
        "strata": rows,
        "skipped": [_skipped(one) for one in held_out.small],
        "summary": summarise(rows),
        "uncertainty": draws.summary(),
        "mixing": mixing(in_training_space(strata, predicted, context)),
        "training": dict(training) if training is not None else None,
    }
    if held_out.left_out:
        figures["left_out"] = dict(held_out.left_out)
    if genes:
        figures["biology"] = _biology(predict, held_out, predicted, genes)
    figures["scorecard"] = scorecard(figures)
    return Result(figures, tuple(strata), tuple(predicted), draws, genes)


class _OnDemand:
    """A baseline's predictions, made when they are asked for: all at once need not fit."""

    def __init__(self, baseline: Baseline, strata: Sequence[Stratum]):
        self._baseline, self._strata = baseline, strata

    def __len__(self) -> int:
        return len(self._strata)

    def __getitem__(self, place: int) -> np.ndarray:
        return self._baseline.predict(self._strata[place])


def _rows(held_out: HeldOut, scores: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """One row a stratum: sizes, scores of the model and of every baseline, the noise ceiling."""
    ceilings = held_out.noise_ceilings
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
            "baselines": {name: rows[i] for name, rows in held_out.baselines.items()},
            "ceiling": ceilings.scores[i],
            "ceiling_kind": ceilings.kinds[i],
        }
        for i, stratum in enumerate(held_out.strata)
    ]


def _n_replicates(replicates: np.ndarray | None) -> int | None:
    """How many replicates are named; None where none is."""
    names = set() if replicates is None else set(replicates) - {""}
    return len(names) or None


def _biology(
    predict: Predict, held_out: HeldOut, predicted: Sequence[np.ndarray], genes: Sequence[str]
) -> dict[str, Any]:
    """The plan's biological criteria."""
    strata, kind, taught = held_out.strata, held_out.data.split.kind, held_out.reference.taught
    learnt = taught.strata()
    # Steps between timepoints need the trained ones predicted as well; no other split asks for it.
    of_training = predict(taught.data, taught.planned) if kind == "timepoint" else None
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
