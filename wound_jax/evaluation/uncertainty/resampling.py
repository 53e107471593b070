"""What is drawn: the units, and the weights their draws give to cells and to strata.

    units     drawn where                                        pools
    animals   there are two treated animals at least             `uncertainty.pools`
    strata    there is a single treated animal                   all strata
    cells     ... and a single stratum                           the cells of each arm, in 50 parts

Strata of one animal are not independent, and cells of one animal even less: the last two say how
the figures vary within that animal, not among animals.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from wound_jax.evaluation.strata import Stratum
from wound_jax.evaluation.uncertainty.pools import (
    CONTROL,
    TREATED,
    Pools,
    Profiles,
    animal_labels,
    animal_profiles,
    is_treated,
    make_pools,
)
from wound_jax.evaluation.uncertainty.weights import ArmWeights, draw_weights

# Cells are dealt into at most so many parts, which bounds the sums kept for pairs of parts. For
# a mean, parts of equal size have the variance of single cells.
_PARTS = 50


class Columns(NamedTuple):
    """The holder of each cell of a stratum, as a column of `Resampling.weights`."""

    control: Int[np.ndarray, " cells"]
    treated: Int[np.ndarray, " targets"]


@dataclass(frozen=True, eq=False)
class Resampling:
    """The draws. Row 0 is the sample itself, all weights one; the draws follow.

    Attributes:
        units: "animals", "strata" or "cells".
        n_units: how many there are: animals with treated cells, strata, or treated cells.
        degrees: degrees of freedom, the units that are drawn less their pools.
        note: in words, for a table.
        weights: [rows, columns], weight of each holder of cells (an animal, or a part of an arm).
        stratum_weights: [rows, strata], weight of each stratum in the mean.
        columns: who holds the cells of each stratum.
    """

    units: str
    n_units: int
    degrees: int
    note: str
    weights: Float[np.ndarray, "rows columns"]
    stratum_weights: Float[np.ndarray, "rows strata"]
    columns: list[Columns]

    def arms(self, place: int) -> tuple[ArmWeights, ArmWeights]:
        """Weights of the control and of the treated cells of a stratum, given by position."""
        control, treated = self.columns[place]
        everyone = ArmWeights(np.concatenate([control, treated]), self.weights)
        n_control = len(control)
        cells = np.arange(n_control + len(treated))
        return everyone.take(cells[:n_control]), everyone.take(cells[n_control:])


def plan_resampling(strata: Sequence[Stratum], draws: int, seed: int) -> Resampling:
    """Decide on the units and draw them.

    Args:
        strata: the held-out strata, at least one.
        draws: number of draws.
        seed: with the names of the units, it decides every draw, in whatever order strata come.

    Returns:
        The weights.
    """
    profiles = animal_profiles(strata)
    if sum(is_treated(profile) for profile in profiles.values()) > 1:
        return _draw_animals(strata, profiles, draws, seed)
    if len(strata) > 1:
        return _draw_strata(strata, draws, seed)
    return _draw_cells(strata[0], draws, seed)


def fingerprint(strata: Sequence[Stratum], seed: int) -> str:
    """Hash of what the draws depend on: seed, strata, number of genes, the animal of each cell.

    Expression is not part of it, as its last digits differ between machines.
    """
    digest = hashlib.sha256(str(seed).encode())
    for stratum in strata:
        digest.update(f"\n\n{stratum.key}\n{stratum.control.shape[1]}".encode())
        for arm in (CONTROL, TREATED):
            digest.update("\n".join(["", arm, *animal_labels(stratum, arm)]).encode())
    return digest.hexdigest()


def _stream(seed: int, names: Sequence[str]) -> np.random.Generator:
    """Random numbers that belong to the units of those names."""
    return np.random.default_rng([seed, zlib.crc32("\n".join(names).encode())])


def _draw_animals(
    strata: Sequence[Stratum], profiles: Profiles, draws: int, seed: int
) -> Resampling:
    """Animals within pools; a stratum weighs as much as the treated animals of its timepoint."""
    pools = make_pools(profiles)
    column = {animal: i for i, animal in enumerate(profiles)}
    weights = np.ones((draws + 1, len(column)))
    for pool in [*pools.treated, *pools.control]:
        chosen = [column[animal] for animal in pool]
        weights[:, chosen] = draw_weights(len(pool), draws, _stream(seed, pool))
    stratum_weights = []
    for stratum in strata:
        place = (TREATED, stratum.timepoint, stratum.perturbation)
        there = [column[animal] for animal, profile in profiles.items() if place in profile]
        stratum_weights.append(weights[:, there].mean(axis=1))
    n_animals = sum(map(len, pools.treated))
    return Resampling(
        units="animals",
        n_units=n_animals,
        degrees=n_animals - len(pools.treated),
        note=_describe(pools, profiles, n_animals),
        weights=weights,
        stratum_weights=np.stack(stratum_weights, axis=1),
        columns=[_animal_columns(stratum, column) for stratum in strata],
    )


def _animal_columns(stratum: Stratum, column: dict[str, int]) -> Columns:
    control, treated = (
        np.array([column[animal] for animal in animal_labels(stratum, arm)], dtype=int)
        for arm in (CONTROL, TREATED)
    )
    return Columns(control, treated)


def _describe(pools: Pools, profiles: Profiles, n_animals: int) -> str:
    """How the animals were drawn, in words."""
    both = any(is_treated(p) and any(arm == CONTROL for arm, _, _ in p) for p in profiles.values())
    arms = "both arms of an animal at once" if both else "arms apart"
    if pools.collapsed:
        where = "over timepoints, which come and go with them"
    elif len(pools.treated) > 1:
        where = f"within {len(pools.treated)} groups of one timepoint and perturbation"
    else:
        where = "in one group"
    return f"{n_animals} treated animals, drawn {where}, {arms}"


def _draw_strata(strata: Sequence[Stratum], draws: int, seed: int) -> Resampling:
    """Strata as they are, where there is one treated animal."""
    n = len(strata)
    keys = [stratum.key for stratum in strata]
    stratum_weights = np.empty((draws + 1, n))
    rng = _stream(seed, sorted(keys))
    stratum_weights[:, np.argsort(keys, kind="stable")] = draw_weights(n, draws, rng)
    return Resampling(
        units="strata",
        n_units=n,
        degrees=n - 1,
        note=f"{n} strata of a single treated animal: nothing is said of other animals",
        # One holder of all cells.
        weights=np.ones((draws + 1, 1)),
        stratum_weights=stratum_weights,
        columns=[
            Columns(np.zeros(s.n_control, dtype=int), np.zeros(s.n_treated, dtype=int))
            for s in strata
        ],
    )


def _draw_cells(stratum: Stratum, draws: int, seed: int) -> Resampling:
    """The cells of each arm of the only stratum, dealt into parts that are drawn."""
    rngs = [_stream(seed, [stratum.key, arm]) for arm in (CONTROL, TREATED)]
    n_cells = [stratum.n_control, stratum.n_treated]
    n_parts = [min(n, _PARTS) for n in n_cells]
    control, treated = (
        rng.permutation(n) % parts for rng, n, parts in zip(rngs, n_cells, n_parts, strict=True)
    )
    weights = [draw_weights(n, draws, rng) for n, rng in zip(n_parts, rngs, strict=True)]
    return Resampling(
        units="cells",
        n_units=stratum.n_treated,
        degrees=n_parts[1] - 1,
        note=f"{stratum.n_treated} treated cells of a single animal and stratum: nothing is said "
        "of other animals",
        weights=np.concatenate(weights, axis=1),
        stratum_weights=np.ones((draws + 1, 1)),
        columns=[Columns(control, n_parts[0] + treated)],
    )
