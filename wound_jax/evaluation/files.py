"""Files of an evaluation: `metrics.json`, `table.txt`, and arrays for the page and its pictures.

true delta = mean treated - mean control,   predicted delta = mean predicted - mean control
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Shaped

from wound_jax.baselines import Baseline
from wound_jax.config.schema import RunConfig
from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.evaluation.context import ScoreContext
from wound_jax.evaluation.mixing import ProjectedStratum, fit_cell_map
from wound_jax.evaluation.result import Result
from wound_jax.evaluation.scorecard import render_scorecard
from wound_jax.evaluation.table import results_table
from wound_jax.files import make_folder, read_arrays, write_arrays, write_text


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
        write_arrays(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> "Deltas":
        """Reads what `save` wrote."""
        values = read_arrays(path)
        return cls(**{**values, "baseline_name": str(values["baseline_name"])})


def mean_deltas(
    strata: Sequence[Stratum],
    predictions: Sequence[Float[np.ndarray, "_cells genes"]],
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


@runtime_checkable
class MeasuredBy(Protocol):
    """What the files of an evaluation take of a `wound_jax.evaluation.reference.Reference`."""

    @property
    def context(self) -> ScoreContext:
        """Genes and components."""
        ...

    @property
    def baselines(self) -> Mapping[str, Baseline]:
        """The fitted baselines by name."""
        ...


def write_report(folder: Path, result: Result, reference: MeasuredBy, config: RunConfig) -> str:
    """Writes everything about one evaluation, and returns its tables as text.

    Args:
        folder: where to; made if needed. It gets `metrics.json`, `table.txt` (results and
            scorecard), `bootstrap.npz`, `deltas.npz` where genes were predicted, and
            `umap.npz` where the config wants pictures, which the report draws.
        result: what was found.
        reference: what it was measured by.
        config: of the evaluation.
    """
    make_folder(folder)
    figures = result.figures
    write_text(folder / "metrics.json", json.dumps(without_nan(figures), indent=2) + "\n")
    tables = f"{results_table(figures)}\n\n{render_scorecard(figures['scorecard'])}"
    write_text(folder / "table.txt", tables + "\n")
    result.draws.save(folder / "bootstrap.npz")
    if result.genes:
        rival = best_baseline(figures)
        baseline = reference.baselines[rival]
        deltas = mean_deltas(result.strata, result.predicted, result.genes, rival, baseline)
        deltas.save(folder / "deltas.npz")
    if config.evaluation.plots:
        _write_map(folder, result, reference.context, config.split.seed)
    return tables


def _write_map(folder: Path, result: Result, context: ScoreContext, seed: int) -> None:
    """Writes the cells' map."""
    strata = [
        ProjectedStratum(
            cell_type=stratum.cell_type,
            control=context.project(stratum.control),
            treated=context.project(stratum.treated),
            predicted=context.project(predicted),
        )
        for stratum, predicted in zip(result.strata, result.predicted, strict=True)
    ]
    fit_cell_map(strata, seed).save(folder / "umap.npz")


def without_nan(value: Any) -> Any:
    """JSON has no NaN: a figure that is not defined is null."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
