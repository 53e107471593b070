"""Baselines by name: what a baseline is, how one is made known, and how all are fitted.

Owns the two protocols and the registry. A family learns from training strata and returns a fitted
baseline, which turns a stratum's control cells into the treated cells it expects.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float

from wound_jax.baselines.training import Training
from wound_jax.data.strata import Stratum
from wound_jax.registry import Registry


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


BASELINES = Registry[BaselineFamily]("baseline", package="wound_jax.baselines")
Family = TypeVar("Family", bound=BaselineFamily)


def baseline(name: str) -> Callable[[Family], Family]:
    """Decorator: makes a class with a class method `fit` known as the baseline of that name.

    Raises:
        ValueError: the name is taken.
    """
    return BASELINES.register(name)


def fit_baselines(
    training: Sequence[Stratum], non_negative: bool, names: Iterable[str] | None = None
) -> dict[str, Baseline]:
    """Fit baselines by name; where no names are given all of them, the identity first.

    Args:
        training: the training strata; those without treated cells teach nothing.
        non_negative: whether the space holds no negative value.
        names: of the baselines wanted.

    Returns:
        name -> fitted baseline, in the order of the names.

    Raises:
        UserError: a name is not registered, or no training stratum has treated cells.
    """
    every = sorted(BASELINES, key=lambda name: (name != "identity", name))
    chosen = {name: BASELINES.get(name) for name in (every if names is None else names)}
    prepared = Training(training)
    return {name: family.fit(prepared, non_negative) for name, family in chosen.items()}
