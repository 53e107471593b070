"""Commands run by two processes at once, each with one CPU device, that meet at a free port.

    python two_processes.py PARENT ARGUMENT...

becomes the interpreter with these arguments, and ends when its parent does, however that ends.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TIMEOUT = 120
# Of Linux: the signal that a process gets when its parent is gone.
PR_SET_PDEATHSIG = 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(index: int, port: int, count: int = 2) -> dict[str, str]:
    """The environment of one of several processes."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    return own | {
        "XLA_FLAGS": "",
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(index),
        "WOUND_JAX_JOIN_SECONDS": "60",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }


class Pair:
    """Two processes and what they have written so far; use as a context manager, which ends them.

    Args:
        commands: the arguments of each, after the interpreter.
        folder: where they stand.
    """

    def __init__(self, commands: Sequence[Sequence[str]], folder: Path):
        port, outputs = free_port(), Path(tempfile.mkdtemp(dir=folder))
        self._files = [outputs / f"process{i}.txt" for i in range(len(commands))]
        self._processes = []
        for i, command in enumerate(commands):
            with self._files[i].open("w") as output:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, __file__, str(os.getpid()), *command],
                        cwd=folder,
                        env=environment(i, port),
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def interrupt(self, index: int, ready: Callable[[], bool]) -> None:
        """Sends Ctrl-C to one of them once something has come true."""
        self._wait(ready)
        self._processes[index].send_signal(signal.SIGINT)

    def statuses(self) -> list[int]:
        """Their exit statuses; fails with what they wrote where one does not end."""
        self._wait(lambda: all(process.poll() is not None for process in self._processes))
        return [process.returncode for process in self._processes]

    def pids(self) -> list[int]:
        """Their numbers."""
        return [process.pid for process in self._processes]

    def outputs(self) -> list[str]:
        """What each has written."""
        return [file.read_text() for file in self._files]

    def _wait(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + TIMEOUT
        while not ready():
            if time.monotonic() > end:
                raise AssertionError("no end within the time:\n" + "\n---\n".join(self.outputs()))
            time.sleep(0.1)


def run_pair(commands: Sequence[Sequence[str]], folder: Path) -> tuple[list[int], list[str]]:
    """Runs two commands to their end: exit statuses and outputs."""
    with Pair(commands, folder) as pair:
        return pair.statuses(), pair.outputs()


def become(parent: int, arguments: Sequence[str]) -> None:
    """Replaces this process by an interpreter that does not outlive its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have been gone before that was asked for.
        if os.getppid() != parent:
            sys.exit(1)
    os.execv(sys.executable, [sys.executable, *arguments])


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
