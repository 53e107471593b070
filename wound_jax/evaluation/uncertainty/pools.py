"""Which held-out animals can stand in for each other.

Owns the profile of an animal, the (arm, timepoint, perturbation) that its cells are held out in,
and the pools: animals of one profile. Drawing within pools keeps the design, as sampling did:
animals that have both arms (donors) are drawn for both at once, mice nested in an arm and a
timepoint are drawn there, and no timepoint is lost.

A treated animal alone in its pool has nobody to stand in for it. Such pools are put together
("collapsed strata": Wolter 2007, Introduction to Variance Estimation, section 2.5), and timepoints
are then drawn along with their animals. That counts differences between timepoints as differences
between animals, so the interval errs on the wide side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wound_jax.evaluation.strata import Stratum

CONTROL, TREATED = "control", "treated"

# (arm, timepoint, perturbation); a control cell takes the last two from the stratum it answers to.
Place = tuple[str, str | None, str]
Profiles = dict[str, frozenset[Place]]


class Pools(NamedTuple):
    """Animals that are drawn together, each pool sorted by name.

    Attributes:
        treated: pools of animals with treated cells, at least two in each unless there is a single
            one in all.
        control: pools of animals with control cells alone.
        collapsed: whether animals of different profiles share a pool.
    """

    treated: list[list[str]]
    control: list[list[str]]
    collapsed: bool


def animal_labels(stratum: Stratum, arm: str) -> np.ndarray:
    """The animal of each cell of an arm, as text; unknown ones are one animal without a name."""
    known = stratum.control_animals if arm == CONTROL else stratum.treated_animals
    n_cells = stratum.n_control if arm == CONTROL else stratum.n_treated
    return np.full(n_cells, "") if known is None else np.asarray(known, dtype=str)


def animal_profiles(strata: Sequence[Stratum]) -> Profiles:
    """The places of each animal."""
    places: dict[str, set[Place]] = {}
    for stratum in strata:
        for arm in (CONTROL, TREATED):
            for animal in np.unique(animal_labels(stratum, arm)):
                place = (arm, stratum.timepoint, stratum.perturbation)
                places.setdefault(str(animal), set()).add(place)
    return {animal: frozenset(found) for animal, found in sorted(places.items())}


def is_treated(profile: frozenset[Place]) -> bool:
    """Whether an animal has treated cells."""
    return any(arm == TREATED for arm, _, _ in profile)


def make_pools(profiles: Profiles) -> Pools:
    """Pools by profile, with the treated animals that are alone in theirs put together.

    A single such animal joins the smallest of the other pools.
    """
    by_profile: dict[frozenset[Place], list[str]] = {}
    for animal, profile in profiles.items():
        by_profile.setdefault(profile, []).append(animal)
    treated = [animals for profile, animals in by_profile.items() if is_treated(profile)]
    control = [animals for profile, animals in by_profile.items() if not is_treated(profile)]
    alone = [animals for animals in treated if len(animals) == 1]
    rest = sorted((animals for animals in treated if len(animals) > 1), key=lambda a: (len(a), a))
    if len(alone) == 1 and rest:
        alone.append(rest.pop(0))
    together = sorted(animal for animals in alone for animal in animals)
    pools = [*rest, together] if together else rest
    return Pools(pools, control, collapsed=len(alone) > 1)
