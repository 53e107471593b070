"""Design: 16 mice nested in condition x day, their cells of each type, and all random streams.

The plan's margins (cells per type, cells per condition and day) are scaled to `n_cells` and met
exactly; the table inside is the product of margins and enrichment, raked to them (iterative
proportional fitting: Deming and Stephan 1940, Ann Math Stat 11:427). Every ingredient of the set
draws from a stream of its own (`stream`), so that what one draws never moves another.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linprog

from wound_jax.data.synthetic.markers import TYPES

BURN, SHAM = "Burn", "Sham"
DAYS: tuple[int, ...] = (10, 14, 19)


class Group(NamedTuple):
    """A condition on a day: the unit that a mouse belongs to."""

    condition: str
    day: int


class Mouse(NamedTuple):
    """A replicate: one condition, one day."""

    name: str
    group: int
    condition: str
    day: int


# Cells per condition and day, and per type, of the study that is imitated (57,298 in all).
PLAN_GROUPS: dict[Group, int] = {
    Group(BURN, 10): 8904,
    Group(BURN, 14): 7393,
    Group(BURN, 19): 8558,
    Group(SHAM, 10): 7573,
    Group(SHAM, 14): 13797,
    Group(SHAM, 19): 11073,
}
PLAN_TYPES: dict[str, int] = {
    "Ker": 18579,
    "Fib": 11299,
    "Neu": 11178,
    "Mac": 6258,
    "Mus": 2348,
    "Endo": 2304,
    "T": 1498,
    "DC": 1207,
    "Peri": 1152,
    "Mono": 893,
    "Sch": 582,
}
GROUPS: tuple[Group, ...] = tuple(PLAN_GROUPS)
MICE_PER_DAY: dict[int, int] = {10: 3, 14: 3, 19: 2}
MICE: tuple[Mouse, ...] = tuple(
    Mouse(f"{group.condition}_day{group.day}_m{number}", index, *group)
    for index, group in enumerate(GROUPS)
    for number in range(1, MICE_PER_DAY[group.day] + 1)
)
# Odds of a type in burnt against sham skin on days 10, 14 and 19, relative to the types not named
# here. Raking keeps odds ratios; the shares themselves follow from the margins.
ENRICHMENT: dict[str, tuple[float, float, float]] = {
    "Ker": (0.7, 0.85, 1.0),
    "Fib": (0.9, 1.1, 1.2),
    "Neu": (3.0, 2.2, 1.5),
    "Mac": (2.2, 1.9, 1.5),
    "Mono": (2.0, 1.5, 1.2),
}
# Log-scale spread between the mice of a group: of their cell number, and of each type's share.
# Within the range of mouse burn replicates (Sorkin 2020: median CV of a cluster's share 0.3).
MOUSE_SIZE_SD = 0.2
MOUSE_SHARE_SD = 0.3
# Cells that every type keeps in every condition and day, where there are enough cells for it.
FLOOR = 5


def apportion(weights: Float[np.ndarray, " parts"], total: int) -> Int[np.ndarray, " parts"]:
    """Whole numbers in the proportion of `weights` that sum to `total` (largest remainder)."""
    exact = weights * (total / weights.sum())
    whole = np.floor(exact).astype(int)
    most = np.argsort(-(exact - whole), kind="stable")[: total - whole.sum()]
    whole[most] += 1
    return whole


def _margins(plan: list[int], total: int, least: int) -> Int[np.ndarray, " parts"]:
    """The plan scaled to `total`; parts that would fall under `least` get it from the others."""
    weights = np.asarray(plan, dtype=float)
    small = np.zeros(len(plan), dtype=bool)
    while True:
        left = total - least * int(small.sum())
        scaled = np.full(len(plan), least)
        scaled[~small] = apportion(weights[~small], left)
        if (scaled >= least).all():
            return scaled
        small |= scaled < least


def _rake(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Scales rows and columns in turn until both margins are met."""
    for _ in range(500):
        table = table * (rows / np.maximum(table.sum(axis=1), 1e-300))[:, None]
        table = table * (columns / np.maximum(table.sum(axis=0), 1e-300))[None, :]
    return table


