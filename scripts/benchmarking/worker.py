"""The process of one case: `python -m benchmarking.worker JSON`, from `scripts/`.

It reads the file, assembles the run and takes its first step, all as `wound_jax.train` does; then
it waits for turns on its standard input and answers each with one line of JSON:

    round N     seconds a step of the whole loop, of the step alone, and of the matmul ceiling
    final DIR   peak memory, FLOPs of a step, the loss alone; leaves a run folder to predict from
"""

import json
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

from benchmarking.case import Case, Size, overrides

ANSWER = "@benchmark "


def main(argv: list[str]) -> int:
    """Serves a case; the argument is JSON of `case`, `size`, `path`, `settings` and `started`."""
    task = json.loads(argv[0])
    bench = Bench(Case(**task["case"]), Size(**task["size"]), Path(task["path"]), task["settings"])
    answer({"first_step_seconds": time.time() - task["started"], **bench.environment()})
    for line in sys.stdin:
        word, _, argument = line.strip().partition(" ")
        if word == "round":
            answer(bench.round(int(argument)))
        elif word == "final":
            answer(bench.final(Path(argument)))
    return 0


def answer(figures: dict[str, Any]) -> None:
    """Writes one answer; other output of the process does not look like one."""
    print(ANSWER + json.dumps(figures), flush=True)


class Quiet:
    """A log for `wound_jax.training.loop.drive`: metrics are fetched, nothing is written."""

    def __init__(self) -> None:
        self._pending: list[dict] = []

    def begin(self, initial: Any, devices: Any, *, resume: bool) -> tuple[Any, int]:
        """Starts from the state it is given."""
        return initial, 0

    def step(self, step: int, metrics: dict[str, Any], cells: int, count: int = 1) -> None:
        """Keeps the metrics of a step."""
        self._pending.append(metrics)

    def flush(self) -> None:
        """Fetches what is pending, as a log does."""
        import jax

        jax.device_get(self._pending)
        self._pending.clear()

    def validated(self, step: int, state: Any, results: Any) -> None:
        """Nothing is kept of a validation."""

    def interrupted(self, state: Any) -> None:
        """Nothing is saved."""

    def ends_early(self, patience: int | None) -> bool:
        """Never."""
        return False


class Bench:
    """A run at its first step, ready to be timed."""

    def __init__(self, case: Case, size: Size, path: Path, settings: Sequence[str] = ()):
        from wound_jax.config import load_config
        from wound_jax.data.prepare import prepare
        from wound_jax.devices.compilation import use_compilation_cache
        from wound_jax.training.setup import Run

        use_compilation_cache()
        self.config = load_config(None, [*overrides(case, size, path), *settings])
        self.data = prepare(self.config)
        self.run = Run(self.config, self.data)
        # Validation and what is saved then belong to no step.
        self.run.validation = []
        plan = self.run.epoch(0)[0]
        self.batch: Any = self.run.feed.batch(plan)
        self._alone(1)

    def environment(self) -> dict[str, Any]:
        """Where the case runs."""
        import jax

        device = self.run.devices.mesh.devices.flat[0]
        return {"backend": jax.default_backend(), "device": device.device_kind}

    def round(self, steps: int) -> dict[str, float]:
        """One turn: the same number of steps of the whole loop and of the step alone."""
        whole, alone = self._whole(steps), self._alone(steps)
        return {
            "whole_seconds": whole,
            "compute_seconds": alone,
            "waiting_share": max(0.0, 1 - alone / whole),
            "matmul_flops": self._ceiling(),
        }

    def final(self, folder: Path) -> dict[str, Any]:
        """What is measured once, and a run folder for `python -m wound_jax.predict`."""
        figures: dict[str, Any] = {"peak_memory_bytes": peak_memory(self.run.devices)}
        figures["model_flops"] = self._model_flops()
        figures["loss_seconds"] = self._loss_alone()
        self._save(folder)
        return figures

    def _whole(self, steps: int) -> float:
        from wound_jax.training.loop import drive

        run, start = self._fresh(), time.perf_counter()
        run.total_steps = steps
        drive(run, self.config.training, Quiet())
        return (time.perf_counter() - start) / steps

    def _alone(self, steps: int) -> float:
        import jax

        run = self._fresh()
        state, start = run.state, time.perf_counter()
        for _ in range(steps):
            state, metrics = run.step(state, run.feed.cells, self.batch)
            jax.block_until_ready(metrics)
        jax.block_until_ready(state)
        return (time.perf_counter() - start) / steps

    def _fresh(self) -> Any:
        """The run with a state of its own: a step takes its state's buffers."""
        import jax
        import jax.numpy as jnp

        run = copy(self.run)
        run.state = jax.block_until_ready(jax.tree.map(jnp.copy, self.run.state))
        return run

    def _ceiling(self) -> float:
        """FLOP/s of one large product of matrices in the dtype of the case."""
        import jax
        import jax.numpy as jnp

        n = 2048 if jax.default_backend() == "cpu" else 8192
        x = jnp.ones((n, n), self.config.model.dtype)
        multiply = jax.jit(partial(jnp.matmul, preferred_element_type=jnp.float32))
        return 2 * n**3 / best(lambda: multiply(x, x), 5)

    def _model_flops(self) -> float:
        """FLOPs of a step by the compiler's count, before it fuses; a loop's body counts once."""
        import jax

        from wound_jax.training.setup import build_objective, make_step

        run, config = self.run, self.config
        objective = build_objective(config, run.model.graphdef, run.devices)
        _, step = make_step(config, run.model, objective, run.total_steps, run.devices)
        lowered = jax.jit(partial(step, seed=0)).lower(run.state, run.feed.cells, self.batch)
        cost: Any = lowered.cost_analysis()
        return float((cost[0] if isinstance(cost, list) else cost)["flops"])

    def _loss_alone(self) -> float:
        """Seconds of the loss and its gradient on a batch of measured cells."""
        import jax

        from wound_jax.training.batch import gather
        from wound_jax.training.setup import build_objective

        loss = build_objective(self.config, self.run.model.graphdef, self.run.devices).loss
        cells: Any = self.run.feed.cells
        sets = gather(cells, self.batch)
        masks = (sets.inputs.mask, sets.target_mask)
        gradient = jax.jit(jax.grad(lambda x: loss(x, sets.target, *masks).value.sum()))
        return best(lambda: gradient(sets.inputs.control), 5)

    def _save(self, folder: Path) -> None:
        from wound_jax.training.loop import Loop
        from wound_jax.training.record import record_finished, record_start

        run = self._fresh()
        run.total_steps = 1
        folder.mkdir(parents=True)
        record_start(folder, self.config, self.data, run)
        Loop(run, self.config.training, self.data.spec, folder, progress_bar=False).train()
        record_finished(folder)


def best(call: Callable[[], Any], times: int) -> float:
    """The least seconds of some calls, after one that does not count."""
    import jax

    jax.block_until_ready(call())
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def peak_memory(devices: Any) -> dict[str, float]:
    """Peak bytes of this process on the host, and on its first accelerator if there is one."""
    peaks = {"host": host_peak()}
    on_device = devices.mesh.devices.flat[0].memory_stats()
    if on_device:
        peaks["device"] = float(on_device["peak_bytes_in_use"])
    return peaks


def host_peak() -> float:
    """Peak resident bytes of this process.

    On Linux from /proc: `ru_maxrss` begins with the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (found,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        return 1024.0 * int(found)
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
