"""A whole benchmark: the file of cells, cold and warm starts, turns, predictions, the record."""

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarking.case import Case, Size, peers_of
from benchmarking.figures import line, ratios
from benchmarking.pool import Worker, rotate
from wound_jax.data.settings import SyntheticSettings
from wound_jax.errors import UserError
from wound_jax.training.record import PACKAGES, commit, version


@dataclass(frozen=True)
class Plan:
    """What a session measures.

    Attributes:
        cases: the cases of ours.
        size: the workload.
        rounds: turns of each case.
        steps: steps of each turn, of the loop and of the step alone.
        together: how many of our cases wait beside each other; memory bounds it.
        cold: whether to measure a start with an empty cache too.
        predict: whether to time `wound_jax.predict` and `state tx infer` on the whole file.
        peer: the Python of the environment of the original, or None.
        settings: further `key=value` of the configs of our cases.
    """

    cases: Sequence[Case]
    size: Size
    rounds: int
    steps: int
    together: int
    cold: bool
    predict: bool
    peer: str | None
    settings: Sequence[str] = ()


class Session:
    """Runs a plan in a work folder.

    Args:
        plan: what to measure.
        folder: for the cells, caches and logs.
    """

    def __init__(self, plan: Plan, folder: Path):
        self._plan = plan
        self._folder = folder
        self._path = folder / "cells" / "cells.h5ad"
        self._environments: dict[str, Any] = {}

    def run(self) -> tuple[dict[Case, dict[str, Any]], dict[str, Any]]:
        """Measures everything; returns the figures of each case, and the record of all."""
        write_cells(self._plan.size, self._path)
        lines: dict[Case, dict[str, Any]] = {}
        step = self._plan.together
        for start in range(0, len(self._plan.cases), step):
            lines |= self._group(self._plan.cases[start : start + step])
        return lines, record(self._plan, lines, self._environments)

    def _group(self, ours: Sequence[Case]) -> dict[Case, dict[str, Any]]:
        """Cases that take turns with each other and with their peers."""
        every = [*ours, *(peers_of(ours) if self._plan.peer else [])]
        workers: list[Worker] = []
        once: list[dict[str, Any]] = []
        try:
            for case in every:
                worker, starts = self._start(case)
                workers.append(worker)
                once.append(starts)
            answers = rotate(workers, self._plan.rounds, self._plan.steps)
            for worker, figures in zip(workers, once, strict=True):
                figures |= worker.ask(f"final {self._runs(worker.case)}")
        finally:
            for worker in workers:
                worker.stop()
        if self._plan.predict:
            for case in every:
                # Not counted: what it compiles, later predictions find.
                self._predict(case)
            for turn in range(self._plan.rounds):
                for case, of_case in zip(every, answers, strict=True):
                    of_case[turn]["predict_seconds"] = self._predict(case)
        rounds = dict(zip(every, answers, strict=True))
        lines = {c: line(rounds[c], f) for c, f in zip(every, once, strict=True)}
        ratios(rounds, lines)
        return lines

    def _start(self, case: Case) -> tuple[Worker, dict[str, float]]:
        """A worker after its first step, and how long that took with an empty and a full cache."""
        place = self._folder / case.name.replace("/", "-").replace(" ", "-")
        found, plan = {}, self._plan
        args = (plan.size, self._path, place, place / "cache", plan.peer, plan.settings)
        if plan.cold and case.impl == "wound_jax":
            cold = Worker(case, *args)
            cold.stop()
            found["first_step_cold"] = cold.first["first_step_seconds"]
        worker = Worker(case, *args)
        warm = plan.cold and case.impl == "wound_jax"
        found["first_step_warm" if warm else "first_step_cold"] = worker.first.pop(
            "first_step_seconds"
        )
        self._environments[case.impl] = worker.first
        return worker, found

    def _runs(self, case: Case) -> Path:
        return self._folder / "runs" / case.name.replace("/", "-").replace(" ", "-")

    def _predict(self, case: Case) -> float:
        """Seconds a predicted cell of the whole command, its start and its files included."""
        import anndata as ad

        run, output = self._runs(case), self._folder / "predicted.h5ad"
        cells = ad.read_h5ad(self._path, backed="r")
        controls = int((cells.obs["condition"] == "Sham").sum())
        cells.file.close()
        output.unlink(missing_ok=True)
        command = [sys.executable, "-m", "wound_jax.predict", str(run), "--input", str(self._path)]
        command += ["--output", str(output), "--perturbation", "Burn"]
        if case.impl == "peer":
            command = self._infer(case, output)
        # The checkpoint that was written a moment ago holds more than torch loads unasked.
        environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise UserError(f"{case.name}: {shlex.join(command)} failed.\n{done.stderr[-2000:]}")
        # The original simulates the controls in its file too.
        predicted = 2 * controls if case.impl == "peer" else controls
        return (time.perf_counter() - start) / predicted

    def _infer(self, case: Case, output: Path) -> list[str]:
        """`state tx infer` on the control cells."""
        place = self._folder / case.name.replace("/", "-").replace(" ", "-")
        controls = self._folder / "controls" / "controls.h5ad"
        if not controls.exists():
            write_controls(self._path, controls)
        command = [str(self._plan.peer), "-m", "state", "tx", "infer", "--adata", str(controls)]
        command += ["--model-dir", str(place / "peer"), "--output", str(output)]
        command += ["--checkpoint", f"{self._runs(case)}.ckpt", "--embed-key", "X_hvg"]
        return [*command, "--pert-col", "condition", "--control-pert", "Sham", "--quiet"]


def write_cells(size: Size, path: Path) -> None:
    """Writes the cells all cases read: the synthetic wound set, its genes also as `X_hvg`."""
    import numpy as np
    import scipy.sparse as sp

    from wound_jax.data.synthetic import simulate

    config = SyntheticSettings(n_cells=size.cells, n_genes=size.genes, embedding_dim=8)
    cells = simulate(config).adata
    path.parent.mkdir(parents=True, exist_ok=True)
    cells.obsm["X_hvg"] = np.asarray(sp.csr_matrix(cells.X).todense(), np.float32)
    for name in ("counts", "spliced", "unspliced"):
        del cells.layers[name]
    cells.write_h5ad(path)


def write_controls(path: Path, output: Path) -> None:
    """Writes the control cells once more as cells to perturb, in the form the original asks for."""
    import anndata as ad

    cells = ad.read_h5ad(path)
    controls = cells[cells.obs["condition"] == "Sham"].to_memory()
    asked = controls.copy()
    asked.obs["condition"] = "Burn"
    asked.obs_names = [f"{name}-asked" for name in asked.obs_names]
    output.parent.mkdir(parents=True, exist_ok=True)
    ad.concat([controls, asked]).write_h5ad(output)


def record(
    plan: Plan, lines: dict[Case, dict[str, Any]], environments: dict[str, Any]
) -> dict[str, Any]:
    """Everything that is written as JSON."""
    return {
        "command": shlex.join([sys.executable, *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "versions": {name: version(name) for name in PACKAGES},
        "environments": environments,
        "size": asdict(plan.size),
        "rounds": plan.rounds,
        "steps": plan.steps,
        "settings": list(plan.settings),
        "lines": [{"name": c.name, **asdict(c), **figures} for c, figures in lines.items()],
    }


def write_record(found: dict[str, Any], path: Path) -> None:
    """Writes the record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
