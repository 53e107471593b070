"""One map of real and predicted cells: UMAP fitted on the real cells alone.

UMAP (McInnes, Healy and Melville 2018, arXiv 1802.03426) is fitted on real control and treated
cells, and predictions are projected into it: fitted together, predictions would shape the map they
are judged on. Distances on the map are not to scale.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

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
        np.savez_compressed(path, **coordinates, **types)

    @classmethod
    def load(cls, path: Path) -> "CellMap":
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**arrays)


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
