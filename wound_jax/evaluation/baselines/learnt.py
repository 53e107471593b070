"""What the shift rules keep of the training strata: their means, without the cells.

Owns `Learnt`, all that a fitted rule needs to predict, and the components it sees strata on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wound_jax.errors import unknown_name
from wound_jax.evaluation.baselines.profiles import Examples, Novelty, Profiles, labels_of
from wound_jax.evaluation.strata import Stratum


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components of the training cells.

    Attributes:
        mean: float64 [genes].
        axes: float64 [dims, genes], orthonormal rows.
    """

    mean: Float[np.ndarray, " genes"]
    axes: Float[np.ndarray, "dims genes"]

    def project(self, cells: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, "cells dims"]:
        """Coordinates on the components, float64."""
        return (cells - self.mean) @ self.axes.T


@dataclass(frozen=True, eq=False)
class Learnt:
    """Means of the training strata, and the components of their cells.

    Attributes:
        examples: the strata with the shifts that followed.
        components: of the training cells.
    """

    examples: Examples
    components: Components

    def profiles(self, strata: Sequence[Stratum]) -> Profiles:
        """Any strata, as far as they are known before they are perturbed."""
        control = np.stack([stratum.control_mean for stratum in strata])
        return Profiles(*labels_of(strata), control, self.components.project(control))

    def require_perturbation(self, perturbation: str) -> None:
        """Refuses a perturbation that no training stratum has.

        Raises:
            UserError: with the perturbations there are.
        """
        known = set(self.examples.profiles.perturbation)
        if perturbation not in known:
            raise unknown_name(
                "perturbation (no training stratum has it, so there is no shift to apply)",
                perturbation,
                known,
            )

    def novelty_of(self, stratum: Stratum) -> Novelty:
        """What a stratum has that no training stratum of its perturbation has.

        Raises:
            UserError: no training stratum has its perturbation at all.
        """
        self.require_perturbation(stratum.perturbation)
        (novelty,) = self.examples.profiles.novelty_of(self.profiles([stratum]))
        return novelty
