"""Devices: one mesh axis, `data`, along which the sets of a batch lie; the rest is replicated."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wound_jax.errors import UserError

DATA_AXIS = "data"


@dataclass(frozen=True)
class Devices:
    """The devices of a run and how arrays lie on them.

    Attributes:
        mesh: the mesh, with the one axis `data`.
        replicated: the placement of parameters and cells.
        by_set: the placement of arrays whose first axis is `sets`.
    """

    mesh: Mesh
    replicated: NamedSharding
    by_set: NamedSharding

    @property
    def count(self) -> int:
        """How many devices there are."""
        return self.mesh.size


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


def make_devices(wanted: int | str, batch_size: int) -> Devices:
    """The devices a config asks for.

    Args:
        wanted: a number, or "all".
        batch_size: sets in a batch; the devices must share them evenly.

    Raises:
        UserError: there are too few devices, or they do not divide the batch.
    """
    available = jax.devices()
    n = len(available) if wanted == "all" else int(wanted)
    if n > len(available):
        raise UserError(
            f"training.devices={n}, but jax sees {len(available)} ({available[0].platform}); set "
            f"training.devices={len(available)} or fewer. (CPU devices can be forced by "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={n}.)"
        )
    if batch_size % n:
        fits = [size for size in (batch_size // n * n, -(-batch_size // n) * n) if size]
        raise UserError(
            f"training.batch_size={batch_size} sets cannot be shared evenly by {n} devices; set "
            f"training.batch_size={' or '.join(map(str, fits))}, or change training.devices."
        )
    mesh = Mesh(np.array(available[:n]), (DATA_AXIS,), axis_types=(AxisType.Auto,))
    return Devices(
        mesh=mesh,
        replicated=NamedSharding(mesh, PartitionSpec()),
        by_set=NamedSharding(mesh, PartitionSpec(DATA_AXIS)),
    )
