"""Strata of made cells whose mean delta is known to the last digit."""

import numpy as np

from wound_jax.data.strata import Stratum

N_GENES = 12
DAYS = ("day10", "day14", "day19")


def stratum(
    cell_type: str,
    timepoint: str | None,
    profile: np.ndarray | float,
    shift: np.ndarray | float,
    perturbation: str = "Burn",
) -> Stratum:
    """Twenty cells with exactly this mean, moved by exactly this shift."""
    noise = np.random.default_rng([*cell_type.encode()]).normal(size=(20, N_GENES))
    control = profile + noise - noise.mean(axis=0)
    return Stratum(cell_type, timepoint, control, control + shift, perturbation)


def random_profiles(n: int, seed: int) -> np.ndarray:
    return 3.0 * np.random.default_rng(seed).normal(size=(n, N_GENES))


def additive_strata(left_out: set[tuple[str, str]]) -> tuple[list[Stratum], dict]:
    """Deltas that are a sum of a term of the type and one of the day."""
    rng = np.random.default_rng(3)
    types = ("Fib", "Mac", "Ker", "Neu")
    of_type = dict(zip(types, rng.normal(size=(4, N_GENES)), strict=True))
    of_day = dict(zip(DAYS, rng.normal(size=(3, N_GENES)), strict=True))
    strata = {
        (t, day): stratum(t, day, profile, of_type[t] + of_day[day])
        for t, profile in zip(types, random_profiles(4, 0), strict=True)
        for day in DAYS
    }
    return [s for key, s in strata.items() if key not in left_out], strata
