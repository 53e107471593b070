"""Training strata, and what several baselines derive from them, derived once.

Owns the principal components of the training cells, the means of the strata, and the record of
results that baselines share. Cells of both arms are taken for the components, equally many of each
arm of each stratum, so that a frequent cell type does not decide the axes alone.
"""

import zlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar, overload

import numpy as np
from jaxtyping import Float

from wound_jax.errors import UserError
from wound_jax.evaluation.baselines.learnt import Components, Learnt
from wound_jax.evaluation.baselines.profiles import Examples, Profiles, labels_of
from wound_jax.evaluation.strata import Stratum

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
                "one to learn a shift from. Check the split and the control label."
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
        shifts = np.stack([stratum.mean_delta for stratum in self])
        control = np.stack([stratum.control_mean for stratum in self])
        of = Profiles(*labels_of(self._strata), control, self.components.project(control))
        return Examples(of, shifts)

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
