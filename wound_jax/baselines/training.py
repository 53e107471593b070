"""Training strata as baselines learn from them: components, means, and means of parts.

`Learnt` is all that a fitted rule needs to predict, and the components it sees strata on.

`PartSums` are the stand-in for new replicates of a known stratum. The replicates of an arm are
dealt into at most four parts in the order of their names, the same replicate into the same part in
all strata; where the design is paired, control and treated cells of a replicate fall into one part.
Cells are dealt instead where an arm has one replicate in all or some stratum names none, which
understates how much replicates differ.

`Training` derives once what several baselines ask for: the principal components of the training
cells, the means of the strata, and the record of results that baselines share. Cells of both arms
are taken for the components, equally many of each arm of each stratum, so that a frequent cell type
does not decide the axes alone.
"""

import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, overload

import numpy as np
from jaxtyping import Float, Int

from wound_jax.baselines.profiles import Examples, Novelty, Profiles, labels_of
from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError, unknown_name


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
        examples: the strata with the deltas that followed.
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
                "perturbation (no training stratum has it, so there is no delta to apply)",
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
    names = [_replicates(strata, arm) for arm in ("control", "treated")]
    n_parts = min([_MAX_PARTS, *(len(of_arm) for of_arm in names if of_arm)])
    control, treated = (
        _sums(strata, arm, of_arm, n_parts)
        for arm, of_arm in zip(("control", "treated"), names, strict=True)
    )
    return control, treated


def _arm(stratum: Stratum, arm: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Cells of an arm and their replicates."""
    if arm == "control":
        return stratum.control, stratum.control_replicates
    return stratum.treated, stratum.treated_replicates


def _replicates(strata: Sequence[Stratum], arm: str) -> list[str]:
    """Names of the replicates of an arm, sorted; none where cells have to be dealt instead."""
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
        cells, replicates = _arm(stratum, arm)
        if part_of and replicates is not None:
            parts = np.array([part_of[str(name)] for name in replicates])
        else:
            rng = np.random.default_rng(zlib.crc32(f"{stratum.key} {arm}".encode()))
            parts = rng.permutation(len(cells)) % n_parts
        member = np.arange(n_parts)[:, None] == parts
        sums.append(member.astype(np.float64) @ cells)
        counts.append(member.sum(axis=1))
    return PartSums(np.stack(sums), np.stack(counts))


def _mean(sums: Float[np.ndarray, "strata genes"], counts: Int[np.ndarray, " strata"]) -> Means:
    return Means(sums / np.maximum(counts, 1)[:, None], counts)


_N_COMPONENTS = 50


# Cells that the components are fitted on, at most: more move the leading axes little.
_MAX_CELLS = 4_000


Result = TypeVar("Result")


class Training(Sequence[Stratum]):
    """The training strata that have treated cells.

    Raises:
        UserError: there is none.
    """

    def __init__(self, strata: Sequence[Stratum]) -> None:
        self._strata = tuple(stratum for stratum in strata if stratum.n_treated)
        self._results: dict[Hashable, object] = {}
        if not self._strata:
            raise UserError(
                f"none of the {len(strata)} training strata has treated cells; expected at least "
                "one to learn a delta from. Check the split and the control label."
            )

    @classmethod
    def of(cls, strata: Sequence[Stratum]) -> "Training":
        """The strata as they are, if they were prepared before."""
        return strata if isinstance(strata, Training) else cls(strata)

    def __len__(self) -> int:
        return len(self._strata)

    @overload
    def __getitem__(self, index: int) -> Stratum: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Stratum]: ...
    def __getitem__(self, index: int | slice) -> Stratum | Sequence[Stratum]:
        return self._strata[index]

    def __iter__(self) -> Iterator[Stratum]:
        return iter(self._strata)

    @cached_property
    def components(self) -> Components:
        """At most 50 components of at most 4,000 cells, seeded."""
        # Imported where it is needed: a prediction reads its rules from disk and starts without.
        from sklearn.decomposition import PCA

        n_each = max(2, _MAX_CELLS // (2 * len(self)))
        arms = [drawn(s, arm, n_each) for s in self for arm in ("control", "treated")]
        cells = np.concatenate(arms).astype(np.float32)
        n_kept = min(_N_COMPONENTS, len(cells) - 1, cells.shape[1])
        pca = PCA(n_kept, svd_solver="randomized", random_state=0).fit(cells)
        return Components(
            np.asarray(pca.mean_, np.float64), np.asarray(pca.components_, np.float64)
        )

    @cached_property
    def examples(self) -> Examples:
        """The means of all strata."""
        deltas = np.stack([stratum.mean_delta for stratum in self])
        control = np.stack([stratum.control_mean for stratum in self])
        of = Profiles(*labels_of(self._strata), control, self.components.project(control))
        return Examples(of, deltas)

    @cached_property
    def learnt(self) -> Learnt:
        """What rules keep of the strata."""
        return Learnt(self.examples, self.components)

    def once(self, key: Hashable, make: Callable[[], Result]) -> Result:
        """The result of that key, made at the first call."""
        if key not in self._results:
            self._results[key] = make()
        return self._results[key]  # pyright: ignore[reportReturnType]


def drawn(stratum: Stratum, arm: str, n: int) -> Float[np.ndarray, "cells genes"]:
    """At most n cells of one arm, "control" or "treated", without replacement, by the stratum."""
    cells = stratum.control if arm == "control" else stratum.treated
    if len(cells) <= n:
        return cells
    rng = np.random.default_rng(zlib.crc32(f"{stratum.key} {arm}".encode()))
    return cells[np.sort(rng.choice(len(cells), n, replace=False))]
