"""Scores the seeds of a variant on the held-out cells of a fold, alone and as an ensemble.

    one seed, several seeds averaged cell by cell
        x  as they are, with the share of linear rules, with the zeros of counting, with both

beside the baselines and the ceiling, all on the same strata. What a share "auto" was chosen to be
is kept with the scores.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wound_jax.config.schema import RunConfig
from wound_jax.data.prepare import PreparedData
from wound_jax.evaluation.held_out import Yardstick
from wound_jax.evaluation.metrics import score_all
from wound_jax.evaluation.predictions import (
    Predict,
    of_ensemble,
    of_network,
    with_linear_share,
    with_zeros,
)
from wound_jax.evaluation.reference import Reference, reference_of
from wound_jax.run_folder import load_run

Table = Mapping[str, float]

NETWORK, ENSEMBLE = "network", "ensemble"
LINEAR, ZEROS = " + linear", " + zeros"


@dataclass(frozen=True, eq=False)
class VariantScores:
    """Means over the strata of a fold.

    Attributes:
        seeds: for each seed, form -> metric -> mean.
        together: form -> metric -> mean, of all seeds as one ensemble.
        linear_weights: "network" and "ensemble" -> share of linear rules, mean over strata.
    """

    seeds: tuple[Mapping[str, Table], ...]
    together: Mapping[str, Table]
    linear_weights: Mapping[str, Sequence[float]]

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        content = {
            "seeds": list(self.seeds),
            "together": self.together,
            "linear_weights": self.linear_weights,
        }
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "VariantScores":
        """Reads what `save` wrote."""
        content = json.loads(path.read_text())
        return cls(tuple(content["seeds"]), content["together"], content["linear_weights"])


def score_variant(
    runs: Mapping[int, RunConfig],
    folders: Sequence[Path],
    data: PreparedData,
    yardstick: Yardstick,
) -> VariantScores:
    """Scores the trained seeds of one variant on the test cells of a fold.

    Args:
        runs: config of each seed.
        folders: of the runs, in the same order.
        data: the cells of the fold.
        yardstick: fitted on its training cells.
    """
    config = next(iter(runs.values()))
    reference = reference_of(data, yardstick, config.evaluation, "test")
    asked = config.prediction
    networks = [of_network(load_run(folder).predictor) for folder in folders]
    weights: dict[str, list[float]] = {NETWORK: [], ENSEMBLE: []}

    def forms(predict: Predict, name: str) -> dict[str, Table]:
        found = {name: predict}
        if asked.linear_weight != 0.0:
            shared, share = with_linear_share(
                predict, yardstick, config.evaluation, asked.linear_weight
            )
            of_strata = [share.weight(stratum) for stratum in reference.strata]
            weights[name].append(float(np.mean(of_strata)))
            found[name + LINEAR] = shared
        if asked.count_zeros:
            found |= {form + ZEROS: with_zeros(one) for form, one in found.items()}
        return {form: _mean_scores(one, reference, yardstick) for form, one in found.items()}

    seeds = tuple(forms(network, NETWORK) for network in networks)
    return VariantScores(seeds, forms(of_ensemble(networks), ENSEMBLE), weights)


def score_baselines(
    data: PreparedData, yardstick: Yardstick, config: RunConfig
) -> dict[str, dict[str, float]]:
    """Means over the strata of a fold: every baseline, and "ceiling" where there is one."""
    reference = reference_of(data, yardstick, config.evaluation, "test")
    scores = {name: _mean(rows) for name, rows in reference.baselines.items()}
    ceilings = [rows for rows in reference.ceilings if rows is not None]
    return scores | ({"ceiling": _mean(ceilings)} if ceilings else {})


def _mean_scores(predict: Predict, reference: Reference, yardstick: Yardstick) -> Table:
    predicted = predict(reference.data, reference.planned)
    return _mean(score_all(reference.strata, predicted, yardstick.context))


def _mean(rows: Sequence[Any]) -> dict[str, float]:
    """Means over strata, undefined figures left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: np.array([row.get(name, np.nan) for row in rows], float) for name in names}
    return {
        name: float(np.nanmean(of)) if np.isfinite(of).any() else float("nan")
        for name, of in values.items()
    }
