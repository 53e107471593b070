"""Strata as the linear baselines see them: labels and means, without the cells.

Owns `Profiles` (what is known of a stratum before it is perturbed), `Examples` (the same with the
delta that followed) and `Novelty` (how far a stratum is from those in training).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Shaped

from wound_jax.data.strata import Stratum

# Row selections of NumPy: positions or a mask.
Rows = np.ndarray | Sequence[int] | slice
# Mean treated minus mean control cell of each training stratum, and as expected of wanted strata.
Deltas = Float[np.ndarray, "strata genes"]
WantedDeltas = Float[np.ndarray, "wanted genes"]


class Novelty(Enum):
    """What a stratum has that no training stratum of its perturbation has."""

    NONE = "nothing: the same cell type at the same timepoint, other cells"
    PAIR = "the combination of its cell type and its timepoint"
    TIMEPOINT = "its timepoint"
    TYPE = "its cell type"


@dataclass(frozen=True, eq=False)
class Profiles:
    """Strata before they are perturbed, one row each.

    Attributes:
        cell_type: [strata], labels.
        timepoint: [strata], labels; None where the data have none.
        perturbation: [strata], labels.
        control: float64 [strata, genes], mean control cells.
        scores: float64 [strata, dims], mean control cells on the training components.
    """

    cell_type: Shaped[np.ndarray, " strata"]
    timepoint: Shaped[np.ndarray, " strata"]
    perturbation: Shaped[np.ndarray, " strata"]
    control: Float[np.ndarray, "strata genes"]
    scores: Float[np.ndarray, "strata dims"]

    def __len__(self) -> int:
        return len(self.control)

    def take(self, rows: Rows) -> "Profiles":
        """The strata of some rows."""
        return Profiles(
            self.cell_type[rows],
            self.timepoint[rows],
            self.perturbation[rows],
            self.control[rows],
            self.scores[rows],
        )

    def novelty_of(self, wanted: "Profiles") -> list[Novelty]:
        """What each wanted stratum has that no stratum here of its perturbation has."""
        same_type = same(wanted.cell_type, self.cell_type)
        same_timepoint = same(wanted.timepoint, self.timepoint)
        comparable = same(wanted.perturbation, self.perturbation)
        return [
            Novelty.TYPE
            if not (usable & of_type).any()
            else Novelty.TIMEPOINT
            if not (usable & at_timepoint).any()
            else Novelty.PAIR
            if not (usable & of_type & at_timepoint).any()
            else Novelty.NONE
            for usable, of_type, at_timepoint in zip(
                comparable, same_type, same_timepoint, strict=True
            )
        ]


@dataclass(frozen=True, eq=False)
class Examples:
    """Strata with the delta of their mean that followed the perturbation.

    Attributes:
        profiles: the strata.
        deltas: float64 [strata, genes], mean treated minus mean control cell.
    """

    profiles: Profiles
    deltas: Deltas

    def __len__(self) -> int:
        return len(self.deltas)

    @cached_property
    def ball(self) -> tuple[Float[np.ndarray, " genes"], float]:
        """The mean over the mean cells of both arms, and how far the farthest of them is from it.

        The distance is the root mean square over genes.
        """
        control, treated = self.profiles.control, self.profiles.control + self.deltas
        center = (control.mean(axis=0) + treated.mean(axis=0)) / 2.0
        squared = [np.square(arm - center).mean(axis=1).max() for arm in (control, treated)]
        return center, float(np.sqrt(max(squared)))

    def take(self, rows: Rows) -> "Examples":
        """The strata of some rows."""
        return Examples(self.profiles.take(rows), self.deltas[rows])


def labels_of(strata: Sequence[Stratum]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cell types, timepoints and perturbations of strata, as arrays of objects."""
    cell_type, timepoint, perturbation = (np.empty(len(strata), dtype=object) for _ in range(3))
    for row, stratum in enumerate(strata):
        cell_type[row] = stratum.cell_type
        timepoint[row] = stratum.timepoint
        perturbation[row] = stratum.perturbation
    return cell_type, timepoint, perturbation


def same(
    wanted: Shaped[np.ndarray, " wanted"], training: Shaped[np.ndarray, " strata"]
) -> Bool[np.ndarray, "wanted strata"]:
    """Which wanted label equals which training label."""
    return np.equal(wanted[:, None], training[None, :]).astype(bool)
