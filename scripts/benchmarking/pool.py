"""The worker processes: started one after another, given turns in rotation, stopped.

A worker that waits for its turn uses no processor time, so each turn has the machine to itself,
and a slow minute of the machine meets all cases alike.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarking.case import Case, Size, describe
from benchmarking.worker import ANSWER
from wound_jax.devices.compilation import VARIABLE
from wound_jax.errors import UserError

# Seconds a process may take to end.
_PATIENCE = 20.0
_PEER = Path(__file__).with_name("peer.py")


class Worker:
    """One case in a process of its own.

    Args:
        case: what it measures.
        size: at which size.
        path: the h5ad file of the cells.
        folder: for its files; its log lies there.
        cache: folder of compiled programs, empty for a cold start.
        peer: the Python of the environment of the original; used for its cases alone.
        settings: further `key=value` of our config.

    Attributes:
        first: what it answered after its first step.
    """

    def __init__(
        self,
        case: Case,
        size: Size,
        path: Path,
        folder: Path,
        cache: Path,
        peer: str | None = None,
        settings: Sequence[str] = (),
    ):
        self.case = case
        task = {"path": str(path), "started": time.time(), "folder": str(folder)}
        task |= describe(case, size) | {"settings": list(settings)}
        program = ["-m", "benchmarking.worker"]
        python = sys.executable
        if case.impl == "peer":
            python, program = str(peer), [str(_PEER)]
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "worker.log"
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [python, *program, json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=_environment(cache),
            )
        self.first = self._answer()

    def ask(self, question: str) -> dict[str, Any]:
        """Gives the worker its turn and returns what it found.

        Raises:
            UserError: the process ended.
        """
        assert self._process.stdin is not None
        try:
            print(question, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()

    def stop(self) -> None:
        """Ends the process, by force if it does not end by itself."""
        assert self._process.stdin is not None
        # No more turns come. The original holds back SIGTERM until a step is over.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        raise self._ended()

    def _ended(self) -> UserError:
        self._process.wait()
        last = "\n".join(self._log.read_text(encoding="utf-8").splitlines()[-15:])
        status = self._process.returncode
        return UserError(f"{self.case.name}: its process ended with status {status}.\n{last}")


def _environment(cache: Path) -> dict[str, str]:
    """The environment of a worker: its own cache, and a share of a GPU instead of the whole."""
    given = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    scripts = Path(__file__).resolve().parents[1]
    paths = [str(scripts), str(scripts.parent), *filter(None, [given.get("PYTHONPATH")])]
    return {
        **given,
        VARIABLE: str(cache),
        "PYTHONPATH": os.pathsep.join(paths),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "WANDB_MODE": "disabled",
    }


def rotate(workers: Sequence[Worker], rounds: int, steps: int) -> list[list[dict[str, Any]]]:
    """Rounds in which each worker has one turn, each round beginning with the next worker.

    Returns:
        For each worker its answers, one a round. The first turn of all is a warm-up and left out.
    """
    answers: list[list[dict[str, Any]]] = [[] for _ in workers]
    for turn in range(rounds + 1):
        for i in range(len(workers)):
            which = (turn + i) % len(workers)
            found = workers[which].ask(f"round {steps}")
            if turn:
                answers[which].append(found)
    return answers
