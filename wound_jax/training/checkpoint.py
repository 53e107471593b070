"""Checkpoints by orbax: `checkpoints/last` to resume from, `checkpoints/best` to evaluate.

Each holds the whole train state, the data spec (genes, vocabularies, preprocessing) and the loop's
progress, so that one folder is enough to predict. A new checkpoint is complete before the old one
goes. State saved on any number of devices is restored onto any other. Of several processes the one
that opens the checkpoints acts alone: states are replicated, so it has all of them, and a process
that is gone is not waited for.
"""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from wound_jax.arrays import Parameters
from wound_jax.data.spec import DataSpec
from wound_jax.devices.mesh import Devices, own_copy
from wound_jax.errors import UserError
from wound_jax.training.step import TrainState

SLOTS = ("best", "last")

# {"trainable": parameters, "frozen": parameters}
Divided = dict[str, Parameters]


class Checkpoints:
    """The checkpoints of one run; use as a context manager.

    Args:
        folder: the run folder.
        create: whether to make the folders of the slots; to read, they need not be there.
    """

    def __init__(self, folder: Path, *, create: bool = True):
        paths = {slot: (folder / "checkpoints" / slot).absolute() for slot in SLOTS}
        if create:
            for path in paths.values():
                path.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, create=False, multiprocessing_options=_alone()
        )
        self._managers = {
            slot: ocp.CheckpointManager(path, options=options) for slot, path in paths.items()
        }

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        for manager in self._managers.values():
            manager.wait_until_finished()
            manager.close()

    def save(self, slot: str, state: TrainState, spec: DataSpec, progress: dict[str, Any]) -> None:
        """Saves a state, in the background, in place of the one before."""
        manager = self._managers[slot]
        step = int(state.step)
        if manager.latest_step() == step:
            return
        state = own_copy(state)
        manager.save(
            step,
            args=ocp.args.Composite(
                parameters=ocp.args.StandardSave(_parameters(state)),
                optimizer=ocp.args.StandardSave(_optimizer(state)),
                spec=ocp.args.JsonSave(spec.to_json()),
                progress=ocp.args.JsonSave(progress),
            ),
        )

    def has(self, slot: str) -> bool:
        """Whether there is a checkpoint in that slot."""
        return self._managers[slot].latest_step() is not None

    def restore(
        self, slot: str, like: TrainState, devices: Devices
    ) -> tuple[TrainState, dict[str, Any]]:
        """The state and the progress saved in a slot.

        Args:
            slot: "best" or "last".
            like: a state of the same structure (shapes and dtypes are checked against it).
            devices: where the state shall lie; of this process.

        Raises:
            UserError: there is none.
        """
        items = self._managers[slot].restore(
            self.step(slot),
            args=ocp.args.Composite(
                parameters=_restore(_parameters(like), devices),
                optimizer=_restore(_optimizer(like), devices),
                progress=ocp.args.JsonRestore(),
            ),
        )
        return TrainState(**items["parameters"], **items["optimizer"]), items["progress"]

    def parameters(self, slot: str, like: Divided, devices: Devices) -> Parameters:
        """The model's parameters saved in a slot, without the optimiser's state.

        Args:
            slot: "best" or "last".
            like: parameters of the same shapes and dtypes, divided into trainable and frozen.
            devices: where they shall lie.
        """
        args = ocp.args.Composite(parameters=_restore(like, devices))
        saved = self._managers[slot].restore(self.step(slot), args=args)["parameters"]
        return {**saved["trainable"], **saved["frozen"]}

    def spec(self, slot: str) -> DataSpec:
        """The data spec saved in a slot."""
        args = ocp.args.Composite(spec=ocp.args.JsonRestore())
        return DataSpec.from_json(self._managers[slot].restore(self.step(slot), args=args)["spec"])

    def step(self, slot: str) -> int:
        """The training step at which a slot was saved."""
        step = self._managers[slot].latest_step()
        if step is None:
            raise UserError(
                f"no {slot!r} checkpoint in this run; it stopped before its first validation."
            )
        return step


def _alone() -> ocp.options.MultiprocessingOptions:
    """No waiting for other processes."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=index, active_processes={index})


def _parameters(state: TrainState) -> Divided:
    return {"trainable": state.trainable, "frozen": state.frozen}


def _optimizer(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def _restore(like: Any, devices: Devices) -> ocp.args.StandardRestore:
    """Asks for arrays of these shapes and dtypes, on these devices."""
    return ocp.args.StandardRestore(
        jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=devices.replicated),
            like,
        )
    )
