"""What the burn does to a cell, and how it changes with time.

On the log rate, at time `t` (days) of a cell with lineage coordinates `a` and competence `h`:

    effect = effect_scale * sum_p amplitude_p(a, h, type) * profile_p(t) * V_p

with shared programs (amplitude `1 + 0.5 h`), programs mapped from the control state (amplitude
`a_j`: the coordinates that also generate the control expression), one program of each type that
nothing else tells, and responses of known markers with known signs (amplitude `1 + 0.5 h`). A
relaxation common to burn and sham (handling, anaesthesia) fades beside them.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from wound_jax.data.synthetic.cells import (
    LINEAGE,
    N_AXES,
    N_OWN,
    PROGRESS_SD,
    Cells,
    Ingredient,
    stream,
)
from wound_jax.data.synthetic.design import DAYS
from wound_jax.data.synthetic.markers import TYPES
from wound_jax.data.synthetic.programs import Programs, sparse_normal, where

COMPETENCE_GAIN = 0.5
PROFILES: tuple[str, ...] = ("early", "sustained", "late", "relaxation")


class Response(NamedTuple):
    """Marker sets that the burn moves in some types; `size` has the sign of the shift."""

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


def log_shifts(effects: Effects, effect_scale: float) -> Float[np.ndarray, "types days genes"]:
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
    shifts = []
    for day in DAYS:
        course = weights @ profiles(day + PROGRESS_SD * nodes) / weights.sum()
        shifts.append((burn * course[effects.profile]) @ effects.loadings)
    return np.stack(shifts, axis=1).astype(np.float32)


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
