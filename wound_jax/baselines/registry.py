"""The registry of baselines: what a baseline is, and how one is made known.

Owns the two protocols and the table of names. A family learns from training strata and returns a
fitted baseline, which turns a stratum's control cells into the treated cells it expects.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from wound_jax.data.strata import Stratum


@runtime_checkable
class Baseline(Protocol):
    """A prediction made without a network, fitted."""

    def predict(self, stratum: Stratum) -> Float[np.ndarray, "cells genes"]:
        """The treated cells expected of a stratum, row i from control cell i.

        Returns:
            float32 [cells, genes].

        Raises:
            UserError: no training stratum has the stratum's perturbation.
        """
        ...


@runtime_checkable
class BaselineFamily(Protocol):
    """What is registered: it learns from training strata."""

    def fit(self, training: Sequence[Stratum], non_negative: bool) -> Baseline:
        """Learn from training strata; those without treated cells teach nothing.

        Args:
            training: the training strata.
            non_negative: whether the space holds no negative value, as expression does and an
                embedding does not.

        Raises:
            UserError: no training stratum has treated cells.
        """
        ...


BASELINES: dict[str, BaselineFamily] = {}
Family = TypeVar("Family", bound=BaselineFamily)


def baseline(name: str) -> Callable[[Family], Family]:
    """Decorator: makes a class with a class method `fit` known as the baseline of that name.

    Raises:
        ValueError: the name is taken.
    """

    def register(family: Family) -> Family:
        if name in BASELINES:
            raise ValueError(f"a baseline named {name!r} is registered already")
        BASELINES[name] = family
        return family

    return register
