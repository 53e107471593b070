"""Checkpoints by orbax: `checkpoints/last` to resume from, `checkpoints/best` to evaluate.

Each is a folder `SLOT/STEP` with the whole train state, the data spec (genes, vocabularies,
preprocessing) and the loop's progress, so that one folder is enough to predict. It gets its name
when it is whole, with the digests of its files and of the config and data that it belongs to; only
then the one before goes. What is read is compared with them first: no damaged state and none of
another run is ever taken. `saved.json` says which steps there are, so that one that is gone is
missed.

State saved on any number of devices is restored onto any other. Of several processes the one
that opens the checkpoints acts alone: states are replicated, so it has all of them, and a process
that is gone is not waited for.
"""

import errno
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from wound_jax.arrays import Parameters
from wound_jax.data.spec import DataSpec
from wound_jax.devices.mesh import Devices, own_copy
from wound_jax.errors import UserError
from wound_jax.files import DamagedFile, read_record, require_sealed, sealing, write_record
from wound_jax.training.record import identity, require_same
from wound_jax.training.step import TrainState

SLOTS = ("best", "last")

_SAVED = "saved.json"
_STATE, _SPEC, _PROGRESS = "state", "spec.json", "progress.json"

# Bytes that a checkpoint takes beside the state: its folders, digests and the data spec.
_OVERHEAD = 1 << 18
# Of several checkpoints that orbax saves at once each waits for the folders of the others.
_ORBAX = threading.Lock()

# {"trainable": parameters, "frozen": parameters}
Divided = dict[str, Parameters]


