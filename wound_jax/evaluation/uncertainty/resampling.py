"""Resampling: which units are drawn, and the weights that draws give to cells and to strata.

Owns the profile of a replicate, the (arm, timepoint, perturbation) that its cells are held out in,
and the pools: replicates of one profile. Drawing within pools keeps the design, as sampling did:
replicates that have both arms (donors) are drawn for both at once, mice nested in an arm and a
timepoint are drawn there, and no timepoint is lost.

A treated replicate alone in its pool has nobody to stand in for it. Such pools are put together
("collapsed strata": Wolter 2007, Introduction to Variance Estimation, section 2.5), and timepoints
are then drawn along with their replicates. That counts differences between timepoints as
differences between replicates, so the interval errs on the wide side.

    units       drawn where                                 pools
    replicates  there are two treated replicates at least   replicates of one profile
    strata      there is a single treated replicate         all strata
    cells       ... and a single stratum                    the cells of each arm, in 50 parts

Strata of one replicate are not independent, and cells of one replicate even less: the last two say
how the figures vary within that replicate, not among replicates.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.uncertainty.weights import ArmWeights, draw_weights

CONTROL, TREATED = "control", "treated"


# (arm, timepoint, perturbation); a control cell takes the last two from the stratum it answers to.
Place = tuple[str, str | None, str]


Profiles = dict[str, frozenset[Place]]


class Pools(NamedTuple):
    """Replicates that are drawn together, each pool sorted by name.

    Attributes:
        treated: pools of replicates with treated cells, at least two in each unless there is a
            single one in all.
        control: pools of replicates with control cells alone.
        collapsed: whether replicates of different profiles share a pool.
    """

    treated: list[list[str]]
    control: list[list[str]]
    collapsed: bool


def replicate_labels(stratum: Stratum, arm: str) -> np.ndarray:
    """The replicate of each cell of an arm, as text; unknown ones are one without a name."""
    known = stratum.control_replicates if arm == CONTROL else stratum.treated_replicates
    n_cells = stratum.n_control if arm == CONTROL else stratum.n_treated
    return np.full(n_cells, "") if known is None else np.asarray(known, dtype=str)


def replicate_profiles(strata: Sequence[Stratum]) -> Profiles:
    """The places of each replicate."""
    places: dict[str, set[Place]] = {}
    for stratum in strata:
        for arm in (CONTROL, TREATED):
            for replicate in np.unique(replicate_labels(stratum, arm)):
                place = (arm, stratum.timepoint, stratum.perturbation)
                places.setdefault(str(replicate), set()).add(place)
    return {replicate: frozenset(found) for replicate, found in sorted(places.items())}


def is_treated(profile: frozenset[Place]) -> bool:
    """Whether a replicate has treated cells."""
    return any(arm == TREATED for arm, _, _ in profile)


def make_pools(profiles: Profiles) -> Pools:
    """Pools by profile, with the treated replicates that are alone in theirs put together.

    A single such replicate joins the smallest of the other pools.
    """
    by_profile: dict[frozenset[Place], list[str]] = {}
    for replicate, profile in profiles.items():
        by_profile.setdefault(profile, []).append(replicate)
    treated = [replicates for profile, replicates in by_profile.items() if is_treated(profile)]
    control = [replicates for profile, replicates in by_profile.items() if not is_treated(profile)]
    alone = [replicates for replicates in treated if len(replicates) == 1]
    rest = sorted(
        (replicates for replicates in treated if len(replicates) > 1), key=lambda a: (len(a), a)
    )
    if len(alone) == 1 and rest:
        alone.append(rest.pop(0))
    together = sorted(replicate for replicates in alone for replicate in replicates)
    pools = [*rest, together] if together else rest
    return Pools(pools, control, collapsed=len(alone) > 1)


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
        units: "replicates", "strata" or "cells".
        n_units: how many there are: replicates with treated cells, strata, or treated cells.
        degrees: degrees of freedom, the units that are drawn less their pools.
        note: in words, for a table.
        weights: [rows, columns], weight of each holder of cells (a replicate, or a part of an arm).
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
    profiles = replicate_profiles(strata)
    if sum(is_treated(profile) for profile in profiles.values()) > 1:
        return _draw_replicates(strata, profiles, draws, seed)
    if len(strata) > 1:
        return _draw_strata(strata, draws, seed)
    return _draw_cells(strata[0], draws, seed)


def fingerprint(strata: Sequence[Stratum], seed: int) -> str:
    """Hash of what the draws depend on: seed, strata, number of genes, the replicate of each cell.

    Expression is not part of it, as its last digits differ between machines.
    """
    digest = hashlib.sha256(str(seed).encode())
    for stratum in strata:
        digest.update(f"\n\n{stratum.key}\n{stratum.control.shape[1]}".encode())
        for arm in (CONTROL, TREATED):
            digest.update("\n".join(["", arm, *replicate_labels(stratum, arm)]).encode())
    return digest.hexdigest()


def _stream(seed: int, names: Sequence[str]) -> np.random.Generator:
    """Random numbers that belong to the units of those names."""
    return np.random.default_rng([seed, zlib.crc32("\n".join(names).encode())])


def _draw_replicates(
    strata: Sequence[Stratum], profiles: Profiles, draws: int, seed: int
) -> Resampling:
    """Replicates within pools; a stratum weighs as the treated replicates of its timepoint."""
    pools = make_pools(profiles)
    column = {replicate: i for i, replicate in enumerate(profiles)}
    weights = np.ones((draws + 1, len(column)))
    for pool in [*pools.treated, *pools.control]:
        chosen = [column[replicate] for replicate in pool]
        weights[:, chosen] = draw_weights(len(pool), draws, _stream(seed, pool))
    stratum_weights = []
    for stratum in strata:
        place = (TREATED, stratum.timepoint, stratum.perturbation)
        there = [column[replicate] for replicate, profile in profiles.items() if place in profile]
        stratum_weights.append(weights[:, there].mean(axis=1))
    n_replicates = sum(map(len, pools.treated))
    return Resampling(
        units="replicates",
        n_units=n_replicates,
        degrees=n_replicates - len(pools.treated),
        note=_describe(pools, profiles, n_replicates),
        weights=weights,
        stratum_weights=np.stack(stratum_weights, axis=1),
        columns=[_replicate_columns(stratum, column) for stratum in strata],
    )


def _replicate_columns(stratum: Stratum, column: dict[str, int]) -> Columns:
    control, treated = (
        np.array([column[replicate] for replicate in replicate_labels(stratum, arm)], dtype=int)
        for arm in (CONTROL, TREATED)
    )
    return Columns(control, treated)


def _describe(pools: Pools, profiles: Profiles, n_replicates: int) -> str:
    """How the replicates were drawn, in words."""
    both = any(is_treated(p) and any(arm == CONTROL for arm, _, _ in p) for p in profiles.values())
    arms = "both arms of a replicate at once" if both else "arms apart"
    if pools.collapsed:
        where = "over timepoints, which come and go with them"
    elif len(pools.treated) > 1:
        where = f"within {len(pools.treated)} groups of one timepoint and perturbation"
    else:
        where = "in one group"
    return f"{n_replicates} treated replicates, drawn {where}, {arms}"


def _draw_strata(strata: Sequence[Stratum], draws: int, seed: int) -> Resampling:
    """Strata as they are, where there is one treated replicate."""
    n = len(strata)
    keys = [stratum.key for stratum in strata]
    stratum_weights = np.empty((draws + 1, n))
    rng = _stream(seed, sorted(keys))
    stratum_weights[:, np.argsort(keys, kind="stable")] = draw_weights(n, draws, rng)
    return Resampling(
        units="strata",
        n_units=n,
        degrees=n - 1,
        note=f"{n} strata of a single treated replicate: nothing is said of other replicates",
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
        note=f"{stratum.n_treated} treated cells of a single replicate, one stratum: nothing is "
        "said of other replicates",
        weights=np.concatenate(weights, axis=1),
        stratum_weights=np.ones((draws + 1, 1)),
        columns=[Columns(control, n_parts[0] + treated)],
    )
