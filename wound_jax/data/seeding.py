"""Independent random streams below one seed, one for each use of randomness on data.

A stream is the child `spawn_key = (use, *key)` of `numpy.random.SeedSequence(seed)`. Plain lists as
seeds would not do: numpy pads them with zeros, so that [seed, 1] and [seed, 1, 0] are one stream.
"""

from enum import IntEnum

import numpy as np


class Use(IntEnum):
    """What a stream is for. Numbers are part of the seed: add new ones at the end."""

    TRAINING = 0
    VALIDATION = 1
    PREDICTION = 2
    SPLIT_TEST = 3
    SPLIT_VAL = 4
    FEW_SHOT = 5
    SHUFFLE_VELOCITY = 6


def stream(seed: int, use: Use, *key: int) -> np.random.Generator:
    """The generator of one use.

    Args:
        seed: any integer; negative ones are seeds of their own.
        use: what is drawn.
        key: numbers that tell the draws of one use apart, such as the epoch; none negative.
    """
    entropy = [abs(seed), int(seed < 0)]
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(int(use), *key)))
