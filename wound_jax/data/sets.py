"""The plan of an epoch: which cells meet in which set, as int32 positions.

A pure function of (seed, epoch): no state, no loader, the same on every machine. Each epoch cuts
every group's treated cells into a new partition of nearly equal sets, so that each cell is visited
once; each set draws its own controls without replacement. A short set is padded and masked
(`short_sets: mask`) or filled by repetition (`resample`, the published loader's way).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from wound_jax.data.groups import Group
from wound_jax.data.seeding import Use, stream


@dataclass(frozen=True, eq=False)
class SetPlan:
    """Sets of cells, as positions in the cell table. Axes: `[sets, cells]` and `[sets]`.

    Attributes:
        control: int32 positions of control cells, 0 where padded.
        control_mask: which of them are real.
        target: int32 positions of target cells, 0 where padded.
        target_mask: which of them are real.
        perturbation: int32 code of the condition.
        timepoint: int32 code of the day, -1 where unseen in training.
    """

    control: np.ndarray
    control_mask: np.ndarray
    target: np.ndarray
    target_mask: np.ndarray
    perturbation: np.ndarray
    timepoint: np.ndarray

    def __len__(self) -> int:
        return len(self.perturbation)

    def take(self, index: np.ndarray | slice) -> "SetPlan":
        """The sets at `index`."""
        return SetPlan(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def batches(self, size: int) -> list["SetPlan"]:
        """Cuts the sets into the fewest batches of at most `size`, filled up with empty sets.

        The real sets are shared out evenly: a last batch with the one or two sets left over would
        take a whole step of the optimiser on a handful of cells.
        """
        parts = np.array_split(np.arange(len(self)), -(-len(self) // size)) if len(self) else []
        return [self.take(part)._filled(size) for part in parts]

    def _filled(self, size: int) -> "SetPlan":
        """The sets and as many empty ones as make `size`."""
        columns = [getattr(self, f.name) for f in fields(self)]
        missing = size - len(self)
        return SetPlan(
            *(np.concatenate([c, np.zeros((missing, *c.shape[1:]), c.dtype)]) for c in columns)
        )


@dataclass(frozen=True)
class PlannedGroup:
    """A group with the codes the model is given for it."""

    group: Group
    perturbation: int
    timepoint: int


class PlanBuilder:
    """Cuts groups into sets.

    Args:
        groups: treated groups, each with its controls.
        control_groups: groups of control cells for control-to-control sets; may be empty.
        cell_set_len: the largest number of cells in a set.
        resample: fill short sets by repetition rather than mask them.
        control_fraction: share of control-to-control sets in an epoch.
        seed: the run's seed.
    """

    def __init__(
        self,
        groups: Sequence[PlannedGroup],
        control_groups: Sequence[PlannedGroup] = (),
        *,
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

    def epoch(self, epoch: int) -> SetPlan:
        """All sets of one epoch, in random order."""
        return self._plan(stream(self.seed, Use.TRAINING, epoch))

    def fixed(self) -> SetPlan:
        """The validation sets: the same whenever they are asked for."""
        return self._plan(stream(self.seed, Use.VALIDATION))

    def sets_per_epoch(self) -> int:
        """How many sets an epoch holds."""
        treated = sum(self._n_sets(p) for p in self.groups)
        return treated + self._n_control_sets(treated)

    def _n_sets(self, planned: PlannedGroup) -> int:
        return -(-len(planned.group.targets) // self.cell_set_len)

    def _n_control_sets(self, treated: int) -> int:
        if not self.control_groups:
            return 0
        return round(self.control_fraction / (1.0 - self.control_fraction) * treated)

    def _plan(self, rng: np.random.Generator) -> SetPlan:
        rows = [
            self._row(planned, targets, planned.group.controls, rng)
            for planned in self.groups
            for targets in np.array_split(
                rng.permutation(planned.group.targets), self._n_sets(planned)
            )
        ]
        rows += self._control_rows(self._n_control_sets(len(rows)), rng)
        order = rng.permutation(len(rows))
        if not rows:
            return self._empty()
        columns = zip(*(rows[i] for i in order), strict=True)
        return SetPlan(*(np.stack(column) for column in columns))

    def _empty(self) -> SetPlan:
        cells, sets = np.zeros((0, self.cell_set_len), np.int32), np.zeros(0, np.int32)
        return SetPlan(cells, cells.astype(bool), cells, cells.astype(bool), sets, sets)

    def _control_rows(self, n: int, rng: np.random.Generator) -> list[tuple]:
        """Control-to-control sets: disjoint halves of a control group, by group size."""
        if not n:
            return []
        sizes = np.array([len(p.group.targets) for p in self.control_groups], dtype=float)
        rows = []
        for i in rng.choice(len(sizes), size=n, p=sizes / sizes.sum()):
            cells = rng.permutation(self.control_groups[i].group.targets)[: 2 * self.cell_set_len]
            half = max(1, len(cells) // 2)
            rows.append(self._row(self.control_groups[i], cells[:half], cells[-half:], rng))
        return rows

    def _row(
        self, planned: PlannedGroup, targets: np.ndarray, pool: np.ndarray, rng: np.random.Generator
    ) -> tuple:
        control, control_mask = self._fill(_draw(pool, self.cell_set_len, rng), rng)
        target, target_mask = self._fill(targets, rng)
        codes = np.int32(planned.perturbation), np.int32(planned.timepoint)
        return control, control_mask, target, target_mask, *codes

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


def prediction_sets(
    controls: np.ndarray, cell_set_len: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the control cells of one group into sets, each cell once, at random by `seed`.

    Returns:
        int32 positions and mask, each `[sets, cell_set_len]`.
    """
    rng = stream(seed, Use.PREDICTION)
    parts = np.array_split(rng.permutation(controls), max(1, -(-len(controls) // cell_set_len)))
    index = np.zeros((len(parts), cell_set_len), dtype=np.int32)
    mask = np.zeros(index.shape, dtype=bool)
    for row, part in enumerate(parts):
        index[row, : len(part)] = part
        mask[row, : len(part)] = True
    return index, mask
