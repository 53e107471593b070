"""Writes an evaluation to a folder: `metrics.json`, `table.txt`, arrays and pictures."""

import json
import math
from pathlib import Path
from typing import Any

from wound_jax.config.schema import RunConfig
from wound_jax.evaluation.cell_map import ProjectedStratum, fit_cell_map
from wound_jax.evaluation.context import ScoreContext
from wound_jax.evaluation.deltas import best_baseline, mean_deltas
from wound_jax.evaluation.held_out import Yardstick
from wound_jax.evaluation.outcome import Outcome
from wound_jax.evaluation.plots import plot_loss_curves, plot_strata_bars, plot_umap
from wound_jax.evaluation.scorecard import render_scorecard
from wound_jax.evaluation.table import results_table
from wound_jax.runlog import read_metrics


def write_report(
    folder: Path, outcome: Outcome, yardstick: Yardstick, run: Path, config: RunConfig
) -> str:
    """Writes everything about one evaluation, and returns its tables as text.

    Args:
        folder: where to; made if needed. It gets `metrics.json`, `table.txt` (results and
            scorecard), `bootstrap.npz`, `deltas.npz` where genes were predicted, and pictures
            with `umap.npz` where the config wants them.
        outcome: what was found.
        yardstick: what it was measured by.
        run: the run folder, whose log holds the loss curves.
        config: of the evaluation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result = outcome.result
    (folder / "metrics.json").write_text(json.dumps(_without_nan(result), indent=2) + "\n")
    tables = f"{results_table(result)}\n\n{render_scorecard(result['scorecard'])}"
    (folder / "table.txt").write_text(tables + "\n")
    outcome.draws.save(folder / "bootstrap.npz")
    if outcome.genes:
        rival = best_baseline(result)
        baseline = yardstick.baselines[rival]
        deltas = mean_deltas(outcome.strata, outcome.predicted, outcome.genes, rival, baseline)
        deltas.save(folder / "deltas.npz")
    if config.evaluation.plots:
        records = read_metrics(run)
        if records:
            plot_loss_curves(records, folder / "loss_curves.png")
        plot_strata_bars(result, folder / "strata.png")
        _write_map(folder, outcome, yardstick.context, config.split.seed)
    return tables


def _write_map(folder: Path, outcome: Outcome, context: ScoreContext, seed: int) -> None:
    """The cells' map as arrays and as a picture."""
    strata = [
        ProjectedStratum(
            cell_type=stratum.cell_type,
            control=context.project(stratum.control),
            treated=context.project(stratum.treated),
            predicted=context.project(predicted),
        )
        for stratum, predicted in zip(outcome.strata, outcome.predicted, strict=True)
    ]
    cell_map = fit_cell_map(strata, seed)
    cell_map.save(folder / "umap.npz")
    plot_umap(cell_map, folder / "umap.png")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a figure that is not defined is null."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
