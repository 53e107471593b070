"""The pictures of an evaluation: training curves, bars per cell type, and one UMAP.

Owns drawing only. Figures are built without pyplot, so that no window system and no global state
is involved.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from wound_jax.evaluation.mixing import CellMap

_CONTROL, _TREATED, _PREDICTED = "#9a9a9a", "#d55e00", "#0072b2"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_MARK_COLORS = ("#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
_BARS = {
    "pearson_delta": "correlation of predicted and true change, pearson_delta (1 is perfect)",
    "e_distance_ratio": "remaining distance, e_distance_ratio (0 is perfect)",
}
# Beyond it a mark stands at the edge: a collapsed prediction would press all others together.
_LIMITS = {"e_distance_ratio": 1.5}


def plot_loss_curves(records: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Training loss (with a running median) and validation loss against the step.

    Args:
        records: log records with "step" and any of "train/loss" and "val/loss".
        path: the PNG to write.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps, losses = _series(records, "train/loss")
    if steps.size:
        window = max(3, 2 * (steps.size // 40) + 1)
        axes.plot(steps, losses, color=_CONTROL, alpha=0.5, lw=0.8, label="train/loss")
        label = f"running median of {window} records"
        axes.plot(steps, _running_median(losses, window), color=_PREDICTED, lw=1.8, label=label)
    steps, losses = _series(records, "val/loss")
    if steps.size:
        axes.plot(steps, losses, color=_TREATED, marker="o", ms=4, lw=1.5, label="val/loss")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    _quiet(axes)
    if axes.lines:
        axes.legend(frameon=False)
    _caption(
        figure,
        "Validation should fall with training and level off; where it rises while training still "
        "falls, the model memorises.",
    )
    figure.savefig(path, dpi=150)


def plot_strata_bars(result: Mapping[str, Any], path: str | Path) -> None:
    """Scores per cell type: bars for the model, marks for the baselines.

    Args:
        result: content of `eval/metrics.json` (see `table.results_table`); the timepoints of a
            cell type are averaged.
        path: the PNG to write.
    """
    types = sorted({stratum["cell_type"] for stratum in result["strata"]})
    figure = Figure(figsize=(11, 2.2 + 0.5 * len(types)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, title) in zip(panels, _BARS.items(), strict=True):
        _type_bars(axes, result["strata"], types, name)
        axes.set_title(title, fontsize=9)
    panels[0].set_yticks(range(len(types)), types)
    panels[0].invert_yaxis()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    _caption(
        figure,
        "The model is worth its cost in the cell types where its bar passes every mark: longer on "
        f"the left, shorter on the right. Marks at {_LIMITS['e_distance_ratio']} on the right lie "
        "there or beyond.",
    )
    figure.savefig(path, dpi=150)


def plot_umap(cell_map: CellMap, path: str | Path) -> None:
    """Real control, real treated and predicted cells on one map of the real cells.

    Args:
        cell_map: the cells' coordinates.
        path: the PNG to write.
    """
    points = np.concatenate([cell_map.control, cell_map.treated, cell_map.predicted])
    sizes = [len(cell_map.control), len(cell_map.treated), len(cell_map.predicted)]
    figure = _umap_figure(points, np.repeat([_CONTROL, _TREATED, _PREDICTED], sizes))
    _name_types(figure.axes[0], cell_map)
    figure.savefig(path, dpi=150)


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one logged quantity, ordered by step."""
    pairs = sorted(
        (record["step"], record[key])
        for record in records
        if record.get(key) is not None and math.isfinite(record[key])
    )
    return np.array([step for step, _ in pairs]), np.array([value for _, value in pairs])


def _running_median(values: Float[np.ndarray, " steps"], window: int) -> np.ndarray:
    """Median of the surrounding window, shortened at the ends."""
    half = window // 2
    return np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )


