"""Batches: no data loader, cells lie on the device and a batch is a gather inside the jitted step.

Where the cells do not fit on the device, the same gather builds the batch from the host's copy
(`data.location: host`), or from rows on disk (`disk`), while a step computes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Bool, Float

from wound_jax.arrays import HostOrDevice, pytree
from wound_jax.data.cells import Cells
from wound_jax.data.sets import SetPlan
from wound_jax.data.store.rows import DiskRows
from wound_jax.devices.mesh import Devices, place, place_own
from wound_jax.devices.prefetch import Ahead
from wound_jax.models.set_transformer import SetInputs


@pytree
@dataclass(frozen=True)
class SetVelocity:
    """Velocities of the control cells or of the target cells of each set.

    Attributes:
        velocity: in the basis of the features; 0 where unknown.
        confidence: in [0, 1]; 0 where unknown.
        dims: features that have a velocity.
    """

    velocity: Float[HostOrDevice, "*stack sets members dims"]
    confidence: Float[HostOrDevice, "*stack sets members"]
    dims: Bool[HostOrDevice, "*stack sets dims"]


@pytree
@dataclass(frozen=True)
class SetBatch:
    """A batch as the model and the loss see it; `stack` as in `SetInputs`."""

    inputs: SetInputs
    target: Float[HostOrDevice, "*stack sets targets dims"]
    target_genes: Float[HostOrDevice, "*stack sets targets genes"] | None
    target_mask: Bool[HostOrDevice, "*stack sets targets"]
    velocity: SetVelocity | None = None


# Sets as positions among the cells on the device, or as arrays.
Batch = SetPlan | SetBatch


def gather_inputs(cells: Cells, plan: SetPlan) -> SetInputs:
    """What the model is given for the sets of a plan; by NumPy or inside jit, as the plan is."""
    return SetInputs(
        control=_rows(cells.features, plan.control),
        mask=plan.control_mask,
        perturbation=plan.perturbation,
        timepoint=plan.timepoint,
        replicate=_rows(cells.replicate, plan.control),
        time=plan.time,
        scalars=None if cells.scalars is None else _rows(cells.scalars, plan.control),
    )


def gather(cells: Cells, plan: SetPlan) -> SetBatch:
    """The cells of a plan; by NumPy or inside jit, as the plan is."""
    return SetBatch(
        inputs=gather_inputs(cells, plan),
        target=_rows(cells.features, plan.target),
        target_genes=None if cells.genes is None else _rows(cells.genes, plan.target),
        target_mask=plan.target_mask,
        velocity=None if cells.velocity is None else _gather_velocity(cells, plan),
    )


def _gather_velocity(cells: Cells, plan: SetPlan) -> SetVelocity:
    members, drift = plan.control if cells.velocity_of == "control" else plan.target, cells.velocity
    assert drift is not None
    xp = np if isinstance(members, np.ndarray) else jnp
    return SetVelocity(
        velocity=_rows(drift.velocity, members),
        confidence=_rows(drift.confidence, members),
        # Repeated for each set, so that every array of a batch lies along the sets.
        dims=xp.broadcast_to(drift.dims, (*members.shape[:-1], len(drift.dims))),
    )


def _rows(values: Any, positions: Any) -> Any:
    """Rows of a table; the positions of a plan lie within it."""
    if isinstance(values, DiskRows):
        return values[positions]
    # NumPy looks while it reads; jax.numpy would go over all it has read once more.
    if isinstance(positions, np.ndarray):
        return np.take(values, positions, axis=0, mode="raise")
    return jnp.take(values, positions, axis=0, mode="clip")


class Feed:
    """Feed of a run: places the cells and the batches on the devices.

    Args:
        cells: on the host, in memory or on disk.
        devices: where arrays go.
        resident: whether all cells lie on the device and batches are positions; otherwise each
            batch is gathered on the host, in a thread of its own.

    Attributes:
        cells: on the devices; None where batches are gathered on the host.
    """

    def __init__(self, cells: Cells, devices: Devices, *, resident: bool):
        self._host = cells
        self._devices = devices
        self._by_set, self._by_step = devices.by_set, devices.by_step
        self.cells = place(cells, devices.replicated) if resident else None
        self._gathered = None if resident else Ahead(self._place)

    def placing(self, by_set: NamedSharding, by_step: NamedSharding) -> "Feed":
        """A feed of the same cells that places batches, and several of them at once, elsewhere."""
        feed = copy.copy(self)
        feed._by_set, feed._by_step = by_set, by_step
        feed._gathered = None if feed._gathered is None else Ahead(feed._place)
        return feed

    def batch(self, plan: SetPlan, upcoming: Sequence[SetPlan] = ()) -> Batch:
        """One batch of a plan, its sets shared among the devices.

        Args:
            plan: which sets.
            upcoming: the batches that will be asked for next; what has to be gathered on the host
                is begun.
        """
        return self._gathered(plan, upcoming) if self._gathered else self._place(plan)

    def batches(self, plans: Sequence[SetPlan]) -> Batch:
        """Several batches as one with a first axis `steps`, placed."""
        return place_own(stacked([self._on_host(plan) for plan in plans]), self._by_step)

    def _place(self, plan: SetPlan) -> Batch:
        return place_own(self._on_host(plan), self._by_set)

    def _on_host(self, plan: SetPlan) -> Batch:
        """The sets of this process, before they are placed."""
        own = plan.take(self._devices.own(len(plan)))
        return own if self.cells is not None else gather(self._host, own)


def stacked(trees: Sequence[Any]) -> Any:
    """Trees of arrays of the host as one, with one more axis in front."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
