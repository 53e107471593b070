"""Mixing of predicted and treated cells: one map, and the numbers that a map cannot give.

The map, UMAP (McInnes, Healy and Melville 2018, arXiv 1802.03426) is fitted on real control and
treated cells, and predictions are projected into it: fitted together, predictions would shape the
map they are judged on. Distances on the map are not to scale.

The numbers: for each stratum, with equally many predicted cells P and treated cells T:

    knn_mixing      the smaller of two shares: treated cells among the k nearest neighbours of a
                    predicted cell, and predicted ones among those of a treated cell; n / (2n - 1)
                    when the sets are alike, 0 when they are apart
    classifier_auc  area under the ROC curve of a logistic regression that tells P from T, on cells
                    it was not fitted to; .5 when they are alike, 1 when they are apart
    silhouette      of the labels P and T (Rousseeuw 1987, J Comput Appl Math 20:53); about 0 when
                    they are alike, 1 when they are apart

averaged over strata. Beside each stand the same number of cells of control against treated (the
identity), and of one half of the treated cells against the other (as good as it gets).

Two steps keep collapsed predictions from passing. One mean cell is the nearest neighbour of every
treated cell, so that the mean of the two shares is the ideal one; their minimum is 0. And no plane
tells a point from the cloud around it, so that the regression is given squares as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, silhouette_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from wound_jax.data.annotations import NO_LABEL
from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.evaluation.context import ScoreContext
from wound_jax.files import read_arrays, write_arrays

GROUPS = ("control", "treated", "predicted")


@dataclass(frozen=True, eq=False)
class ProjectedStratum:
    """Cells of one stratum on the principal components of the training cells.

    Attributes:
        cell_type: label of the cell type.
        control: [cells, dims].
        treated: [targets, dims].
        predicted: [cells, dims].
    """

    cell_type: str
    control: Float[np.ndarray, "cells dims"]
    treated: Float[np.ndarray, "targets dims"]
    predicted: Float[np.ndarray, "cells dims"]


@dataclass(frozen=True, eq=False)
class CellMap:
    """Coordinates of a sample of cells, with the cell type of each.

    Attributes:
        control: [cells, 2], real control cells.
        treated: [targets, 2], real treated cells.
        predicted: [cells, 2], predicted cells, projected.
        control_type: [cells], labels.
        treated_type: [targets], labels.
        predicted_type: [cells], labels.
    """

    control: Float[np.ndarray, "cells 2"]
    treated: Float[np.ndarray, "targets 2"]
    predicted: Float[np.ndarray, "others 2"]
    control_type: Shaped[np.ndarray, " cells"]
    treated_type: Shaped[np.ndarray, " targets"]
    predicted_type: Shaped[np.ndarray, " others"]

    def save(self, path: Path) -> None:
        """Writes the arrays under the names of the attributes, coordinates as float32."""
        coordinates = {name: getattr(self, name).astype(np.float32) for name in GROUPS}
        types = {f"{name}_type": getattr(self, f"{name}_type").astype(str) for name in GROUPS}
        write_arrays(path, {**coordinates, **types})

    @classmethod
    def load(cls, path: Path) -> "CellMap":
        """Reads what `save` wrote."""
        return cls(**read_arrays(path))


def fit_cell_map(strata: Sequence[ProjectedStratum], seed: int, max_cells: int = 2500) -> CellMap:
    """Lays out a sample of the real cells and projects a sample of the predicted ones.

    Args:
        strata: the strata, on the training components.
        seed: seed of the sample and of the map.
        max_cells: cells in all; every group of every stratum keeps the same share of its cells.

    Returns:
        The map.
    """
    rng = np.random.default_rng(seed)
    total = sum(len(getattr(stratum, name)) for stratum in strata for name in GROUPS)
    share = min(1.0, max_cells / total)
    cells, types = {}, {}
    for name in GROUPS:
        kept = [_thin(getattr(stratum, name), share, rng) for stratum in strata]
        cells[name] = np.concatenate(kept)
        types[name] = np.repeat([stratum.cell_type for stratum in strata], [len(k) for k in kept])
    real, projected = _umap(
        np.concatenate([cells["control"], cells["treated"]]), cells["predicted"], seed
    )
    control, treated = np.split(real, [len(cells["control"])])
    return CellMap(control, treated, projected, *(types[name] for name in GROUPS))


def _thin(
    cells: Float[np.ndarray, "cells dims"], share: float, rng: np.random.Generator
) -> Float[np.ndarray, "kept dims"]:
    """A random share of the cells, at least one where there are any."""
    kept = min(len(cells), max(1, int(len(cells) * share)))
    return cells[rng.choice(len(cells), kept, replace=False)] if kept else cells


def _umap(
    real: Float[np.ndarray, "cells dims"], projected: Float[np.ndarray, "others dims"], seed: int
) -> tuple[Float[np.ndarray, "cells 2"], Float[np.ndarray, "others 2"]]:
    """Coordinates of the real cells on their own map, and of other cells projected into it."""
    # Compiling umap costs seconds at import, which runs without pictures need not pay.
    from umap import UMAP

    neighbours = min(15, len(real) - 1)
    # One job, because a seeded map is computed by one thread in any case.
    reducer = UMAP(neighbours, min_dist=0.3, n_epochs=200, random_state=seed, n_jobs=1).fit(real)
    return np.asarray(reducer.embedding_), np.asarray(reducer.transform(projected))


NEIGHBOURS = 15


_FOLDS = 5


# Cells of each set, at most: distances are computed between all of them.
_MAX_CELLS = 500


# Cells of each set, at least: below it neighbours and folds say nothing.
_FEWEST_CELLS = 15


@dataclass(frozen=True, eq=False)
class CellSets:
    """The three sets of cells of one stratum, in coordinates of any kind.

    Attributes:
        label: name of the stratum.
        control: [cells, dims].
        treated: [targets, dims].
        predicted: [cells, dims], row i made from control cell i where `paired`.
        control_replicates: [cells], the replicate of each control cell; None where unknown.
        treated_replicates: [targets]; None where unknown.
        paired: whether predictions and controls are the same cells, row by row.

    Raises:
        UserError: the rows or the coordinates of the sets do not fit each other.
    """

    label: str
    control: Float[np.ndarray, "cells dims"]
    # Whether the coordinates are the same is asked on construction, in words for the user.
    treated: Float[np.ndarray, "targets _dims"]
    predicted: Float[np.ndarray, "predicted _dims"]
    control_replicates: Shaped[np.ndarray, " cells"] | None = None
    treated_replicates: Shaped[np.ndarray, " targets"] | None = None
    paired: bool = True

    def __post_init__(self) -> None:
        shapes = [cells.shape for cells in (self.control, self.treated, self.predicted)]
        if len({shape[1] for shape in shapes}) > 1 or (self.paired and shapes[0] != shapes[2]):
            raise UserError(
                f"{self.label}: control {shapes[0]}, treated {shapes[1]}, predicted {shapes[2]}; "
                "expected the same coordinates, and one prediction for each control cell."
            )


class _Two(NamedTuple):
    """Two sets of equally many cells, and the replicate of every cell."""

    x: Float[np.ndarray, "cells dims"]
    y: Float[np.ndarray, "cells dims"]
    x_replicates: Shaped[np.ndarray, " cells"] | None
    y_replicates: Shaped[np.ndarray, " cells"] | None


def in_training_space(
    strata: Sequence[Stratum], predictions: Sequence[np.ndarray], context: ScoreContext
) -> list[CellSets]:
    """The cells of strata on the principal components of the training cells.

    Args:
        strata: the held-out strata.
        predictions: [n_control, genes] for each of them.
        context: holds the components.
    """
    return [
        CellSets(
            stratum.key,
            context.project(stratum.control),
            context.project(stratum.treated),
            context.project(predicted),
            stratum.control_replicates,
            stratum.treated_replicates,
        )
        for stratum, predicted in zip(strata, predictions, strict=True)
    ]


def on_map(coordinates: Mapping[str, np.ndarray]) -> list[CellSets]:
    """The cells of a two-dimensional map, one stratum a cell type.

    Args:
        coordinates: "control", "treated", "predicted" [cells, 2], and their labels "control_type",
            "treated_type", "predicted_type" [cells]: the content of `eval/umap.npz`. The map is
            drawn of a sample, in which predictions need not be those of its control cells.
    """

    def of(label: str, arm: str) -> np.ndarray:
        return coordinates[arm][coordinates[f"{arm}_type"].astype(str) == label]

    return [
        CellSets(
            label, of(label, "control"), of(label, "treated"), of(label, "predicted"), paired=False
        )
        for label in sorted(set(coordinates["predicted_type"].astype(str).tolist()))
    ]


def mixing(sets: Sequence[CellSets], seed: int = 0) -> dict:
    """How well predictions mix with treated cells (module docstring).

    Args:
        sets: the strata, from `in_training_space` or `on_map`.
        seed: seed of the samples and of the folds.

    Returns:
        "applicable"; "knn_mixing", "knn_of_predicted" and "knn_of_treated" (the two shares),
        "classifier_auc", "silhouette", each also with the endings "_identity" and "_real";
        "knn_mixing_ideal"; "n_strata"; "auc_by": how many strata have
        their folds cut between replicates, and between cells; "skipped": strata that are too small.
    """
    rows, by, skipped = [], {"replicates": 0, "cells": 0}, []
    for place, one in enumerate(sets):
        comparisons = _comparisons(one, np.random.default_rng([seed, place]))
        if comparisons is None:
            skipped.append(one.label)
            continue
        row = {"knn_mixing_ideal": _ideal(len(comparisons[""].x))}
        for ending, two in comparisons.items():
            row |= {f"{name}{ending}": value for name, value in _figures(two, seed).items()}
        rows.append(row)
        by["cells" if _groups(comparisons[""]) is None else "replicates"] += 1
    if not rows:
        return {
            "applicable": False,
            "reason": f"no stratum has {_FEWEST_CELLS} predicted and {2 * _FEWEST_CELLS} treated "
            "cells",
            "skipped": skipped,
        }
    means = {name: _mean_defined([row[name] for row in rows]) for name in rows[0]}
    return {"applicable": True, **means, "n_strata": len(rows), "auc_by": by, "skipped": skipped}


def _comparisons(one: CellSets, rng: np.random.Generator) -> dict[str, _Two] | None:
    """Prediction, identity and real cells, each against the same treated cells.

    All three have equally many cells, as each figure depends on how many there are. Predictions are
    taken at the control cells that stand for the identity where they are paired.
    """
    smaller = min(len(one.control), len(one.predicted))
    n = min(smaller, len(one.treated) // 2, _MAX_CELLS)
    if n < _FEWEST_CELLS:
        return None
    treated = rng.permutation(len(one.treated))
    half, other = np.sort(treated[:n]), np.sort(treated[n : 2 * n])
    control = np.sort(rng.choice(len(one.control), n, replace=False))
    predicted = control if one.paired else rng.choice(len(one.predicted), n, replace=False)
    target, replicates = one.treated[half], _at(one.treated_replicates, half)
    own = _at(one.control_replicates, control)
    return {
        "": _Two(one.predicted[predicted], target, own if one.paired else None, replicates),
        "_identity": _Two(one.control[control], target, own, replicates),
        "_real": _Two(one.treated[other], target, _at(one.treated_replicates, other), replicates),
    }


def _at(replicates: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if replicates is None else replicates[rows].astype(str)


def _figures(two: _Two, seed: int) -> dict[str, float]:
    cells = np.concatenate([two.x, two.y]).astype(np.float64)
    label = np.repeat([0, 1], [len(two.x), len(two.y)])
    distance = cdist(cells, cells)
    of_predicted, of_treated = _neighbour_shares(distance, label)
    return {
        "knn_mixing": min(of_predicted, of_treated),
        "knn_of_predicted": of_predicted,
        "knn_of_treated": of_treated,
        "classifier_auc": _classifier_auc(cells, label, _groups(two), seed),
        "silhouette": float(silhouette_score(distance, label, metric="precomputed")),
    }


def _mean_defined(values: Sequence[float]) -> float:
    """Mean over strata; one in whose folds the replicates of a set are missing has no area."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _ideal(n: int) -> float:
    """Share of the other set among the neighbours of a cell, all 2n cells being alike."""
    return n / (2 * n - 1)


