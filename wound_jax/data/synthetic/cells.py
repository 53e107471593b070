"""Cells of the synthetic wound set: where each comes from, and its hidden state.

A cell's state is drawn once and serves its measured expression and its counterfactual alike:
position on the lineage axes `a = L_type + 0.35 z`, competence to respond `h`, cell cycle, two
factors of its own type, `progress` (days ahead of its mouse) and sequencing depth.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from wound_jax.data.synthetic.design import BURN, DAYS, MICE, Ingredient, cells_per_mouse, stream
from wound_jax.data.synthetic.markers import TYPES

# Immune, mesenchymal and ectodermal coordinate of each type. The burn effect is in part a linear
# function of them (`wound_jax.data.synthetic.programs`), so that types near each other respond
# alike and a type never seen burnt can be told from its control expression.
LINEAGE: dict[str, tuple[float, float, float]] = {
    "Ker": (-0.6, -0.6, 1.2),
    "Fib": (-0.5, 1.2, -0.2),
    "Neu": (1.2, -0.7, -0.3),
    "Mac": (1.0, -0.1, -0.4),
    "Mus": (-0.7, 0.8, 0.5),
    "Endo": (-0.1, 0.6, -0.5),
    "T": (0.9, -0.8, -0.1),
    "DC": (1.1, -0.4, 0.1),
    "Peri": (-0.6, 1.1, 0.1),
    "Mono": (1.2, -0.3, -0.5),
    "Sch": (-0.8, 0.1, 1.0),
}
N_AXES = 3
N_OWN = 2
AXIS_SD = 0.35
PROGRESS_SD = 1.2
# Counts per gene of a median cell, times a factor of its type: a panel of any size is as sparse.
COUNTS_PER_GENE = 0.8
TYPE_DEPTH: dict[str, float] = {"Neu": 0.5, "T": 0.6, "Mac": 1.2, "Ker": 1.1, "Fib": 1.2}
CELL_DEPTH_SD = 0.35
MOUSE_DEPTH_SD = 0.15


@dataclass(frozen=True)
class Cells:
    """Origin and hidden state of cells.

    Attributes:
        type_index: position in `TYPES`.
        mouse_index: position in `MICE`.
        day: days after injury.
        burnt: whether the burn acts on the cell.
        axes: lineage coordinates.
        competence: how strongly the cell answers the wound; mean 0, sd 1.
        cycle: cell-cycle activity; mean 0, sd 1.
        own: two factors of the cell's own type; mean 0, sd 1.
        progress: days the cell is ahead of its mouse along the time course.
        depth: expected counts.
    """

    type_index: Int[np.ndarray, " cells"]
    mouse_index: Int[np.ndarray, " cells"]
    day: Float[np.ndarray, " cells"]
    burnt: Bool[np.ndarray, " cells"]
    axes: Float[np.ndarray, "cells axes"]
    competence: Float[np.ndarray, " cells"]
    cycle: Float[np.ndarray, " cells"]
    own: Float[np.ndarray, "cells factors"]
    progress: Float[np.ndarray, " cells"]
    depth: Float[np.ndarray, " cells"]

    def __len__(self) -> int:
        return len(self.type_index)

    @property
    def time(self) -> Float[np.ndarray, " cells"]:
        """Days after injury at which each cell stands on the time course."""
        return self.day + self.progress

    def take(self, rows: slice | np.ndarray) -> "Cells":
        """The cells at `rows` (a slice, positions or a boolean mask)."""
        return Cells(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def as_burnt(self) -> "Cells":
        """The same cells, mouse and state included, had they been burnt."""
        return replace(self, burnt=np.ones(len(self), dtype=bool))


def draw_cells(n_cells: int, n_genes: int, seed: int) -> Cells:
    """Draws all cells, mouse by mouse, the types of a mouse in random order.

    Args:
        n_cells: cells in all.
        n_genes: genes in all; depth grows with it.
        seed: seed of the set.
    """
    table = cells_per_mouse(n_cells, seed)
    order = stream(seed, Ingredient.ORDER)
    kinds = np.arange(len(TYPES))
    type_index = np.concatenate([order.permutation(np.repeat(kinds, row)) for row in table])
    mouse_index = np.repeat(np.arange(len(MICE)), table.sum(axis=1))
    rng = stream(seed, Ingredient.STATES)
    lineage = np.array([LINEAGE[name] for name in TYPES])
    return Cells(
        type_index=type_index,
        mouse_index=mouse_index,
        day=np.array([float(mouse.day) for mouse in MICE])[mouse_index],
        burnt=np.array([mouse.condition == BURN for mouse in MICE])[mouse_index],
        axes=lineage[type_index] + AXIS_SD * rng.standard_normal((n_cells, N_AXES)),
        competence=rng.standard_normal(n_cells),
        cycle=rng.standard_normal(n_cells),
        own=rng.standard_normal((n_cells, N_OWN)),
        progress=PROGRESS_SD * rng.standard_normal(n_cells),
        depth=_depth(type_index, mouse_index, n_genes, seed),
    )


def _depth(
    type_index: np.ndarray, mouse_index: np.ndarray, n_genes: int, seed: int
) -> Float[np.ndarray, " cells"]:
    rng = stream(seed, Ingredient.DEPTH)
    of_type = np.log([TYPE_DEPTH.get(name, 1.0) for name in TYPES])[type_index]
    of_mouse = (MOUSE_DEPTH_SD * rng.standard_normal(len(MICE)))[mouse_index]
    of_cell = CELL_DEPTH_SD * rng.standard_normal(len(type_index))
    return COUNTS_PER_GENE * n_genes * np.exp(of_type + of_mouse + of_cell)


def mean_cells() -> Cells:
    """One sham cell of each type whose state is the mean of its type, on the first day."""
    zero = np.zeros(len(TYPES))
    return Cells(
        type_index=np.arange(len(TYPES)),
        mouse_index=np.zeros(len(TYPES), dtype=int),
        day=zero + DAYS[0],
        burnt=np.zeros(len(TYPES), dtype=bool),
        axes=np.array([LINEAGE[name] for name in TYPES]),
        competence=zero,
        cycle=zero,
        own=np.zeros((len(TYPES), N_OWN)),
        progress=zero,
        depth=zero + 1.0,
    )
