"""Several seeds of one run as one more axis of every array, the first one.

    f([s_1, ..., s_n], [b_1, ..., b_n]) = [f(s_1, b_1), ..., f(s_n, b_n)]

by `jax.vmap`: one compilation and larger multiplications. Where the devices divide the number of
seeds, each device has its own seeds and asks no other; elsewhere the sets of every seed are shared
among the devices, as they are for one run.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from wound_jax.sharding import DATA_AXIS, Devices


class SeedAxis:
    """How the seeds of one run lie along the first axis, and on the devices.

    Args:
        size: number of seeds.
        devices: of the run.

    Attributes:
        over_devices: whether each device has seeds of its own, rather than a share of all sets.
        states: placement of states and of whatever else has no sets.
        batches: placement of batches.
    """

    def __init__(self, size: int, devices: Devices):
        self.size = size
        self.over_devices = size % devices.count == 0
        self._devices = devices
        by_seed = PartitionSpec(DATA_AXIS) if self.over_devices else PartitionSpec()
        by_set = by_seed if self.over_devices else PartitionSpec(None, DATA_AXIS)
        self.states = NamedSharding(devices.mesh, by_seed)
        self.batches = NamedSharding(devices.mesh, by_set)
        self._divide = jax.jit(self._slices, out_shardings=devices.replicated)

    def by_step(self, placement: NamedSharding) -> NamedSharding:
        """A placement of arrays that have a first axis `steps` before the seeds."""
        return NamedSharding(self._devices.mesh, PartitionSpec(None, *placement.spec))

    def stack(self, trees: Sequence[Any]) -> Any:
        """One tree a seed as one tree; the caller places it."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    def divide(self, tree: Any) -> list[Any]:
        """The inverse of `stack`: one tree a seed, replicated on the devices."""
        return self._divide(tree)

    def map(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(shared, *of_one_seed)` as a function of the trees of all seeds.

        The first argument is the same for all seeds; it lies on every device.
        """

        def all_seeds(shared: Any, *trees: Any) -> Any:
            return jax.vmap(partial(function, shared))(*trees)

        if not self.over_devices or self._devices.count == 1:
            return all_seeds

        def on_each_device(shared: Any, *trees: Any) -> Any:
            by_seed = PartitionSpec(DATA_AXIS)
            return jax.shard_map(
                all_seeds,
                mesh=self._devices.mesh,
                in_specs=(PartitionSpec(), *[by_seed] * len(trees)),
                out_specs=by_seed,
                check_vma=False,
            )(shared, *trees)

        return on_each_device

    def _slices(self, tree: Any) -> list[Any]:
        return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(self.size)]