def _neighbour_shares(
    distance: Float[np.ndarray, "cells cells"], label: Int[np.ndarray, " cells"]
) -> tuple[float, float]:
    """Share of the other set among the neighbours of each set; no cell is its own neighbour."""
    k = min(NEIGHBOURS, len(label) // 2 - 1)
    others = distance + np.diag(np.full(len(label), np.inf))
    neighbours = np.argpartition(others, k, axis=1)[:, :k]
    other = label[neighbours] != label[:, None]
    return float(other[label == 0].mean()), float(other[label == 1].mean())


def _groups(two: _Two) -> Shaped[np.ndarray, " cells"] | None:
    """The replicate of every cell of both sets; None where either side has fewer than two."""
    if two.x_replicates is None or two.y_replicates is None:
        return None
    if (
        min(len(set(side.tolist()) - {NO_LABEL}) for side in (two.x_replicates, two.y_replicates))
        < 2
    ):
        return None
    return np.concatenate([two.x_replicates, two.y_replicates])


def _classifier_auc(
    cells: Float[np.ndarray, "cells dims"],
    label: Int[np.ndarray, " cells"],
    groups: Shaped[np.ndarray, " cells"] | None,
    seed: int,
) -> float:
    """Mean over folds of the area on cells that were not fitted.

    Folds are cut between replicates where there are two on either side, so that what is told is the
    set and not the replicate, and so that a prediction and a treated cell of one replicate are
    never on both sides. Scores of different folds are not on one scale, and are not pooled. Values
    under .5 are chance, or predictions whose mean was matched to the very cells that are scored.
    """
    if groups is None:
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed).split(cells, label)
    else:
        n = min(_FOLDS, *(len(set(groups[label == side].tolist())) for side in (0, 1)))
        cut = StratifiedGroupKFold(n, shuffle=True, random_state=seed)
        folds = cut.split(cells, label, groups)
    # This solver runs in one thread: for so few cells, more of them cost far more than they save.
    model = LogisticRegression(solver="liblinear")
    areas = []
    for fitted, tested in folds:
        if len(set(label[fitted])) == 2 and len(set(label[tested])) == 2:
            inputs = _with_squares(cells, fitted)
            score = model.fit(inputs[fitted], label[fitted]).decision_function(inputs[tested])
            areas.append(roc_auc_score(label[tested], score))
    return float(np.mean(areas)) if areas else float("nan")


def _with_squares(
    cells: Float[np.ndarray, "cells dims"], fitted: Int[np.ndarray, " fitted"]
) -> Float[np.ndarray, "cells twice"]:
    """Coordinates and their squares around the mean, of unit variance on the fitted cells."""
    centred = cells - cells[fitted].mean(axis=0)
    both = np.concatenate([centred, np.square(centred)], axis=1)
    spread = both[fitted].std(axis=0)
    return (both - both[fitted].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
