"""Gene programs: what a cell expresses without a wound, and what the burn does to it over time.

The log rate of a gene is linear in the cell's state, `log r = S W`: the columns of `S` say how
much of each program a cell runs (`coefficients`), the rows of `W` which genes it moves. Programs
depend on the seed and the number of genes only, never on which or how many cells are drawn. At
time `t` (days) of a cell with lineage coordinates `a` and competence `h`, the burn adds

    effect_scale * sum_p amplitude_p(a, h, type) * profile_p(t) * V_p

with shared programs (amplitude `1 + 0.5 h`), programs mapped from the control state (amplitude
`a_j`: the coordinates that also generate the control expression), one program of each type that
nothing else tells, and responses of known markers with known signs (amplitude `1 + 0.5 h`). A
relaxation common to burn and sham (handling, anaesthesia) fades beside them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from wound_jax.data.synthetic.cells import N_AXES, N_OWN, PROGRESS_SD, Cells, mean_cells
from wound_jax.data.synthetic.design import DAYS, MICE, Ingredient, stream
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


COMPETENCE_GAIN = 0.5
PROFILES: tuple[str, ...] = ("early", "sustained", "late", "relaxation")


class Response(NamedTuple):
    """Marker sets that the burn moves in some types; `size` has the sign of the delta."""

    types: tuple[str, ...]
    sets: tuple[str, ...]
    profile: str
    size: float


# The macrophage path is the pair of lines from inflammation (early) to repair (late).
RESPONSES: tuple[Response, ...] = (
    Response(TYPES, ("burn_cytokines_fig1g",), "early", 0.7),
    Response(("Ker",), ("keratinocyte_wound_activated",), "early", 1.6),
    Response(("Ker",), ("keratinocyte_migration",), "early", 0.8),
    Response(("Ker",), ("celltype:Keratinocyte (suprabasal)",), "early", -0.8),
    Response(("Fib",), ("fibroblast_inflammatory_early",), "early", 1.2),
    Response(("Fib",), ("fibroblast_activated_myofibroblast",), "late", 1.2),
    Response(("Fib",), ("fibroblast_wound_subset",), "sustained", 0.6),
    Response(("Neu",), ("neutrophil_activation",), "early", 1.0),
    Response(("Mac",), ("M1_proinflammatory", "M1_extra"), "early", 1.5),
    Response(("Mac",), ("M2_prorepair", "M2_extra"), "late", 1.5),
    Response(("Mono", "DC"), ("M1_proinflammatory", "M1_extra"), "early", 0.8),
    Response(("Endo",), ("angiogenesis",), "sustained", 0.8),
    Response(("Peri",), ("fibroblast_activated_myofibroblast",), "late", 0.6),
    Response(("Ker", "Fib", "Endo", "Mus"), ("proliferation",), "early", 0.5),
)


@dataclass(frozen=True)
class Effects:
    """Programs that change with time: relaxation first, then those of the burn.

    Attributes:
        loadings: log-rate change per unit of each program; rows as the columns of `amplitudes`.
        profile: time course of each program, position in `PROFILES`.
    """

    loadings: Float[np.ndarray, "programs genes"]
    profile: Int[np.ndarray, " programs"]


def profiles(time: Float[np.ndarray, " cells"]) -> Float[np.ndarray, "cells profiles"]:
    """Strength of each time course at `time` (days), columns as `PROFILES`.

    Early and relaxing courses decay from day 10 with 6 and 8 days, the sustained one with 40; the
    late one rises around day 14.5.
    """
    since = time - DAYS[0]
    late = 1.0 / (1.0 + np.exp(-(time - 14.5) / 1.8))
    return np.stack([np.exp(-since / 6), np.exp(-since / 40), late, np.exp(-since / 8)], axis=1)


def profile_slopes(time: Float[np.ndarray, " cells"]) -> Float[np.ndarray, "cells profiles"]:
    """Derivative of `profiles` with respect to time, per day."""
    early, sustained, late, relaxation = profiles(time).T
    return np.stack(
        [-early / 6, -sustained / 40, late * (1.0 - late) / 1.8, -relaxation / 8], axis=1
    )


def draw_effects(programs: Programs, seed: int) -> Effects:
    """Draws the loadings of the relaxation and of the burn.

    Genes with a known sign (`RESPONSES`) carry that response alone.

    Args:
        programs: the programs of uninjured skin; their genes are used.
        seed: seed of the set.
    """
    genes, rng = programs.genes, stream(seed, Ingredient.EFFECTS)
    known = where(genes, *(name for response in RESPONSES for name in response.sets))
    n_genes = len(genes)
    relaxation = sparse_normal(rng, (1, n_genes), 0.3, 0.15)
    random = [
        sparse_normal(rng, (2, n_genes), 0.2, 0.5),
        sparse_normal(rng, (N_AXES, n_genes), 0.15, 0.45),
        sparse_normal(rng, (len(TYPES), n_genes), 0.1, 0.35),
    ]
    size = stream(seed, Ingredient.RESPONSES).uniform(0.7, 1.3, (len(RESPONSES), n_genes))
    responses = [
        response.size * size[row] * where(genes, *response.sets)
        for row, response in enumerate(RESPONSES)
    ]
    loadings = np.concatenate([relaxation, *(part * ~known for part in random), responses])
    courses = ["relaxation", "early", "sustained", "early", "sustained", "late"]
    courses += ["sustained"] * len(TYPES) + [response.profile for response in RESPONSES]
    profile = np.array([PROFILES.index(name) for name in courses])
    return Effects(loadings.astype(np.float32), profile)


def amplitudes(cells: Cells, effect_scale: float) -> Float[np.ndarray, "cells programs"]:
    """How strongly each time-dependent program runs in every cell, before its time course.

    Args:
        cells: the cells; the burn acts where `cells.burnt`.
        effect_scale: factor on the whole burn effect.

    Returns:
        Columns: relaxation (1), shared early and sustained, mapped (lineage coordinates), own
        (type 0 or 1), responses (`RESPONSES`, zero in other types).
    """
    kind = np.eye(len(TYPES))
    answer = 1.0 + COMPETENCE_GAIN * cells.competence[:, None]
    responding = np.array(
        [[name in response.types for response in RESPONSES] for name in TYPES], dtype=float
    )
    burn = np.concatenate(
        [
            np.repeat(answer, 2, axis=1),
            cells.axes,
            kind[cells.type_index],
            answer * responding[cells.type_index],
        ],
        axis=1,
    )
    burn *= effect_scale * cells.burnt[:, None]
    return np.concatenate([np.ones((len(cells), 1)), burn], axis=1)


def log_deltas(effects: Effects, effect_scale: float) -> Float[np.ndarray, "types days genes"]:
    """Expected burn effect on the log rate, by type and day.

    The expectation is over the cells' states: amplitudes are linear in states of mean zero, and
    `progress` is integrated by Gauss-Hermite quadrature. Rates are meant before they are divided
    by the cell's sum.

    Returns:
        float32, natural log; types as `TYPES`, days as `DAYS`.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    mean = mean_cells()
    burn = amplitudes(mean.as_burnt(), effect_scale) - amplitudes(mean, effect_scale)
    deltas = []
    for day in DAYS:
        course = weights @ profiles(day + PROGRESS_SD * nodes) / weights.sum()
        deltas.append((burn * course[effects.profile]) @ effects.loadings)
    return np.stack(deltas, axis=1).astype(np.float32)
