"""Independent random streams of the synthetic wound set, one per ingredient and block of cells.

A stream is the child `spawn_key = (ingredient, block)` of `numpy.random.SeedSequence(seed)`, as
`SeedSequence.spawn` would make it, so what one ingredient draws never moves another.
"""

from enum import IntEnum

import numpy as np


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
    """The generator of one ingredient.

    Args:
        seed: any integer; negative ones are seeds of their own.
        ingredient: what is drawn.
        block: number of the block of cells, for what is drawn cell by cell.
    """
    entropy = [abs(seed), int(seed < 0)]
    key = (int(ingredient), block)
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=key))
