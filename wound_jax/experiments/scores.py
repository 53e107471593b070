"""Scores of a fold: its variants, the baselines and the ceiling, on the same held-out strata.

Of each variant every seed by itself, and all seeds averaged cell by cell: as they are, with a share
of linear rules, with what is learnt across genes beside these, with the zeros of counting; and what
is learnt across genes without a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wound_jax.evaluation.reference import HeldOut
from wound_jax.evaluation.table import SHOWN_METRICS
from wound_jax.files import read_record, write_record
from wound_jax.prediction.calibration.blend import Blend
from wound_jax.prediction.calibration.calibration import Calibration, moved_across_genes
from wound_jax.prediction.loaded_run import load_run
from wound_jax.prediction.network import Ensemble
from wound_jax.prediction.settings import PredictionSettings
from wound_jax.prediction.strata import Predict, of_model, remembered

Table = Mapping[str, float]

# Beside the headline figures: whether predictions are still populations like the measured ones.
POPULATION_METRICS = ("variance_ratio", "gene_correlation_agreement", "zero_share_error")
METRICS = (*SHOWN_METRICS, "pearson_delta_residual", *POPULATION_METRICS)

NETWORK, ENSEMBLE = "network", "ensemble"
LINEAR, GENES, ZEROS = " + linear", " + genes", " + zeros"
GENES_ALONE = "genes alone"


@dataclass(frozen=True, eq=False)
class VariantScores:
    """Means over the strata of a fold.

    Attributes:
        seeds: for each seed, form -> metric -> mean.
        together: form -> metric -> mean, of all seeds as one ensemble.
        rules_weight: the share of the rules, linear or across genes, in the ensemble, mean over
            strata.
    """

    seeds: tuple[Mapping[str, Table], ...]
    together: Mapping[str, Table]
    rules_weight: float | None

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        content = {
            "seeds": list(self.seeds),
            "together": self.together,
            "rules_weight": self.rules_weight,
        }
        write_record(path, content)

    @classmethod
    def load(cls, path: Path) -> "VariantScores":
        """Reads what `save` wrote."""
        content = read_record(path)
        return cls(tuple(content["seeds"]), content["together"], content["rules_weight"])


def score_variant(
    prediction: PredictionSettings, folders: Sequence[Path], held_out: HeldOut
) -> VariantScores:
    """Scores the trained seeds of one variant on the test cells of a fold.

    Args:
        prediction: what the config asks for after the network.
        folders: of the runs.
        held_out: the test cells.

    Raises:
        UserError: what a seed, or all together, predict is of a size that no cell has.
    """
    networks = [load_run(folder).predictor for folder in folders]
    shares: list[float] = []

    def scores(predict: Predict) -> Table:
        return _mean(held_out.score_model(predict(held_out.data, held_out.planned), METRICS))

    ensemble = remembered(of_model(Ensemble(networks)))
    together = {ENSEMBLE: ensemble}
    if prediction.moves_means:
        blended, share = _blended(ensemble, held_out, prediction)
        weights = [share.weight(stratum) for stratum in held_out.strata]
        shares = [weight.linear + weight.genes for weight in weights]
        genes, rule = share.members.genes, share.members.rule
        if genes is not None and all(genes.applies(stratum) for stratum in held_out.strata):
            linear = prediction.model_copy(update={"across_genes": False})
            together[ENSEMBLE + LINEAR], _ = _blended(ensemble, held_out, linear)
            together[ENSEMBLE + GENES] = blended
            together[GENES_ALONE] = moved_across_genes(genes, non_negative=rule.non_negative)
        else:
            together[ENSEMBLE + LINEAR] = blended
    if prediction.round_to_counts:
        rounded = Calibration(round_to_counts=True)
        together |= {form + ZEROS: rounded.after(one) for form, one in together.items()}
    return VariantScores(
        tuple({NETWORK: scores(of_model(network))} for network in networks),
        {form: scores(one) for form, one in together.items()},
        float(np.mean(shares)) if shares else None,
    )


def _blended(
    network: Predict, held_out: HeldOut, prediction: PredictionSettings
) -> tuple[Predict, Blend]:
    """Predictions with blended means, not rounded, and where the means are from."""
    plain = prediction.model_copy(update={"round_to_counts": False})
    calibration = held_out.reference.calibrate(network, plain)
    assert calibration.blend is not None, "the means are moved"
    return calibration.after(network), calibration.blend


def score_baselines(held_out: HeldOut) -> dict[str, dict[str, float]]:
    """Means over the strata of a fold: every baseline, and "ceiling" where there is one."""
    scores = {name: _mean(rows) for name, rows in held_out.score_baselines(METRICS).items()}
    ceilings = [rows for rows in held_out.score_replicates(METRICS).scores if rows is not None]
    return scores | ({"ceiling": _mean(ceilings)} if ceilings else {})


def _mean(rows: Sequence[Any]) -> dict[str, float]:
    """Means over strata, undefined figures left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: np.array([row.get(name, np.nan) for row in rows], float) for name in names}
    return {
        name: float(np.nanmean(of)) if np.isfinite(of).any() else float("nan")
        for name, of in values.items()
    }
