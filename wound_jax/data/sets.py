"""Plan: which cells meet in which set, as int32 positions.

The plan of an epoch is a pure function of (seed, epoch): no state, no loader, the same on every
machine. Each epoch cuts every group's treated cells into a new partition of nearly equal sets, so
that each cell is visited once; each set draws its own controls without replacement. A short set is
padded and masked (`short_sets: mask`) or filled by repetition (`resample`, the published loader's
way). A plan of predictions cuts the control cells, and holds no treated ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from wound_jax.arrays import HostOrDevice, pytree
from wound_jax.data.groups import Group
from wound_jax.data.seeding import Use, stream
from wound_jax.data.spec import Codes


@pytree
@dataclass(frozen=True, eq=False)
class SetPlan:
    """Sets of cells as positions among all cells, on the host or on devices.

    Attributes:
        control: int32 positions of control cells, 0 where padded.
        control_mask: which of them are real.
        target: int32 positions of target cells, 0 where padded.
        target_mask: which of them are real.
        perturbation: int32 code of the condition.
        timepoint: int32 code of the timepoint, -1 where unseen in training.
        time: float32 time in days, NaN where the timepoint names none.
    """

    control: Int[HostOrDevice, "sets cells"]
    control_mask: Bool[HostOrDevice, "sets cells"]
    target: Int[HostOrDevice, "sets targets"]
    target_mask: Bool[HostOrDevice, "sets targets"]
    perturbation: Int[HostOrDevice, "sets"]
    timepoint: Int[HostOrDevice, "sets"]
    time: Float[HostOrDevice, "sets"]

    def __len__(self) -> int:
        return len(self.perturbation)

    def take(self, index: np.ndarray | slice) -> "SetPlan":
        """The sets at `index`; of stacked plans the first axis is taken, whatever lies along it."""
        return jax.tree.map(lambda column: column[index], self)

    def batches(self, size: int) -> list["SetPlan"]:
        """Cuts the sets into the fewest batches of at most `size`, filled up with empty sets.

        The real sets are shared out evenly: a last batch with the one or two sets left over would
        take a whole step of the optimiser on a handful of cells.
        """
        parts = np.array_split(np.arange(len(self)), -(-len(self) // size)) if len(self) else []
        return [self.take(part).filled(size) for part in parts]

    def filled(self, size: int) -> "SetPlan":
        """The sets and as many empty ones as make `size`."""
        columns = [getattr(self, f.name) for f in fields(self)]
        missing = size - len(self)
        return SetPlan(
            *(np.concatenate([c, np.zeros((missing, *c.shape[1:]), c.dtype)]) for c in columns)
        )


class PlanBuilder:
    """Cuts groups into sets.

    Args:
        groups: treated groups, each with its controls.
        control_groups: groups of control cells for control-to-control sets; may be empty.
        codes: what the model is told of a group (`wound_jax.data.spec.DataSpec.codes`).
        cell_set_len: the largest number of cells in a set.
        resample: fill short sets by repetition rather than mask them.
        control_fraction: share of control-to-control sets in an epoch.
        seed: the run's seed.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        control_groups: Sequence[Group] = (),
        *,
        codes: Callable[[Group], Codes],
        cell_set_len: int,
        resample: bool = False,
        control_fraction: float = 0.0,
        seed: int,
    ):
        self.groups = tuple(groups)
        self.control_groups = tuple(control_groups if control_fraction else ())
        self.cell_set_len = cell_set_len
        self.resample = resample
        self.control_fraction = control_fraction
        self.seed = seed
        self._codes = {group: codes(group) for group in (*self.groups, *self.control_groups)}

    def epoch(self, epoch: int) -> SetPlan:
        """All sets of one epoch, in random order."""
        return self._plan(stream(self.seed, Use.TRAINING, epoch))

    def fixed(self) -> SetPlan:
        """The validation sets: the same whenever they are asked for."""
        return self._plan(stream(self.seed, Use.VALIDATION))

    def sets_per_epoch(self) -> int:
        """How many sets an epoch holds."""
        treated = sum(self._n_sets(group) for group in self.groups)
        return treated + self._n_control_sets(treated)

    def _n_sets(self, group: Group) -> int:
        return -(-len(group.targets) // self.cell_set_len)

    def _n_control_sets(self, treated: int) -> int:
        if not self.control_groups:
            return 0
        return round(self.control_fraction / (1.0 - self.control_fraction) * treated)

    def _plan(self, rng: np.random.Generator) -> SetPlan:
        rows = [
            self._row(group, targets, group.controls, rng)
            for group in self.groups
            for targets in np.array_split(rng.permutation(group.targets), self._n_sets(group))
        ]
        rows += self._control_rows(self._n_control_sets(len(rows)), rng)
        order = rng.permutation(len(rows))
        if not rows:
            return self._empty()
        columns = zip(*(rows[i] for i in order), strict=True)
        return SetPlan(*(np.stack(column) for column in columns))

    def _empty(self) -> SetPlan:
        cells, codes = np.zeros((0, self.cell_set_len), np.int32), np.zeros(0, np.int32)
        mask = cells.astype(bool)
        return SetPlan(cells, mask, cells, mask, codes, codes, codes.astype(np.float32))

    def _control_rows(self, n: int, rng: np.random.Generator) -> list[tuple]:
        """Control-to-control sets: disjoint halves of a control group, by group size."""
        if not n:
            return []
        sizes = np.array([len(group.targets) for group in self.control_groups], dtype=float)
        rows = []
        for i in rng.choice(len(sizes), size=n, p=sizes / sizes.sum()):
            cells = rng.permutation(self.control_groups[i].targets)[: 2 * self.cell_set_len]
            half = max(1, len(cells) // 2)
            rows.append(self._row(self.control_groups[i], cells[:half], cells[-half:], rng))
        return rows

    def _row(
        self, group: Group, targets: np.ndarray, pool: np.ndarray, rng: np.random.Generator
    ) -> tuple:
        control, control_mask = self._fill(_draw(pool, self.cell_set_len, rng), rng)
        target, target_mask = self._fill(targets, rng)
        return control, control_mask, target, target_mask, *_columns(self._codes[group])

    def _fill(self, cells: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Brings cells to the length of a set: positions and mask."""
        out = np.zeros(self.cell_set_len, dtype=np.int32)
        mask = np.arange(self.cell_set_len) < len(cells)
        out[: len(cells)] = cells
        if self.resample and len(cells) < self.cell_set_len:
            out[len(cells) :] = rng.choice(cells, self.cell_set_len - len(cells))
            mask[:] = True
        return out, mask


def _draw(pool: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Up to n cells of a pool, without replacement."""
    return pool if len(pool) <= n else rng.choice(pool, n, replace=False)


def _columns(codes: Codes) -> tuple[np.int32, np.int32, np.float32]:
    """The codes of one set as the arrays of a plan hold them."""
    return np.int32(codes.perturbation), np.int32(codes.timepoint), np.float32(codes.time)


def prediction_plan(
    group: Group, codes: Codes, cell_set_len: int, seed: int
) -> tuple[SetPlan, Int[np.ndarray, "sets cells"]]:
    """Cuts the control cells of one group into sets, each cell once, at random by `seed`.

    Returns:
        The sets, without target cells, and the place of each control cell among the group's.
    """
    rng, n = stream(seed, Use.PREDICTION), len(group.controls)
    parts = np.array_split(rng.permutation(np.arange(n)), max(1, -(-n // cell_set_len)))
    place = np.zeros((len(parts), cell_set_len), dtype=np.int32)
    mask = np.zeros(place.shape, dtype=bool)
    for row, part in enumerate(parts):
        place[row, : len(part)] = part
        mask[row, : len(part)] = True
    control = np.zeros_like(place)
    control[mask] = group.controls[place[mask]]
    nobody = np.zeros((len(parts), 0), dtype=np.int32)
    told = (np.full(len(parts), value) for value in _columns(codes))
    return SetPlan(control, mask, nobody, nobody.astype(bool), *told), place
