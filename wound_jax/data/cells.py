"""Cells as a model sees them, their split, and their digest."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from wound_jax.arrays import HostOrDevice, pytree
from wound_jax.data.annotations import Annotations
from wound_jax.data.groups import Group, control_pairs, make_groups, require_controls
from wound_jax.data.sets import PlanBuilder
from wound_jax.data.settings import DataSettings
from wound_jax.data.spec import DataSpec
from wound_jax.data.splits import Split
from wound_jax.data.store.rows import DiskRows, Rows
from wound_jax.data.velocity.contract import VelocityData

# Labels joined at a time.
_LABELS = 100_000


@pytree
@dataclass(frozen=True, eq=False)
class Cells:
    """Cells as a model sees them, on the host or, as a tree of arrays, on devices.

    Attributes:
        annotations: their labels; on the host wherever the arrays are.
        features: float32, the model's input and output space; rows on disk stay on the host.
        replicate: int32 code of each cell's replicate, -1 where unseen in training.
        genes: float32 expression where the features are an embedding; None where the features are
            the expression, or where none is at hand.
        scalars: float32, standardised; None where the model has none.
        velocity: in the basis of the features, where the run asks for it.
        velocity_of: whose velocities a batch takes, "control" or "target".
    """

    annotations: Annotations = field(metadata={"static": True})
    features: Float[HostOrDevice, "table dims"] | DiskRows
    replicate: Int[HostOrDevice, "table"]
    genes: Float[HostOrDevice, "table genes"] | None = None
    scalars: Float[HostOrDevice, "table scalars"] | None = None
    velocity: VelocityData | None = None
    velocity_of: str = field(default="target", metadata={"static": True})

    @property
    def on_disk(self) -> bool:
        """Whether the features stay on disk, and are read as they are asked for."""
        return isinstance(self.features, DiskRows)

    @property
    def expression(self) -> Rows:
        """The space in which predictions are scored: genes, or the embedding without a decoder."""
        return self.features if self.genes is None else self.genes


@dataclass(frozen=True, eq=False)
class PreparedData:
    """Cells, their split, and what a model must remember of them.

    Attributes:
        cells: all cells.
        split: who trains, validates and tests.
        spec: what is stored with the model.
        match_on: labels on which controls agree.
        fingerprint: digest of the cells.
    """

    cells: Cells
    split: Split
    spec: DataSpec
    match_on: tuple[str, ...]
    fingerprint: str

    def groups(self, part: str) -> tuple[list[Group], list[Group]]:
        """The treated groups of a part of the split: those with controls and those without.

        Raises:
            UserError: a training group has no control cell.
        """
        split, labels = self.split, self.cells.annotations
        found, orphans = make_groups(
            labels, split.treated[part], split.controls[part], self.match_on
        )
        if part == "train":
            require_controls(orphans, self.match_on)
        return found, orphans

    def plan_builder(self, part: str, config: DataSettings, seed: int) -> PlanBuilder:
        """The sets of a part of the split, epoch by epoch.

        Control-to-control sets are for training; what is held out is scored on treated cells.
        """
        fraction = config.control_fraction if part == "train" else 0.0
        controls = self.split.controls[part] if fraction else np.zeros(0, dtype=int)
        return PlanBuilder(
            self.groups(part)[0],
            control_pairs(self.cells.annotations, controls, self.match_on),
            codes=self.spec.codes,
            cell_set_len=config.cell_set_len,
            resample=config.short_sets == "resample",
            control_fraction=fraction,
            seed=seed,
        )

    def trained_on(self, other: "PreparedData", part: str) -> int:
        """How many treated cells of a part of `other` (same cells, other split) train here."""
        return len(np.intersect1d(self.split.treated["train"], other.split.treated[part]))


def match_labels(data: DataSettings) -> tuple[str, ...]:
    """The labels controls must agree on, without a timepoint that the data do not have."""
    has_timepoint = data.timepoint_col is not None
    return tuple(name for name in data.match_on if name != "timepoint" or has_timepoint)


def fingerprint(cells: Cells, genes: Sequence[str]) -> str:
    """A digest of the labels, gene names, values and velocities of all cells, in their order.

    How a matrix was stored, sparse or dense, makes no difference.
    """
    digest, velocity = CellDigest(cells.annotations, genes), cells.velocity
    drift = (velocity.velocity, velocity.confidence) if velocity is not None else ()
    for values in (cells.features, cells.genes, cells.scalars, *drift):
        if values is not None:
            digest.add(values)
    return digest.hexdigest()


class CellDigest:
    """The digest of cells whose values come in blocks.

    Args:
        labels: of all cells.
        genes: names of the genes.
    """

    def __init__(self, labels: Annotations, genes: Sequence[str] = ()):
        self._digest = hashlib.blake2b(digest_size=16)
        columns = [getattr(labels, field.name) for field in dataclasses.fields(labels)]
        for column in (*columns, genes):
            self._digest.update(f"{len(column)}\x1e".encode())
            for start in range(0, len(column), _LABELS):
                joined = "\x1f".join(map(str, column[start : start + _LABELS]))
                self._digest.update(f"{chr(0x1F) if start else ''}{joined}".encode())

    def add(self, values: Rows) -> None:
        """Goes on with values, whole or block by block in the order of the cells."""
        self._digest.update(np.ascontiguousarray(values[:]).data)

    def hexdigest(self) -> str:
        """The digest of what was added so far."""
        return self._digest.hexdigest()
