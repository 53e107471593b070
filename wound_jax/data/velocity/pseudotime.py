"""Directions of cells from a pseudotime, for files without splicing counts.

The pseudotime is an obs column, or diffusion pseudotime (Haghverdi et al. 2016, Nat. Methods 13,
845; scanpy's) of each cell type from a root: the control cell at the medoid of the control cells,
the one nearest to all others. A kNN graph is then biased towards later cells (CellRank's pseudotime
kernel, Lange et al. 2022, Nat. Methods 19, 159). With dt = t_j - t_i, times in [0, 1], for the k
neighbours j of a cell i,

    T_ij = w_ij / sum_j w_ij
    soft   w = 1 for dt >= 0, else 2 / (1 + exp(-b dt))^2, b = 10     (VIA: Stassen et al. 2021,
                                                                     Nat. Commun. 12, 5528)
    hard   w = 1 for dt >= 0 and for the nearest 30 % of the neighbours, else 0
                                        (Palantir: Setty et al. 2019, Nat. Biotechnol. 37, 451)

and `wound_jax.data.velocity.graph.drift` turns T into displacements. A cell whose neighbours are
all later has uniform transitions under both, hence no direction. By hand, for CellRank 2.0.7 gives
these weights to 1e-11 where it runs, but stops at a graph that is not symmetric, as kNN graphs are.

What comes out fills the same places as an RNA velocity (`wound_jax.data.velocity.contract`), but is
none: it is derived from the cells of one snapshot and from the labels that chose the root, and
knows no kinetics. Cells that a model is to be tested on shape it unless they are left out; a cell
left out gets no velocity.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import anndata as ad
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu

from wound_jax.data.label_columns import excluded_labels, read_column, refuse_half_named
from wound_jax.data.velocity.contract import (
    CONFIDENCE,
    ESTIMATE,
    PSEUDOTIME_ENGINE,
    from_pseudotime,
    velocity_keys,
)
from wound_jax.data.velocity.graph import (
    drift,
    moving_matrix,
    nearest_neighbours,
    neighbour_confidence,
    neighbour_space,
)
from wound_jax.errors import UserError, unknown_name

Scheme = Literal["soft", "hard"]
# Fewer cells than this have no eigenvectors worth the name.
MIN_CELLS = 20
_STEEPNESS = 10.0
_SHARE_KEPT = 0.3
# Rows of a distance matrix computed at once.
_BLOCK = 1_024
PSEUDOTIME, MAGNITUDE = "velocity_pseudotime", "velocity_magnitude"
CAUTION = (
    "these directions are no RNA velocity. They follow an order of the cells of one snapshot (and "
    "the labels that chose its root), carry no kinetic information, and lengths mean nothing. "
    "Every cell that was not left out shaped them, and whatever shaped a given pseudotime or "
    "embedding did too: leave out all cells that a model is tested on."
)


@dataclass(frozen=True)
class PseudotimeOptions:
    """How directions are derived from a pseudotime.

    Attributes:
        key: the matrix they are displacements of: "X", "layers/NAME" or "obsm/KEY".
        pseudotime: obs column; None computes diffusion pseudotime in each group.
        groups: obs column of the groups (cell types) within which neighbours are found and times
            compared; None takes all cells as one, for a column of pseudotime alone.
        condition: obs column that tells control cells, for diffusion pseudotime.
        control: its label of control cells.
        leave_out: obs column -> values; cells that carry one of them take no part.
        scheme: see `forward_transitions`.
        n_neighbours: of the graph.
        neighbours_in: obsm key in which neighbours are found; None as in `neighbour_space`.
        preprocess: "none" or "log1p_cp10k", as in training; for a gene matrix.
        trust_scale: whether its scale is left unchecked.
    """

    key: str
    pseudotime: str | None = None
    groups: str | None = None
    condition: str = "condition"
    control: str = "Sham"
    leave_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scheme: Scheme = "soft"
    n_neighbours: int = 30
    neighbours_in: str | None = None
    preprocess: str = "none"
    trust_scale: bool = False


def add_pseudotime_velocity(adata: ad.AnnData, options: PseudotimeOptions) -> pd.DataFrame:
    """Adds directions, their confidence, length and pseudotime to `adata` in place.

    Written are `layers["velocity"]` or `obsm["velocity_KEY"]`, `obs["velocity_confidence"]` (mean
    cosine with the neighbours' directions, in the space where neighbours are found, not below 0),
    `obs["velocity_pseudotime"]` in [0, 1] within each group, `obs["velocity_magnitude"]`, and
    `uns["velocity_estimate"]`. All are NaN for cells that take no part: those left out, those
    without a pseudotime, and groups too small for a graph.

    Args:
        adata: the cells.
        options: how.

    Returns:
        A row for each group: `cells`, `left_out`, `with_direction`, and, for diffusion pseudotime,
        `treated_later`, how often a treated cell is later than a control cell (0.5: the order says
        nothing of the treatment; 1: it says no more than the label).

    Raises:
        UserError: a column, value or matrix is not there, the file holds another velocity, no
            group is large enough, or the pseudotime does not vary.
    """
    _refuse_other_velocity(adata, options.key)
    obs = cast(pd.DataFrame, adata.obs)
    left_out = _left_out(obs, options.leave_out)
    groups = np.full(len(obs), "all cells", dtype=object)
    if options.groups is not None:
        groups = _labels(obs, options.groups)
    kept = np.flatnonzero(~left_out)
    trust = options.trust_scale
    values = moving_matrix(adata, options.key, options.preprocess, kept, trust_scale=trust)
    around, found_in = neighbour_space(adata, options.key, values, options.neighbours_in, kept)
    time = _pseudotimes(obs, groups, around, ~left_out, options)
    velocity, confidence = _directions(values, around, groups, time, options)
    _store(adata, options.key, velocity, confidence, time)
    table = _summary(obs, groups, left_out, time, options)
    adata.uns[ESTIMATE] = _record(options, found_in, int(left_out.sum()))
    return table


def _directions(
    values: Float[np.ndarray, "cells dims"],
    around: Float[np.ndarray, "cells pcs"],
    groups: np.ndarray,
    time: Float[np.ndarray, " cells"],
    options: PseudotimeOptions,
) -> tuple[Float[np.ndarray, "cells dims"], Float[np.ndarray, " cells"]]:
    """Directions and confidences, NaN for cells that take no part; times are scaled in place."""
    velocity = np.full(values.shape, np.nan, dtype=np.float32)
    confidence = np.full(len(values), np.nan, dtype=np.float32)
    for rows in _large_groups(groups, np.isfinite(time), options.n_neighbours):
        time[rows] = unit_interval(time[rows])
        neighbours = nearest_neighbours(around[rows], options.n_neighbours)
        transitions = forward_transitions(time[rows], neighbours, options.scheme)
        velocity[rows] = drift(transitions, values[rows], neighbours)
        steps = drift(transitions, around[rows], neighbours)
        confidence[rows] = neighbour_confidence(steps, neighbours, centred=False)
    if not np.nan_to_num(velocity).any():
        raise UserError(
            "no cell has a direction: the pseudotime does not vary, or no group has more than "
            f"{options.n_neighbours} neighbours and {MIN_CELLS} cells with a pseudotime (for "
            "diffusion pseudotime, control cells among them). Ask for fewer neighbours, leave out "
            "less, or name coarser groups."
        )
    time[np.isnan(confidence)] = np.nan
    return velocity, confidence


def _refuse_other_velocity(adata: ad.AnnData, key: str) -> None:
    """A velocity from splicing says more, and one column of confidences cannot serve two."""
    if from_pseudotime(adata):
        return
    layers, obsm = ([f"{k}/{name}" for name in getattr(adata, k)] for k in ("layers", "obsm"))
    found = sorted({*layers, *obsm} & set(velocity_keys(key)))
    found += [f"obs/{CONFIDENCE}"] if CONFIDENCE in adata.obs else []
    if found:
        raise UserError(
            f"the file already holds a velocity ({', '.join(found)}) that was not made from a "
            "pseudotime; use that one, or take these entries out of the file first."
        )


def _left_out(
    obs: pd.DataFrame, leave_out: Mapping[str, tuple[str, ...]]
) -> Bool[np.ndarray, " cells"]:
    out = np.zeros(len(obs), dtype=bool)
    for column, values in leave_out.items():
        if column not in obs:
            raise unknown_name("obs column to leave cells out by", column, obs.columns)
        labels = excluded_labels(obs, column)
        for value in values:
            if value not in set(labels):
                raise unknown_name(f"value of {column!r} to leave out", value, set(labels))
            out |= labels == value
        refuse_half_named(f"--leave-out {column}", values, set(labels))
    if out.all():
        raise UserError(f"leaving out {_in_words(leave_out)} leaves none of {len(obs)} cells.")
    return out


def _labels(obs: pd.DataFrame, column: str, words: Collection[str] = ()) -> np.ndarray:
    if column not in obs:
        raise unknown_name("obs column", column, obs.columns)
    return read_column(obs, column, words=words)


def _pseudotimes(
    obs: pd.DataFrame,
    groups: np.ndarray,
    around: Float[np.ndarray, "cells pcs"],
    kept: Bool[np.ndarray, " cells"],
    options: PseudotimeOptions,
) -> Float[np.ndarray, " cells"]:
    """Pseudotime of the cells that take part, NaN for all others."""
    if options.pseudotime is not None:
        return np.where(kept, _column_of_times(obs, options.pseudotime), np.nan)
    is_control = _is_control(obs, options)
    time = np.full(len(obs), np.nan)
    for rows in _large_groups(groups, kept, options.n_neighbours):
        if is_control[rows].any():
            time[rows] = control_rooted_pseudotime(
                around[rows], is_control[rows], options.n_neighbours
            )
    return time


def _column_of_times(obs: pd.DataFrame, column: str) -> Float[np.ndarray, " cells"]:
    """A column of pseudotime; infinite (scanpy: not connected with the root) counts as unknown."""
    if column not in obs:
        raise unknown_name("obs column of pseudotime", column, obs.columns)
    if not pd.api.types.is_numeric_dtype(obs[column]):
        raise UserError(f"obs[{column!r}] must hold numbers; it is {obs[column].dtype}.")
    time = obs[column].to_numpy(dtype=np.float64)
    return np.where(np.isfinite(time), time, np.nan)


def _is_control(obs: pd.DataFrame, options: PseudotimeOptions) -> Bool[np.ndarray, " cells"]:
    conditions = _labels(obs, options.condition, (options.control,))
    if options.control not in set(conditions):
        raise unknown_name("control label (--control)", options.control, set(conditions))
    return conditions == options.control


def _large_groups(
    groups: np.ndarray, usable: Bool[np.ndarray, " cells"], n_neighbours: int
) -> Iterator[Int[np.ndarray, " members"]]:
    """Positions of the usable cells of each group that has enough of them for a graph."""
    for label in sorted(set(groups)):
        rows = np.flatnonzero(usable & (groups == label))
        if len(rows) > n_neighbours and len(rows) >= MIN_CELLS:
            yield rows


def _store(
    adata: ad.AnnData,
    key: str,
    velocity: Float[np.ndarray, "cells dims"],
    confidence: Float[np.ndarray, " cells"],
    time: Float[np.ndarray, " cells"],
) -> None:
    kind, _, name = velocity_keys(key)[0].partition("/")
    (adata.layers if kind == "layers" else adata.obsm)[name] = velocity
    adata.obs[CONFIDENCE] = confidence
    adata.obs[PSEUDOTIME] = time
    adata.obs[MAGNITUDE] = np.linalg.norm(velocity, axis=1)


def _summary(
    obs: pd.DataFrame,
    groups: np.ndarray,
    left_out: Bool[np.ndarray, " cells"],
    time: Float[np.ndarray, " cells"],
    options: PseudotimeOptions,
) -> pd.DataFrame:
    """What `add_pseudotime_velocity` returns."""
    known = np.isfinite(time)
    columns = {"group": groups, "cells": 1, "left_out": left_out, "with_direction": known}
    table = cast(pd.DataFrame, pd.DataFrame(columns).groupby("group").sum())
    if options.pseudotime is None:
        is_control = _is_control(obs, options)
        table["treated_later"] = [
            _share_later(time[(groups == g) & known], is_control[(groups == g) & known])
            for g in table.index
        ]
    return table.reset_index()


def _share_later(time: np.ndarray, is_control: np.ndarray) -> float:
    """Share of pairs whose treated cell is later than its control cell, a tie counting half."""
    n_control, n_treated = int(is_control.sum()), int((~is_control).sum())
    if not n_control or not n_treated:
        return float("nan")
    found = mannwhitneyu(time[~is_control], time[is_control]).statistic
    return float(found) / (n_control * n_treated)


def _record(options: PseudotimeOptions, found_in: str, n_left_out: int) -> dict[str, object]:
    """What `uns` says of how the directions were made."""
    origin = f"obs/{options.pseudotime}"
    if options.pseudotime is None:
        origin = (
            f"diffusion pseudotime within each {options.groups}, from the medoid of the "
            f"{options.control} cells"
        )
    return {
        "engine": PSEUDOTIME_ENGINE,
        "of": options.key,
        "pseudotime": origin,
        "groups": options.groups or "",
        "scheme": options.scheme,
        "neighbours": options.n_neighbours,
        "neighbours_in": found_in,
        "preprocess": options.preprocess,
        "left_out": _in_words(options.leave_out),
        "cells_left_out": n_left_out,
        "caution": CAUTION,
    }


def _in_words(leave_out: Mapping[str, tuple[str, ...]]) -> str:
    """As typed: "donor=1256,1488; cell_type=NK cells"."""
    return "; ".join(f"{column}={','.join(values)}" for column, values in leave_out.items())


def forward_transitions(
    pseudotime: Float[np.ndarray, " cells"],
    neighbours: Int[np.ndarray, "cells k"],
    scheme: str = "soft",
) -> Float[np.ndarray, "cells k"]:
    """Transition probabilities from each cell to its neighbours, biased towards later ones.

    Args:
        pseudotime: [cells] in [0, 1], finite.
        neighbours: [cells, k], nearest first.
        scheme: "soft" weighs earlier neighbours down, "hard" drops those that are not near.

    Returns:
        float64 [cells, k], rows summing to one.

    Raises:
        UserError: an unknown scheme.
    """
    ahead = pseudotime[neighbours].astype(np.float64) - pseudotime[:, None]
    if scheme == "soft":
        weight = np.where(ahead < 0, 2.0 / (1.0 + np.exp(-_STEEPNESS * ahead)) ** 2, 1.0)
    elif scheme == "hard":
        k = neighbours.shape[1]
        near = np.arange(k) < max(1, int(_SHARE_KEPT * k))
        weight = (near | (ahead >= 0)).astype(np.float64)
    else:
        raise unknown_name("pseudotime scheme", scheme, ("soft", "hard"))
    return weight / weight.sum(axis=1, keepdims=True)


def control_rooted_pseudotime(
    embedding: Float[np.ndarray, "cells dims"],
    is_control: Bool[np.ndarray, " cells"],
    n_neighbours: int,
) -> Float[np.ndarray, " cells"]:
    """`diffusion_pseudotime` of the cells of one type, from the medoid of its control cells."""
    controls = np.flatnonzero(is_control)
    root = int(controls[medoid(embedding[controls])])
    return diffusion_pseudotime(embedding, root, n_neighbours)


def diffusion_pseudotime(
    embedding: Float[np.ndarray, "cells dims"], root: int, n_neighbours: int
) -> Float[np.ndarray, " cells"]:
    """scanpy's diffusion pseudotime on an exact graph with Gaussian weights.

    Args:
        embedding: [cells, dims], more than `n_neighbours` cells.
        root: position of the cell at time 0.
        n_neighbours: of the graph, the cell itself included as scanpy counts.

    Returns:
        float64 [cells] in [0, 1]; NaN for cells that the graph does not connect with the root.
    """
    import scanpy as sc

    cells = ad.AnnData(np.zeros((len(embedding), 1), dtype=np.float32))
    cells.obsm["embedding"] = embedding
    # The approximate search that scanpy takes for many cells depends on their order.
    sc.pp.neighbors(cells, n_neighbours, use_rep="embedding", method="gauss", transformer="sklearn")
    sc.tl.diffmap(cells)
    cells.uns["iroot"] = root
    sc.tl.dpt(cells)
    time = cells.obs["dpt_pseudotime"].to_numpy(dtype=np.float64)
    return np.where(np.isfinite(time), time, np.nan)


def medoid(embedding: Float[np.ndarray, "cells dims"]) -> int:
    """The cell with the smallest mean Euclidean distance to all cells; the first where they tie."""
    blocks = (embedding[i : i + _BLOCK] for i in range(0, len(embedding), _BLOCK))
    return int(np.argmin(np.concatenate([cdist(b, embedding).mean(axis=1) for b in blocks])))


def unit_interval(time: Float[np.ndarray, " cells"]) -> Float[np.ndarray, " cells"]:
    """Times moved and scaled to [0, 1]; NaN stays, and equal times become 0."""
    low, high = np.nanmin(time), np.nanmax(time)
    return (time - low) / (high - low if high > low else 1.0)
