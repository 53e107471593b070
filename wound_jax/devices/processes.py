"""Several processes that train one run: how they meet, what they agree on, who writes.

Each process has devices of its own, and all of them are the devices of the run. Every process reads
the same cells and makes the same plan from the same seed, so that no batch is ever sent. Process 0
alone reads and writes the run folder. An error of the input on one process ends all of them with
its message; any other exception leaves at once (`leave_at_once`), since the rest would wait for it.
With one process all of this costs nothing.
"""

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np

from wound_jax.errors import UserError

Result = TypeVar("Result")

COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
TIMEOUT = "WOUND_JAX_JOIN_SECONDS"

# The other processes end when process 0 has scored the run: at most a day later.
_END = 24 * 3600
_HOW = (
    "start the processes by srun or mpirun, or give each of them "
    f"{COORDINATOR}=HOST:PORT, {COUNT}=N and {INDEX}=0 to N-1"
)


def join() -> None:
    """Meets the other processes; before jax computes anything.

    Where they are, how many and which one this is: from the three environment variables above, or
    else from the launcher, as far as jax knows it (Slurm, Open MPI, Kubernetes, Cloud TPU). Waits
    for the others up to 300 seconds, or the number in `WOUND_JAX_JOIN_SECONDS`.

    Raises:
        UserError: nothing says where the others are, or process 0 is not there in time.
    """
    given, timeout = _from_environment(), int(os.environ.get(TIMEOUT, "300"))
    if given:
        # jax ends the process where it cannot connect, without a word on what to do.
        _require_coordinator(given, timeout)
    try:
        jax.distributed.initialize(
            **given, initialization_timeout=timeout, shutdown_timeout_seconds=_END
        )
    except ValueError as e:
        raise UserError(f"--distributed: no launcher found ({e}) {_HOW}.") from e


def _require_coordinator(given: Mapping[str, Any], timeout: int) -> None:
    """Waits until process 0 listens; process 0 itself says for whom it waits.

    Raises:
        UserError: it does not in time.
    """
    where, index = given["coordinator_address"], given["process_id"]
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--distributed: {COORDINATOR}={where}; expected HOST:PORT.")
    if index == 0:
        count = given["num_processes"]
        print(f"waiting at {where} for {count} processes, {timeout} s at most", file=sys.stderr)
        return
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
            return
        except OSError as e:
            if time.monotonic() > end:
                raise UserError(
                    f"--distributed: process {index} did not reach process 0 at {where} within "
                    f"{timeout} s ({e}). Check that process 0 was started there and that the port "
                    f"is open between the machines; {TIMEOUT} waits longer."
                ) from e
            time.sleep(0.2)


def _from_environment() -> dict[str, Any]:
    """What the environment says; nothing where the launcher is to be asked."""
    here = [name for name in (COORDINATOR, COUNT, INDEX) if os.environ.get(name)]
    if COUNT not in here and INDEX not in here:
        return {}
    missing = [name for name in (COORDINATOR, COUNT, INDEX) if name not in here]
    if missing:
        raise UserError(f"--distributed: {', '.join(missing)} is not set; {_HOW}.")
    try:
        count, index = int(os.environ[COUNT]), int(os.environ[INDEX])
    except ValueError as e:
        raise UserError(f"--distributed: {COUNT} and {INDEX} are numbers, got {e}.") from e
    if not 0 <= index < count:
        raise UserError(
            f"--distributed: {INDEX}={index} of {COUNT}={count}; expected 0 to {count - 1}."
        )
    return {
        "coordinator_address": os.environ[COORDINATOR],
        "num_processes": count,
        "process_id": index,
    }


def several() -> bool:
    """Whether this run has more than one process."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process writes the run folder."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Whether it is true on any process; all have to ask."""
    return any(told == "true" for told in _tell(json.dumps(flag))) if several() else flag


def from_first(function: Callable[[], Result]) -> Result:
    """What a function returns on process 0, on all processes; only there it is called.

    Args:
        function: returns what JSON can hold.

    Raises:
        UserError: it did so on process 0.
    """
    return _answers(function if is_first() else lambda: None)[0]


def on_all(function: Callable[[], Result]) -> Result:
    """Calls a function on each process, so that its errors end all of them.

    Raises:
        UserError: it did so on some process.
    """
    result: list[Result] = []
    _answers(lambda: result.append(function()))
    return result[0]


def require_equal(what: str, own: Callable[[], Mapping[str, str]]) -> None:
    """Refuses to go on where processes differ.

    Args:
        what: what is compared, in words.
        own: calculates what this process has, by name; not called for one process.

    Raises:
        UserError: the first process that differs from process 0, and in what.
    """
    if not several():
        return
    first, *others = (json.loads(told) for told in _tell(json.dumps(dict(own()))))
    for i, other in enumerate(others, 1):
        differing = [
            f"{name}: {first.get(name)} -> {other.get(name)}"
            for name in [*first, *(set(other) - set(first))]
            if first.get(name) != other.get(name)
        ]
        if differing:
            raise UserError(
                f"process {i} has other {what} than process 0: {'; '.join(differing)}. Start all "
                "processes with the same command, code and files."
            )


def share(tree: Any) -> Any:
    """The arrays of process 0, as NumPy arrays on all processes; shapes are the same on all."""
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(tree)


@contextmanager
def leave_at_once() -> Iterator[None]:
    """Ends this process at once after an unexpected exception.

    Python would wait at its exit for the other processes, and these would wait in a step for this
    one. Now they find it gone and are ended by jax. An error that all share passes through.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException:
        if not several():
            raise
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def _answers(function: Callable[[], Any]) -> list[Any]:
    """What a function returns on each process.

    Raises:
        UserError: it did so on some process; the first such process is named.
    """
    if not several():
        return [function()]
    try:
        own = {"value": function()}
    except UserError as e:
        own = {"error": str(e)}
    answers = [json.loads(told) for told in _tell(json.dumps(own))]
    for i, answer in enumerate(answers):
        if "error" in answer:
            raise UserError(answer["error"] + (f" (process {i})" if i else ""))
    return [answer["value"] for answer in answers]


def _tell(text: str) -> list[str]:
    """The texts of all processes, in their order."""
    from jax.experimental.multihost_utils import process_allgather

    own = np.frombuffer(text.encode(), np.uint8)
    sizes = np.ravel(process_allgather(np.int32(len(own))))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(own)] = own
    rows = np.reshape(process_allgather(padded), (len(sizes), -1))
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]
