"""What hyper-connections do to training: sinkhorn, birkhoff, identity mixing, and none.

    python scripts/mhc_ablation.py --config configs/kang.yaml data.path=kang_ifnb.h5ad
    python scripts/mhc_ablation.py --config configs/quickstart.yaml

Trains each form with each seed on the same cells, sets and split, and prints one table: variation
of the loss, gradient spikes, validation loss, time a step. Overrides apply to every run.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from wound_jax import cli
from wound_jax.config import load_config
from wound_jax.config.schema import RunConfig
from wound_jax.data.prepare import PreparedData, prepare
from wound_jax.evaluation.stability import gradient_spikes, loss_variation
from wound_jax.training.log import read_metrics
from wound_jax.training.loop import Loop
from wound_jax.training.setup import Run

FORMS = {
    "off": ["model.mhc.enable=false"],
    "identity": ["model.mhc.enable=true", "model.mhc.h_res=identity"],
    "birkhoff": ["model.mhc.enable=true", "model.mhc.h_res=birkhoff"],
    "sinkhorn": ["model.mhc.enable=true", "model.mhc.h_res=sinkhorn"],
}
FIGURES = ("variation", "spikes_per_1000", "best_val_loss", "last_val_loss", "ms_per_step")


def train(config: RunConfig, data: PreparedData) -> dict[str, float]:
    """Trains one run in a folder of its own and returns its figures."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(config, data)
        start = time.perf_counter()
        Loop(run, config.training, data.spec, Path(folder), progress_bar=False).train()
        seconds = time.perf_counter() - start
        records = read_metrics(Path(folder))
    steps = [r for r in records if "train/loss" in r]
    validation = [r["val/loss"] for r in records if "val/loss" in r]
    spikes = gradient_spikes([r["train/grad_norm"] for r in steps], config.training.warmup_steps)
    return {
        "variation": loss_variation([r["train/loss"] for r in steps]),
        "spikes_per_1000": 1000 * len(spikes) / len(steps),
        "best_val_loss": min(validation),
        "last_val_loss": validation[-1],
        "ms_per_step": 1000 * seconds / len(steps),
        **_mhc_figures(steps[-1]),
    }


def _mhc_figures(record: dict) -> dict[str, float]:
    names = ("train/mhc/stream_spread", "train/mhc/backward_gain_max", "train/grad_norm/mhc")
    return {name.removeprefix("train/"): record[name] for name in names if name in record}


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Mean and sd over seeds of each figure, and the paired difference of the loss to `off`."""
    lines = ["| mHC | " + " | ".join(FIGURES) + " | best_val_loss - off |"]
    lines.append("|---" * (len(FIGURES) + 2) + "|")
    for form, runs in results.items():
        cells = [_mean_sd([run[figure] for run in runs]) for figure in FIGURES]
        pairs = zip(runs, results["off"], strict=True)
        cells.append(_mean_sd([run["best_val_loss"] - off["best_val_loss"] for run, off in pairs]))
        lines.append(f"| {form} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean_sd(values: list[float]) -> str:
    return f"{np.mean(values):.4g} ± {np.std(values, ddof=1):.2g}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--config", action="append", required=True)
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds, from 0")
    parser.add_argument("--json", type=Path, help="also write every run's figures here")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args(argv)
    return cli.run(lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> int:
    data = prepare(load_config(arguments.config, arguments.overrides))
    results: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    # Forms interleaved within a seed, so that a slow minute of the machine meets all alike.
    for seed in range(arguments.seeds):
        for form, switches in FORMS.items():
            overrides = [*arguments.overrides, *switches, f"seed={seed}"]
            results[form].append(train(load_config(arguments.config, overrides), data))
            print(f"seed {seed} {form}: {results[form][-1]}", file=sys.stderr, flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