def _type_bars(
    axes: Axes, strata: Sequence[Mapping[str, Any]], types: Sequence[str], name: str
) -> None:
    """One panel: a bar a type for the model, a mark a type and baseline, a line for identity."""
    rows, limit = np.arange(len(types)), _LIMITS.get(name, math.inf)
    bars = np.minimum(_by_type(strata, types, "model", name), limit)
    axes.barh(rows, bars, 0.7, color=_PREDICTED, label="model")
    baselines = list(dict.fromkeys(b for s in strata for b in s["baselines"]))
    drawn = [b for b in baselines if b != "identity"]
    # Marks of equal value would hide one another on a common height.
    offsets = np.linspace(-0.25, 0.25, len(drawn)) if len(drawn) > 1 else [0.0]
    for i, (baseline, offset) in enumerate(zip(drawn, offsets, strict=False)):
        # Nine shapes and five colours: 45 marks that differ in one or the other.
        marker, color = _MARKERS[i % len(_MARKERS)], _MARK_COLORS[i % len(_MARK_COLORS)]
        values = np.minimum(_by_type(strata, types, baseline, name), limit)
        axes.plot(
            values, rows + offset, marker, color=color, mec="white", mew=0.6, ms=7, label=baseline
        )
    if "identity" in baselines:
        level = float(np.nanmean(_by_type(strata, types, "identity", name)))
        axes.axvline(level, color="#444444", ls="--", lw=1, label="identity")
    _quiet(axes)
    axes.grid(axis="y", visible=False)


def _by_type(
    strata: Sequence[Mapping[str, Any]], types: Sequence[str], who: str, name: str
) -> Float[np.ndarray, " types"]:
    """Mean over a type's strata of one metric of the model or a baseline; NaN where undefined."""
    means = []
    for cell_type in types:
        scores = [
            s["model"] if who == "model" else s["baselines"].get(who, {})
            for s in strata
            if s["cell_type"] == cell_type
        ]
        values = [row[name] for row in scores if row.get(name) is not None]
        defined = [value for value in values if not math.isnan(value)]
        means.append(float(np.mean(defined)) if defined else math.nan)
    return np.array(means)


def _umap_figure(points: Float[np.ndarray, "cells 2"], colors: np.ndarray) -> Figure:
    """The scatter, drawn in random order so that no group covers another."""
    figure = Figure(figsize=(7.5, 7), layout="constrained")
    axes = figure.subplots()
    order = np.random.default_rng(0).permutation(len(points))
    axes.scatter(*points[order].T, c=colors[order], s=7, alpha=0.7, lw=0, rasterized=True)
    groups = {"real control": _CONTROL, "real treated": _TREATED, "predicted": _PREDICTED}
    handles = [
        Line2D([], [], ls="", marker="o", color=color, label=label)
        for label, color in groups.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("UMAP 1")
    axes.set_ylabel("UMAP 2")
    axes.spines[["top", "right"]].set_visible(False)
    _caption(
        figure,
        "Predicted cells should lie among the real treated cells of their type, spread as widely; "
        "the map was fitted on real cells only, and distances on it are not to scale.",
    )
    return figure


def _name_types(axes: Axes, cell_map: CellMap) -> None:
    """Write each cell type once, at the median of its control cells."""
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for cell_type in dict.fromkeys(cell_map.control_type):
        x, y = np.median(cell_map.control[cell_map.control_type == cell_type], axis=0)
        axes.text(x, y, cell_type, ha="center", va="center", fontsize=9, path_effects=halo)


def _quiet(axes: Axes) -> None:
    """A light grid behind the data and no frame on the open sides."""
    axes.grid(color="#e6e6e6", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _caption(figure: Figure, text: str) -> None:
    """One sentence below the figure on what to look for."""
    n_lines = math.ceil(len(text) / (figure.get_figwidth() * 13))
    # Lines of about equal length, with room to break between words.
    lines = textwrap.wrap(text, len(text) // n_lines + 8)
    figure.supxlabel("\n".join(lines), fontsize=9, color="#555555")
