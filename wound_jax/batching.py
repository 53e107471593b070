"""From positions to arrays: cells on the device once, a batch as a gather inside the jitted step.

Where the cell table does not fit on the device, `gather_on_host` builds the same batch from the
host's copy (`data.residency: host`).
"""

import chex
import jax.numpy as jnp
import numpy as np

from wound_jax.arrays import Array, Float, Int, SetCodes, TargetFeatures, TargetMask
from wound_jax.data.plan import SetPlan
from wound_jax.data.prepare import CellTable
from wound_jax.data.spec import DataSpec
from wound_jax.models.set_transformer import SetInputs


@chex.dataclass(frozen=True)
class CellStore:
    """The cell table as arrays to gather from.

    Attributes:
        features: the model's input and output space.
        genes: expression beside an embedding, where a gene decoder is trained.
        animal: code of each cell's animal, -1 where unseen in training.
    """

    features: Float[Array, "table dims"]
    genes: Float[Array, "table genes"] | None
    animal: Int[Array, "table"]


@chex.dataclass(frozen=True)
class IndexBatch:
    """A batch as positions in the cell store; see `wound_jax.data.plan.SetPlan`."""

    control: Int[Array, "sets cells"]
    control_mask: TargetMask
    target: Int[Array, "sets targets"]
    target_mask: TargetMask
    perturbation: SetCodes
    timepoint: SetCodes


@chex.dataclass(frozen=True)
class SetBatch:
    """A batch as the model and the loss see it."""

    inputs: SetInputs
    target: TargetFeatures
    target_genes: Float[Array, "sets targets genes"] | None
    target_mask: TargetMask


def make_store(cells: CellTable, spec: DataSpec, *, decoder: bool) -> CellStore:
    """The store of a cell table, still on the host."""
    return CellStore(
        features=cells.features,
        genes=cells.genes if decoder else None,
        animal=spec.animals.encode(cells.annotations.animal),
    )


def index_batch(plan: SetPlan) -> IndexBatch:
    """One batch of a plan."""
    return IndexBatch(
        control=plan.control,
        control_mask=plan.control_mask,
        target=plan.target,
        target_mask=plan.target_mask,
        perturbation=plan.perturbation,
        timepoint=plan.timepoint,
    )


def gather(store: CellStore, batch: IndexBatch) -> SetBatch:
    """The batch at those positions; pure, for use inside jit."""
    return _gather(store, batch, jnp.take)


def gather_on_host(store: CellStore, batch: IndexBatch) -> SetBatch:
    """The same batch from a store of NumPy arrays."""
    return _gather(store, batch, np.take)


def _gather(store: CellStore, batch: IndexBatch, take) -> SetBatch:
    inputs = SetInputs(
        control=take(store.features, batch.control, axis=0),
        mask=batch.control_mask,
        perturbation=batch.perturbation,
        timepoint=batch.timepoint,
        animal=take(store.animal, batch.control, axis=0),
    )
    genes = None if store.genes is None else take(store.genes, batch.target, axis=0)
    target = take(store.features, batch.target, axis=0)
    return SetBatch(inputs=inputs, target=target, target_genes=genes, target_mask=batch.target_mask)
