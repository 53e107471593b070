"""Each training stratum dealt into parts of its animals, as means of the parts.

Owns the stand-in for new animals of a known stratum. The animals of an arm are dealt into at most
four parts in the order of their names, the same animal into the same part in all strata; where the
design is paired, control and treated cells of an animal fall into one part. Cells are dealt
instead where an arm has one animal in all or some stratum names none, which understates how much
animals differ.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from wound_jax.evaluation.strata import Stratum

_MAX_PARTS = 4


@dataclass(frozen=True, eq=False)
class Means:
    """Mean cells and how many cells each is the mean of.

    Attributes:
        means: float64 [strata, genes]; meaningless where there is no cell.
        counts: [strata].
    """

    means: Float[np.ndarray, "strata genes"]
    counts: Int[np.ndarray, " strata"]


@dataclass(frozen=True, eq=False)
class PartSums:
    """Sums over the cells of each part of one arm.

    Attributes:
        sums: float64 [strata, parts, genes].
        counts: [strata, parts], cells of each part.
    """

    sums: Float[np.ndarray, "strata parts genes"]
    counts: Int[np.ndarray, "strata parts"]

    @property
    def n_parts(self) -> int:
        """How many parts there are."""
        return self.counts.shape[1]

    def only(self, part: int) -> Means:
        """Mean cells of one part."""
        return _mean(self.sums[:, part], self.counts[:, part])

    def without(self, part: int) -> Means:
        """Mean cells of all other parts together."""
        sums = self.sums.sum(axis=1) - self.sums[:, part]
        return _mean(sums, self.counts.sum(axis=1) - self.counts[:, part])


def part_sums(strata: Sequence[Stratum]) -> tuple[PartSums, PartSums]:
    """The parts of the control and of the treated cells, equally many of each."""
    names = [_animals(strata, arm) for arm in ("control", "treated")]
    n_parts = min([_MAX_PARTS, *(len(of_arm) for of_arm in names if of_arm)])
    control, treated = (
        _sums(strata, arm, of_arm, n_parts)
        for arm, of_arm in zip(("control", "treated"), names, strict=True)
    )
    return control, treated


def _arm(stratum: Stratum, arm: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Cells of an arm and their animals."""
    if arm == "control":
        return stratum.control, stratum.control_animals
    return stratum.treated, stratum.treated_animals


def _animals(strata: Sequence[Stratum], arm: str) -> list[str]:
    """Names of the animals of an arm, sorted; none where cells have to be dealt instead."""
    labels = [_arm(stratum, arm)[1] for stratum in strata]
    if any(of_cells is None for of_cells in labels):
        return []
    names = sorted({str(name) for of_cells in labels if of_cells is not None for name in of_cells})
    return names if len(names) > 1 else []


def _sums(strata: Sequence[Stratum], arm: str, names: list[str], n_parts: int) -> PartSums:
    """Sums over the parts of one arm."""
    part_of = {name: rank % n_parts for rank, name in enumerate(names)}
    sums, counts = [], []
    for stratum in strata:
        cells, animals = _arm(stratum, arm)
        if part_of and animals is not None:
            parts = np.array([part_of[str(name)] for name in animals])
        else:
            rng = np.random.default_rng(zlib.crc32(f"{stratum.key} {arm}".encode()))
            parts = rng.permutation(len(cells)) % n_parts
        member = np.arange(n_parts)[:, None] == parts
        sums.append(member.astype(np.float64) @ cells)
        counts.append(member.sum(axis=1))
    return PartSums(np.stack(sums), np.stack(counts))


def _mean(sums: Float[np.ndarray, "strata genes"], counts: Int[np.ndarray, " strata"]) -> Means:
    return Means(sums / np.maximum(counts, 1)[:, None], counts)
