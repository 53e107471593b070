"""From positions to arrays: cells on the device once, a batch as a gather inside the jitted step.

Where the cell table does not fit on the device, `gather_on_host` builds the same batch from the
host's copy (`data.residency: host`).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from wound_jax.arrays import HostOrDevice
from wound_jax.data.plan import SetPlan
from wound_jax.data.prepare import CellTable
from wound_jax.data.spec import DataSpec
from wound_jax.models.set_transformer import SetInputs


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CellStore:
    """The cell table as arrays to gather from.

    Attributes:
        features: the model's input and output space.
        genes: expression beside an embedding, where a gene decoder is trained.
        animal: code of each cell's animal, -1 where unseen in training.
    """

    features: Float[HostOrDevice, "table dims"]
    genes: Float[HostOrDevice, "table genes"] | None
    animal: Int[HostOrDevice, "table"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IndexBatch:
    """A batch as positions in the cell store; see `wound_jax.data.plan.SetPlan`."""

    control: Int[HostOrDevice, "sets cells"]
    control_mask: Bool[HostOrDevice, "sets cells"]
    target: Int[HostOrDevice, "sets targets"]
    target_mask: Bool[HostOrDevice, "sets targets"]
    perturbation: Int[HostOrDevice, "sets"]
    timepoint: Int[HostOrDevice, "sets"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SetBatch:
    """A batch as the model and the loss see it."""

    inputs: SetInputs
    target: Float[HostOrDevice, "sets targets dims"]
    target_genes: Float[HostOrDevice, "sets targets genes"] | None
    target_mask: Bool[HostOrDevice, "sets targets"]


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