def _round(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Int[np.ndarray, "..."]:
    """Rounds each entry up or down, keeping both margins.

    The choice is a transport problem, whose vertices are whole numbers; large fractions go up.
    """
    n_rows, n_columns = table.shape
    whole = np.floor(table + 1e-9)
    row_of = np.kron(np.eye(n_rows), np.ones(n_columns))
    column_of = np.kron(np.ones(n_rows), np.eye(n_columns))
    short = np.concatenate([rows - whole.sum(axis=1), columns - whole.sum(axis=0)])
    chosen = linprog(
        -(table - whole).ravel(),
        A_eq=np.concatenate([row_of, column_of]),
        b_eq=short,
        bounds=(0.0, 1.0),
        method="highs-ds",
    )
    return (whole + np.rint(chosen.x).reshape(table.shape)).astype(int)


def cells_per_group(n_cells: int) -> Int[np.ndarray, "groups types"]:
    """Cells of each type in each condition and day, `n_cells` in all.

    Args:
        n_cells: cells of the whole set.

    Returns:
        Whole numbers, rows as `GROUPS`, columns as `TYPES`. Every entry is at least `FLOOR` (less
        where `n_cells` is under about 20 cells for each entry).
    """
    floor = min(FLOOR, n_cells // (4 * len(GROUPS) * len(TYPES)))
    rows = _margins(list(PLAN_GROUPS.values()), n_cells, floor * len(TYPES))
    columns = _margins([PLAN_TYPES[name] for name in TYPES], n_cells, floor * len(GROUPS))
    burnt = np.array([group.condition == BURN for group in GROUPS])
    day = np.array([DAYS.index(group.day) for group in GROUPS])
    ratio = np.array([ENRICHMENT.get(name, (1.0, 1.0, 1.0)) for name in TYPES])
    start = np.where(burnt[:, None], ratio[:, day].T, 1.0)
    spare_rows, spare_columns = rows - floor * len(TYPES), columns - floor * len(GROUPS)
    return floor + _round(_rake(start, spare_rows, spare_columns), spare_rows, spare_columns)


def cells_per_mouse(n_cells: int, seed: int) -> Int[np.ndarray, "mice types"]:
    """Cells of each type in each mouse: the group's cells dealt out unevenly.

    Args:
        n_cells: cells of the whole set.
        seed: seed of the set.

    Returns:
        Whole numbers, rows as `MICE`, columns as `TYPES`.
    """
    rng = stream(seed, Ingredient.COMPOSITION)
    size = np.exp(MOUSE_SIZE_SD * rng.standard_normal(len(MICE)))
    share = np.exp(MOUSE_SHARE_SD * rng.standard_normal((len(MICE), len(TYPES))))
    weights = size[:, None] * share
    table = np.zeros((len(MICE), len(TYPES)), dtype=int)
    for index, counts in enumerate(cells_per_group(n_cells)):
        mice = [number for number, mouse in enumerate(MICE) if mouse.group == index]
        chances = weights[mice] / weights[mice].sum(axis=0)
        table[mice] = rng.multinomial(counts, chances.T).T
    return table


class Ingredient(IntEnum):
    """What a stream is for. Numbers are part of the seed: add new ones at the end."""

    COMPOSITION = 0
    ORDER = 1
    STATES = 2
    DEPTH = 3
    BASE = 4
    TYPES = 5
    AXES = 6
    FACTORS = 7
    MICE = 8
    KINETICS = 9
    EFFECTS = 10
    RESPONSES = 11
    EXPRESSION = 12
    MOLECULES = 13
    COUNTERFACTUAL = 14
    EMBEDDING = 15
    EMBEDDING_NOISE = 16
    COUNTERFACTUAL_NOISE = 17


def stream(seed: int, ingredient: Ingredient, block: int = 0) -> np.random.Generator:
    """The random generator of one ingredient and block of cells.

    It is the child `spawn_key = (ingredient, block)` of `numpy.random.SeedSequence(seed)`, as
    `SeedSequence.spawn` would make it.

    Args:
        seed: any integer; negative ones are seeds of their own.
        ingredient: what is drawn.
        block: number of the block of cells, for what is drawn cell by cell.
    """
    entropy = [abs(seed), int(seed < 0)]
    key = (int(ingredient), block)
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=key))
