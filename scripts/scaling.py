"""Points for the cost model of docs/scaling.md: one line of JSON for each variant.

    python scripts/scaling.py step [key=value ...] [--vary 'key=value ...'] ...
    python scripts/scaling.py reduce --megabytes 1 10 100 --distributed

`step` times training steps of synthetic cells, variants in turn, so that what else the machine does
meets them alike, and reads from the compiled program how many bytes the devices sum over each other
in a step and how many it needs beside its arguments. `reduce` times that sum alone. With several
processes each is started with --distributed, as for `wound_jax.train`; the first one prints.
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from wound_jax.config import RunConfig, load_config
from wound_jax.data.prepare import prepare
from wound_jax.devices import processes
from wound_jax.devices.mesh import DATA_AXIS, make_devices, place
from wound_jax.training.batch import Feed
from wound_jax.training.setup import Run

SMALL = (
    "data.source=synthetic",
    "data.synthetic.n_cells=4000",
    "data.synthetic.n_genes=1000",
    "data.synthetic.embedding_dim=16",
    "data.cell_set_len=64",
    "split.kind=replicate",
    "split.controls=shared",
    "model.backbone=gpt2",
    "model.hidden_dim=256",
    "model.layers=4",
    "training.batch_size=8",
)
STEPS_A_ROUND = 10


def main() -> None:
    arguments = _parser().parse_intermixed_args()
    if arguments.distributed:
        processes.join()
    with processes.leave_at_once():
        records = _reduce(arguments) if arguments.what == "reduce" else _step(arguments)
    if processes.is_first():
        for record in records:
            print(json.dumps(record))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("what", choices=["step", "reduce"])
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--vary", action="append", default=[], metavar="'key=value ...'")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1.0, 10.0, 100.0])
    parser.add_argument("--distributed", action="store_true")
    return parser


def _step(arguments: argparse.Namespace) -> list[dict]:
    """Steps of each variant, the rounds in turn; a variant keeps the cells of the first."""
    names = arguments.vary or [""]
    configs = [load_config(None, [*SMALL, *arguments.overrides, *n.split()]) for n in names]
    data, feed, rounds, records = prepare(configs[0]), None, [], []
    for name, config in zip(names, configs, strict=True):
        run = Run(config, data, feed)
        feed = feed or run.feed
        records.append({"variant": name, **_of_program(run, config, feed)})
        rounds.append(_round(run, config))
    times = [[one() for one in rounds] for _ in range(arguments.rounds + 1)][1:]
    return [
        record
        | _seconds([row[i][0] / STEPS_A_ROUND for row in times])
        | {"cpu_seconds": round(min(row[i][1] for row in times) / STEPS_A_ROUND, 5)}
        for i, record in enumerate(records)
    ]


def _round(run: Run, config: RunConfig) -> Callable[[], tuple[float, float]]:
    """A function that trains for some steps and returns the seconds, and those of the CPU."""
    at_once = config.training.steps_per_dispatch
    plans = run.epoch(0)
    many = [plans[i % len(plans)] for i in range(STEPS_A_ROUND)]
    state = run.state

    def once() -> tuple[float, float]:
        nonlocal state
        start, cpu = time.perf_counter(), time.process_time()
        for i in range(0, STEPS_A_ROUND, at_once):
            if at_once > 1:
                batches = run.feed.batches(many[i : i + at_once])
                state, metrics = run.steps(state, run.feed.cells, batches)
            else:
                state, metrics = run.step(state, run.feed.cells, run.feed.batch(many[i]))
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - start, time.process_time() - cpu

    return once


def _of_program(run: Run, config: RunConfig, feed: Feed) -> dict[str, Any]:
    """What the compiled step says of itself."""
    (plan, *_) = run.epoch(0)
    step: Any = run.step
    compiled = step.lower(run.state, feed.cells, feed.batch(plan)).compile()
    trainable = sum(leaf.nbytes for leaf in jax.tree.leaves(run.state.trainable))
    return {
        "devices": run.devices.count,
        "processes": jax.process_count(),
        "trainable_megabytes": round(trainable / 1e6, 3),
        "summed_megabytes": round(_summed_bytes(str(compiled.as_text())) / 1e6, 3),
        "temporary_megabytes": round(compiled.memory_analysis().temp_size_in_bytes / 1e6, 1),
    }


def _summed_bytes(text: str) -> int:
    """Bytes of all sums over devices in a program, each counted once, also inside a loop."""
    shapes = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    return sum(
        4 * int(np.prod([int(n) for n in dims.split(",") if n]))
        for shape in shapes
        for dims in re.findall(r"\w\d+\[([\d,]*)\]", shape)
    )


def _reduce(arguments: argparse.Namespace) -> list[dict]:
    """The time of a sum over all devices, by its size."""
    devices = make_devices("all", jax.device_count())
    spec = jax.sharding.PartitionSpec(DATA_AXIS)

    def of_device(x: jax.Array) -> jax.Array:
        return jax.lax.psum(x, DATA_AXIS)

    total = jax.jit(
        jax.shard_map(of_device, mesh=devices.mesh, in_specs=spec, out_specs=spec, check_vma=False)
    )
    records = []
    for megabytes in arguments.megabytes:
        shape = (devices.count, round(megabytes * 1e6 / 4))
        x, times = place(np.zeros(shape, np.float32), devices.by_set), []
        for _ in range(arguments.rounds + 1):
            start = time.perf_counter()
            jax.block_until_ready(total(x))
            times.append(time.perf_counter() - start)
        records.append({"megabytes": megabytes, "devices": devices.count, **_seconds(times[1:])})
    return records


def _seconds(times: list[float]) -> dict[str, float]:
    return {"seconds": round(min(times), 5), "median": round(statistics.median(times), 5)}


if __name__ == "__main__":
    main()
