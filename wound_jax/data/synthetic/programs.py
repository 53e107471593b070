"""What a cell expresses without a wound: gene programs and the kinetics of each gene.

The log rate of a gene is linear in the cell's state, `log r = S W`: the columns of `S` say how
much of each program a cell runs (`coefficients`), the rows of `W` which genes it moves. Programs
depend on the seed and the number of genes only, never on which or how many cells are drawn.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from wound_jax.data.synthetic.cells import N_AXES, N_OWN, Cells
from wound_jax.data.synthetic.design import MICE
from wound_jax.data.synthetic.ingredients import Ingredient, stream
from wound_jax.data.synthetic.markers import IDENTITY, MARKERS, TYPES, genes_of

# Genes that a type's first own factor moves up and down: a known gradient inside the type.
STATE_AXES: dict[str, tuple[str, str]] = {
    "Ker": ("celltype:Keratinocyte (suprabasal)", "celltype:Keratinocyte (basal)"),
    "Mac": ("M2_extra", "M1_extra"),
    "Fib": ("fibroblast_wound_subset", "fibroblast_inflammatory_early"),
}


@dataclass(frozen=True)
class Programs:
    """Genes, their programs in uninjured skin and their kinetics.

    Attributes:
        genes: gene symbols, markers first, then fillers `Gm00001` ...
        loadings: log-rate change per unit of each program; rows as the columns of `coefficients`.
        overdispersion: `phi` of the negative binomial, variance `mu + phi mu^2`.
        splicing_rate: `beta` per day, unspliced to spliced.
        degradation_rate: `gamma` per day, of spliced molecules.
    """

    genes: np.ndarray
    loadings: Float[np.ndarray, "programs genes"]
    overdispersion: Float[np.ndarray, " genes"]
    splicing_rate: Float[np.ndarray, " genes"]
    degradation_rate: Float[np.ndarray, " genes"]


def gene_names(n_genes: int) -> np.ndarray:
    """`n_genes` symbols: all markers, then fillers."""
    markers = genes_of(*MARKERS)
    fillers = [f"Gm{number:05d}" for number in range(1, n_genes - len(markers) + 1)]
    return np.array([*markers, *fillers], dtype=object)


def where(genes: np.ndarray, *sets: str) -> Bool[np.ndarray, " genes"]:
    """Which genes are in any of the named marker sets."""
    return np.isin(genes.astype(str), np.array(genes_of(*sets), dtype=str))


def sparse_normal(
    rng: np.random.Generator, shape: tuple[int, int], share: float, sd: float
) -> Float[np.ndarray, "programs genes"]:
    """Normal loadings of which a random `share` differs from zero."""
    kept = rng.random(shape) < share
    return np.where(kept, sd * rng.standard_normal(shape), 0.0)


def draw_programs(n_genes: int, seed: int) -> Programs:
    """Draws the programs of uninjured skin.

    Args:
        n_genes: number of genes; at least the number of markers.
        seed: seed of the set.
    """
    genes = gene_names(n_genes)
    marker = where(genes, *MARKERS)
    mice = stream(seed, Ingredient.MICE).standard_normal((len(MICE), n_genes))
    loadings = np.concatenate(
        [
            _type_loadings(genes, marker, seed),
            sparse_normal(stream(seed, Ingredient.AXES), (N_AXES, n_genes), 0.4, 0.5) * ~marker,
            _factor_loadings(genes, seed),
            mice,
        ]
    )
    rng = stream(seed, Ingredient.KINETICS)
    return Programs(
        genes=genes,
        loadings=loadings.astype(np.float32),
        overdispersion=0.3 * np.exp(0.5 * rng.standard_normal(n_genes)).astype(np.float32),
        splicing_rate=2.0 * np.exp(0.4 * rng.standard_normal(n_genes)).astype(np.float32),
        degradation_rate=0.5 * np.exp(0.3 * rng.standard_normal(n_genes)).astype(np.float32),
    )


def _type_loadings(
    genes: np.ndarray, marker: np.ndarray, seed: int
) -> Float[np.ndarray, "types genes"]:
    """Base level of each gene, what is random in a type, and the type's markers."""
    n_genes, identity = len(genes), [name for sets in IDENTITY.values() for name in sets]
    rng = stream(seed, Ingredient.BASE)
    level = rng.standard_normal(n_genes)
    base = np.where(marker, -0.5 + 0.5 * level, np.minimum(1.2 * level, 2.5))
    base = np.where(where(genes, *identity), -1.5 + 0.5 * level, base)
    rng = stream(seed, Ingredient.TYPES)
    random = sparse_normal(rng, (len(TYPES), n_genes), 0.15, 0.6) * ~marker
    lift = rng.uniform(2.5, 4.0, (len(TYPES), n_genes))
    own = np.array([where(genes, *IDENTITY[name]) for name in TYPES])
    return base + random + lift * own


def _factor_loadings(genes: np.ndarray, seed: int) -> Float[np.ndarray, "factors genes"]:
    """Competence (receptors up), cell cycle, and the factors of each type."""
    n_genes = len(genes)
    rng = stream(seed, Ingredient.FACTORS)
    shared = sparse_normal(rng, (2, n_genes), 0.05, 0.3)
    shared[0] += 0.6 * where(genes, "burn_receptors_fig1h")
    shared[1] += 0.6 * where(genes, "proliferation")
    own = sparse_normal(rng, (len(TYPES) * N_OWN, n_genes), 0.05, 0.3)
    for name, (up, down) in STATE_AXES.items():
        axis = 0.6 * where(genes, up) - 0.6 * where(genes, down)
        own[TYPES.index(name) * N_OWN] += axis
    return np.concatenate([shared, own])


def coefficients(cells: Cells, mouse_sd: float) -> Float[np.ndarray, "cells programs"]:
    """How much of each program every cell runs, whatever the wound.

    Args:
        cells: the cells.
        mouse_sd: standard deviation of a mouse's effect on the log rate of a gene.

    Returns:
        float32; columns: types (0 or 1), lineage axes, competence, cycle, the own factors of each
        type (zero for other types), mice (`mouse_sd` or 0).
    """
    kind = np.eye(len(TYPES))[cells.type_index]
    own = (kind[:, :, None] * cells.own[:, None, :]).reshape(len(cells), -1)
    mouse = mouse_sd * np.eye(len(MICE))[cells.mouse_index]
    shared = np.stack([cells.competence, cells.cycle], axis=1)
    return np.concatenate([kind, cells.axes, shared, own, mouse], axis=1).astype(np.float32)