class Checkpoints:
    """The checkpoints of one run; use as a context manager.

    Args:
        folder: the run folder.
        create: whether to make the folders of the slots; to read, they need not be there.

    Raises:
        DamagedFile: there is a log of training, and no record of what was saved.
    """

    def __init__(self, folder: Path, *, create: bool = True):
        self._run = folder
        self._folder = (folder / "checkpoints").absolute()
        # Saves in the background, one checkpoint after the other.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None
        # The newest of each slot, which may still be on its way.
        self._newest = {slot: max(self._steps(slot), default=None) for slot in SLOTS}
        if create:
            self._prepare()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._wait()
        finally:
            self._thread.shutdown()

    def save(self, slot: str, state: TrainState, spec: DataSpec, progress: dict[str, Any]) -> None:
        """Saves a state, in the background, in place of the one before.

        Raises:
            UserError: the disk refused this one or the one before.
        """
        step = int(state.step)
        if self._newest[slot] == step:
            return
        self._wait()
        self._newest[slot] = step
        # The next step gives the buffers of this state away.
        copy = jax.tree.map(np.array, own_copy(state))
        self._saving = self._thread.submit(self._save, slot, copy, spec, progress)

    def _save(self, slot: str, state: TrainState, spec: DataSpec, progress: dict[str, Any]) -> None:
        step = int(state.step)
        with sealing(self._folder / slot / str(step), of=identity(self._run)) as part:
            _require_room(part, state)
            items = ocp.args.Composite(
                parameters=ocp.args.StandardSave(_parameters(state)),
                optimizer=ocp.args.StandardSave(_optimizer(state)),
            )
            with _ORBAX, _refusals():
                self._orbax.save(part / _STATE, items)
            write_record(part / _SPEC, spec.to_json())
            write_record(part / _PROGRESS, progress)
        write_record(self._folder / _SAVED, {**self._recorded(), slot: step})
        # Later ones too: a run may have gone on from an earlier state than they.
        for other in self._steps(slot) - {step}:
            shutil.rmtree(self._folder / slot / str(other))

    def has(self, slot: str) -> bool:
        """Whether a checkpoint was saved in that slot.

        Raises:
            DamagedFile: one was, and is gone.
        """
        if self._newest[slot] is not None:
            return True
        step = self._recorded().get(slot)
        if step is not None:
            gone = self._folder / slot / str(step)
            raise DamagedFile(f"{gone} is missing. {self._way_out(slot)}")
        return False

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
            DamagedFile: it is not as it was written, or belongs to another run.
        """
        folder = self._checked(slot)
        items = ocp.args.Composite(
            parameters=_restore(_parameters(like), devices),
            optimizer=_restore(_optimizer(like), devices),
        )
        found = self._orbax.restore(folder / _STATE, items)
        state = TrainState(**found["parameters"], **found["optimizer"])
        return state, read_record(folder / _PROGRESS)

    def parameters(self, slot: str, like: Divided, devices: Devices) -> Parameters:
        """The model's parameters saved in a slot, without the optimiser's state.

        Args:
            slot: "best" or "last".
            like: parameters of the same shapes and dtypes, divided into trainable and frozen.
            devices: where they shall lie.

        Raises:
            UserError: there is none.
            DamagedFile: it is not as it was written, or belongs to another run.
        """
        items = ocp.args.Composite(parameters=_restore(like, devices))
        saved = self._orbax.restore(self._checked(slot) / _STATE, items)["parameters"]
        return {**saved["trainable"], **saved["frozen"]}

    def spec(self, slot: str) -> DataSpec:
        """The data spec saved in a slot.

        Raises:
            UserError: there is none.
            DamagedFile: it is not as it was written.
        """
        path = self._folder / slot / str(self.step(slot)) / _SPEC
        try:
            return DataSpec.from_json(read_record(path))
        except DamagedFile as e:
            raise DamagedFile(f"{e} {self._way_out(slot)}") from e

    def step(self, slot: str) -> int:
        """The training step at which a slot was saved.

        Raises:
            UserError: it was not.
            DamagedFile: it was, and is gone.
        """
        step = self._newest[slot]
        if step is None and not self.has(slot):
            raise UserError(
                f"no {slot!r} checkpoint in this run; it stopped before its first validation."
            )
        assert step is not None
        return step

    @cached_property
    def _orbax(self) -> ocp.Checkpointer:
        # Each part is told apart that it shall not speak to other processes.
        alone = _alone()
        handler = ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
            parameters=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
            optimizer=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
        )
        return ocp.Checkpointer(handler, multiprocessing_options=alone)

    def _prepare(self) -> None:
        """Makes what is not there, and removes what a process that was killed left half-written."""
        new = not (self._folder / _SAVED).exists()
        log = self._run / "metrics.jsonl"
        if new and self._newest["last"] is None and log.exists() and log.stat().st_size:
            raise DamagedFile(
                f"{self._folder / _SAVED} is missing, and so are the checkpoints of the steps in "
                f"{log}: restore the folder, or train a new run by --config "
                f"{self._run / 'config.yaml'}."
            )
        for slot in SLOTS:
            (self._folder / slot).mkdir(parents=True, exist_ok=True)
            for part in (self._folder / slot).glob("*.part"):
                shutil.rmtree(part)
        if new:
            there = {slot: step for slot, step in self._newest.items() if step is not None}
            write_record(self._folder / _SAVED, there)

    def _wait(self) -> None:
        """Waits for the checkpoint that is being saved."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _steps(self, slot: str) -> set[int]:
        """The steps of a slot that have a whole checkpoint."""
        folder = self._folder / slot
        if not folder.is_dir():
            return set()
        return {int(path.name) for path in folder.iterdir() if path.name.isdecimal()}

    def _recorded(self) -> dict[str, int]:
        """Slot -> step that was saved last; empty where nothing was ever saved."""
        path = self._folder / _SAVED
        return read_record(path) if path.exists() else {}

    def _checked(self, slot: str) -> Path:
        """The folder of a slot's checkpoint, once all its files are known to be the run's own."""
        folder = self._folder / slot / str(self.step(slot))
        try:
            require_same(self._run, require_sealed(folder), folder)
        except DamagedFile as e:
            raise DamagedFile(f"{e} {self._way_out(slot)}") from e
        return folder

    def _way_out(self, damaged: str) -> str:
        """The checkpoint that is left, and the command that goes on from it."""
        (slot,) = {*SLOTS} - {damaged}
        step = self._newest[slot]
        anew = f"Train anew: python -m wound_jax.train --config {self._run / 'config.yaml'}"
        if step is None:
            return f"There is no other checkpoint. {anew}."
        try:
            require_same(self._run, require_sealed(self._folder / slot / str(step)), self._folder)
        except DamagedFile:
            return f"The other checkpoint ({slot!r}) is damaged too. {anew}."
        good = f"The last good checkpoint is {slot!r}, of step {step}"
        if damaged == "last":
            return f"{good}: python -m wound_jax.train --resume {self._run} --checkpoint best."
        return f"{good}: --checkpoint last takes it for evaluate and predict."


def _require_room(folder: Path, state: TrainState) -> None:
    """Refuses what will not fit before orbax begins it: its threads would tell it in their turn."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    if shutil.disk_usage(folder).free < size + _OVERHEAD:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _refusals() -> Iterator[None]:
    """What the disk refuses tensorstore, as the system's own error."""
    # orbax logs what each of its threads met, and raises it too.
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except ValueError as e:
        found = re.search(r"os_error_code='(\d+)'|\[OS error (\d+)", str(e))
        if found is None:
            raise
        code = int(found[1] or found[2])
        raise OSError(code, os.strerror(code)) from e
    finally:
        log.setLevel(before)


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
