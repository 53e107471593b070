"""Devices: one mesh axis, `data`, along which the sets of a batch lie; the rest is replicated.

Set s of a batch of S lies on device floor(s D / S) of D. With several processes the devices of
all of them are those of the run, in the order of the processes; each places its own sets.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

from wound_jax.arrays import HostOrDevice
from wound_jax.errors import UserError

DATA_AXIS = "data"


@dataclass(frozen=True)
class Devices:
    """The devices of a run and how arrays lie on them.

    Attributes:
        mesh: the mesh, with the one axis `data`.
        replicated: the placement of parameters and cells.
        by_set: the placement of arrays whose first axis is `sets`.
        by_step: that of arrays of several batches, whose axes are `steps` and `sets`.
    """

    mesh: Mesh
    replicated: NamedSharding
    by_set: NamedSharding
    by_step: NamedSharding

    @property
    def count(self) -> int:
        """How many devices there are, those of other processes too."""
        return self.mesh.size

    def own(self, sets: int) -> slice:
        """Which sets of a batch lie on devices of this process."""
        each = sets // jax.process_count() if self._shared else sets
        first = jax.process_index() * each if self._shared else 0
        return slice(first, first + each)

    @property
    def _shared(self) -> bool:
        return not self.replicated.is_fully_addressable


def per_device(function: Callable, devices: Devices) -> Callable:
    """Runs a function of sets on each device's own sets.

    Left to the partitioner, a loop that ends when all sets have converged would ask all devices at
    every iteration; here each device loops over its own sets alone.

    Args:
        function: its arguments and results are (trees of) arrays whose first axis is `sets`.
        devices: which devices share the sets.
    """
    if devices.count == 1:
        return function
    spec = PartitionSpec(DATA_AXIS)
    return jax.shard_map(
        function, mesh=devices.mesh, in_specs=spec, out_specs=spec, check_vma=False
    )


def cut_sets(batch: Any, parts: int, devices: int) -> Any:
    """Cuts a batch into parts without moving a set from one device to another; for use inside jit.

    Args:
        batch: a tree of arrays `[sets, ...]`.
        parts: how many; times `devices` it divides the number of sets.
        devices: how many share the sets.

    Returns:
        The arrays `[parts, sets / parts, ...]`; each part has as many sets of every device.
    """

    def cut(leaf: Shaped[HostOrDevice, "sets ..."]) -> Shaped[HostOrDevice, "parts ..."]:
        of_device = leaf.reshape(devices, parts, -1, *leaf.shape[1:])
        return of_device.swapaxes(0, 1).reshape(parts, -1, *leaf.shape[1:])

    return jax.tree.map(cut, batch)


def place(tree: Any, placement: NamedSharding) -> Any:
    """Places arrays of the host, which are the same on all processes.

    Args:
        tree: of arrays.
        placement: on the devices of the run; each process fills those of its own.
    """
    if placement.is_fully_addressable:
        return jax.device_put(tree, placement)
    # jax.device_put would ask all processes, each time, whether their arrays are equal.
    host = jax.tree.map(np.asarray, tree)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_callback(
            leaf.shape, placement, lambda index: leaf[index], dtype=leaf.dtype
        ),
        host,
    )


def place_own(tree: Any, placement: NamedSharding) -> Any:
    """Places a batch of which each process has its own sets (`Devices.own`) alone."""
    if placement.is_fully_addressable:
        return jax.device_put(tree, placement)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(placement, np.asarray(leaf)), tree
    )


def own_copy(tree: Any) -> Any:
    """Replicated arrays that lie on several processes as arrays of the host; others as they are."""
    return jax.tree.map(lambda leaf: leaf if leaf.is_fully_addressable else np.array(leaf), tree)


def one_device() -> Devices:
    """A device of this process, for what it does alone."""
    return _devices(jax.local_devices()[:1])


def make_devices(wanted: int | str, batch_size: int, accumulate: int = 1) -> Devices:
    """The devices a config asks for.

    Args:
        wanted: a number, or "all".
        batch_size: sets in a batch; the devices must share them evenly.
        accumulate: parts in which a batch is trained on; the devices must share each evenly.

    Raises:
        UserError: there are too few devices, or they or the parts do not divide the batch.
    """
    available = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    n = len(available) if wanted == "all" else int(wanted)
    if n > len(available):
        raise UserError(
            f"training.devices={n}, but jax sees {len(available)} ({available[0].platform}); set "
            f"training.devices={len(available)} or fewer. (CPU devices can be forced by "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={n}.)"
        )
    if jax.process_count() > 1:
        _require_all(n, available)
    _require_even(batch_size, n, accumulate)
    return _devices(available[:n])


def _devices(chosen: list[Any]) -> Devices:
    mesh = Mesh(np.array(chosen), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    return Devices(
        mesh=mesh,
        replicated=NamedSharding(mesh, PartitionSpec()),
        by_set=NamedSharding(mesh, PartitionSpec(DATA_AXIS)),
        by_step=NamedSharding(mesh, PartitionSpec(None, DATA_AXIS)),
    )


def _require_all(n: int, available: list[Any]) -> None:
    """Refuses devices of which some process would have none, or more than another.

    Raises:
        UserError: as said.
    """
    processes = jax.process_count()
    if n != len(available):
        raise UserError(
            f"training.devices={n}, but the {processes} processes have {len(available)} together, "
            "and all of them take part; set training.devices=all."
        )
    counts = [sum(d.process_index == i for d in available) for i in range(processes)]
    if len(set(counts)) > 1:
        raise UserError(
            f"the processes have {', '.join(map(str, counts))} devices; give each the same number "
            "(JAX_LOCAL_DEVICE_IDS, or the launcher's)."
        )


def _require_even(batch_size: int, devices: int, accumulate: int) -> None:
    """Refuses a batch that cannot be cut into equal parts.

    Raises:
        UserError: with the sizes that can.
    """
    parts = devices * accumulate
    if batch_size % parts == 0:
        return
    fits = [size for size in (batch_size // parts * parts, -(-batch_size // parts) * parts) if size]
    by, keys = f"{devices} devices", "training.devices"
    if accumulate > 1:
        by = f"{by} in {accumulate} parts (training.accumulate)"
        keys = f"{keys} or training.accumulate"
    raise UserError(
        f"training.batch_size={batch_size} sets cannot be shared evenly by {by}; set "
        f"training.batch_size={' or '.join(map(str, fits))}, or change {keys}."
    )
