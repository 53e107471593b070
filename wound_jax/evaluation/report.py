"""Writes an evaluation to a folder: `metrics.json`, `table.txt` and the pictures."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wound_jax.config.schema import EvaluationConfig
from wound_jax.evaluation.context import ScoreContext
from wound_jax.evaluation.held_out import ScoredStratum
from wound_jax.evaluation.plots import (
    ProjectedStratum,
    plot_loss_curves,
    plot_strata_bars,
    plot_umap,
)
from wound_jax.evaluation.table import results_table


def write_report(
    folder: Path,
    result: dict,
    scored: Sequence[ScoredStratum],
    context: ScoreContext,
    config: EvaluationConfig,
    records: list[dict],
    seed: int,
) -> str:
    """Writes everything and returns the table.

    Args:
        folder: where to; made if needed.
        result: content of `metrics.json`.
        scored: the strata with their predictions, for the UMAP.
        context: holds the components the UMAP starts from.
        config: whether pictures are wanted.
        records: the run's `metrics.jsonl`, for the loss curves.
        seed: of the UMAP.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(_without_nan(result), indent=2) + "\n")
    table = results_table(result)
    (folder / "table.txt").write_text(table + "\n")
    if config.plots:
        plot_loss_curves(records, folder / "loss_curves.png")
        plot_strata_bars(result, folder / "strata.png")
        plot_umap([_project(one, context) for one in scored], folder / "umap.png", seed)
    return table


def _project(one: ScoredStratum, context: ScoreContext) -> ProjectedStratum:
    return ProjectedStratum(
        cell_type=one.stratum.cell_type,
        control=context.project(one.stratum.control),
        treated=context.project(one.stratum.treated),
        predicted=context.project(one.predicted),
    )


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a figure that is not defined is null."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
