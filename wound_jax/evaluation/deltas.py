"""Mean changes by stratum and gene, kept for pictures and tables of single genes.

true delta = mean treated - mean control,   predicted delta = mean predicted - mean control
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from wound_jax.errors import UserError
from wound_jax.evaluation.baselines import Baseline
from wound_jax.evaluation.strata import Stratum


@dataclass(frozen=True, eq=False)
class Deltas:
    """The content of `deltas.npz`.

    Attributes:
        genes: [genes], names.
        strata: [strata], `Stratum.key`.
        cell_type: [strata], labels.
        timepoint: [strata], labels; "" for a stratum without timepoint.
        control_mean: float32 [strata, genes], mean control cell.
        true_delta: float32 [strata, genes].
        predicted_delta: float32 [strata, genes], of the model.
        baseline_delta: float32 [strata, genes], of one baseline.
        baseline_name: which baseline.
    """

    genes: Shaped[np.ndarray, " genes"]
    strata: Shaped[np.ndarray, " strata"]
    cell_type: Shaped[np.ndarray, " strata"]
    timepoint: Shaped[np.ndarray, " strata"]
    control_mean: Float[np.ndarray, "strata genes"]
    true_delta: Float[np.ndarray, "strata genes"]
    predicted_delta: Float[np.ndarray, "strata genes"]
    baseline_delta: Float[np.ndarray, "strata genes"]
    baseline_name: str

    def save(self, path: Path) -> None:
        """Writes the arrays under the names of the attributes."""
        np.savez_compressed(path, **asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Deltas":
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            values = dict(arrays)
        return cls(**{**values, "baseline_name": str(values["baseline_name"])})


def mean_deltas(
    strata: Sequence[Stratum],
    predictions: Sequence[Float[np.ndarray, "cells genes"]],
    genes: Sequence[str],
    rival: str,
    baseline: Baseline,
) -> Deltas:
    """The changes of each stratum: measured, predicted by the model, predicted by a baseline.

    Args:
        strata: the held-out strata, each with treated cells.
        predictions: of the model, [n_control, genes] for each stratum.
        genes: their names, in order.
        rival: name of the baseline.
        baseline: the baseline to set beside the model.

    Raises:
        UserError: the names do not belong to the cells.
    """
    width = strata[0].control.shape[1]
    if len(genes) != width:
        raise UserError(
            f"{len(genes)} gene names for cells of {width} genes; pass the names of the genes that "
            "the model predicts, in order."
        )
    predicted = [_delta(cells, s) for cells, s in zip(predictions, strata, strict=True)]
    return Deltas(
        genes=np.array(genes, dtype=str),
        strata=np.array([stratum.key for stratum in strata], dtype=str),
        cell_type=np.array([stratum.cell_type for stratum in strata], dtype=str),
        timepoint=np.array([stratum.timepoint or "" for stratum in strata], dtype=str),
        control_mean=_rows([stratum.control_mean for stratum in strata]),
        true_delta=_rows([stratum.mean_delta for stratum in strata]),
        predicted_delta=_rows(predicted),
        baseline_delta=_rows([_delta(baseline.predict(stratum), stratum) for stratum in strata]),
        baseline_name=rival,
    )


def best_baseline(result: Mapping[str, Any], metric: str = "pearson_delta") -> str:
    """The baseline of the highest mean of a metric whose larger values are better.

    Args:
        result: content of `eval/metrics.json` with its "summary".
        metric: which mean decides.

    Returns:
        The name that the bootstrap compared the model with, where there was one, so that all
        parts of a report speak of the same baseline; else the best of the summary.
    """
    compared = result.get("uncertainty", {}).get("differences", {}).get(metric)
    if compared and compared.get("best_baseline"):
        return compared["best_baseline"]
    means = {name: scores.get(metric) for name, scores in result["summary"]["baselines"].items()}
    return max(means, key=lambda name: _or_least(means[name]))


def _or_least(value: float | None) -> float:
    """The value; one that is not defined ranks last."""
    return -math.inf if value is None or math.isnan(value) else value


def _delta(cells: np.ndarray, stratum: Stratum) -> np.ndarray:
    return cells.mean(axis=0, dtype=np.float64) - stratum.control_mean


def _rows(values: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(values).astype(np.float32)
