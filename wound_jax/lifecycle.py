"""What every run writes at its start and at its end, trained alone or with others.

At the start: config.yaml, split.txt, provenance.json, parameters.json. At the end: eval/ with the
scores on the test cells, the scorecard, pictures and the page, and the mark that it is finished.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

from wound_jax import provenance
from wound_jax.config.load import dump_config
from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.source import describe_source
from wound_jax.data.split_table import split_table
from wound_jax.evaluation.held_out import Yardstick, fit_yardstick
from wound_jax.evaluation.mean_share_file import FILE, save_share
from wound_jax.evaluation.outcome import evaluate
from wound_jax.evaluation.report import write_report
from wound_jax.evaluation.stability import training_stability
from wound_jax.optim.parameter_table import parameter_table
from wound_jax.report import write_run_html
from wound_jax.run_folder import load_run, members_of
from wound_jax.runlog import read_metrics


def warn_of_warmups(config: RunConfig, total_steps: int) -> None:
    """Says so where a warm-up outlasts the run, and what is reached at its end."""
    warmups = {"training.warmup_steps": config.training.warmup_steps}
    if config.velocity.enable:
        warmups["velocity.warmup_steps"] = config.velocity.warmup_steps
    for key, steps in warmups.items():
        if steps > total_steps:
            print(
                f"warning: {key}={steps}, but the run has {total_steps} steps; only "
                f"{100 * total_steps / steps:.0f} % of the full value is reached at its end.",
                file=sys.stderr,
            )


def record_start(folder: Path, config: RunConfig, data: PreparedData, run: Any) -> dict:
    """Writes what is known of a run before its first step.

    Args:
        folder: the run folder; it exists.
        config: the resolved config.
        data: the prepared cells.
        run: `wound_jax.assemble.Run`, or whatever else has its `model` and `devices`.

    Returns:
        How many parameters there are and how many train (`wound_jax.optim.parameter_table`).
    """
    (folder / "config.yaml").write_text(dump_config(config))
    table = split_table(data.split, data.cells.annotations)
    (folder / "split.txt").write_text(table + "\n")
    devices = run.devices.mesh.devices.flat
    source = describe_source(config.data)
    provenance.write(folder, provenance.provenance(data.fingerprint, source, devices))
    parameters = parameter_table(run.model.parameters, run.model.labels)
    (folder / "parameters.json").write_text(json.dumps(parameters, indent=2) + "\n")
    return parameters


def add_seconds(folder: Path, seconds: float) -> None:
    """Adds to the time that the run in `folder` has been trained for, in its provenance."""
    record = provenance.read(folder)
    record["training_seconds"] = round(record.get("training_seconds", 0.0) + seconds, 2)
    provenance.write(folder, record)


def score_run(
    folder: Path, config: RunConfig, data: PreparedData, yardstick: Yardstick | None = None
) -> str:
    """Evaluates a trained run, or an ensemble, on its test cells and marks it as finished.

    Args:
        folder: the run folder; `eval/` is written into it.
        config: its config.
        data: its prepared cells.
        yardstick: fitted on the same cells (`wound_jax.evaluation.held_out`); None fits one.

    Returns:
        The tables of the results.
    """
    yardstick = yardstick or fit_yardstick(data, config.evaluation, config.split.seed)
    loaded = load_run(folder)
    training = training_figures(folder, config, data)
    outcome = evaluate(
        loaded.predictor,
        data,
        yardstick,
        config.evaluation,
        training=training,
        prediction=config.prediction,
    )
    if outcome.share is not None:
        save_share(folder / FILE, outcome.share)
    outcome.result["run"] = {"steps": list(loaded.steps)}
    tables = write_report(folder / "eval", outcome, yardstick, folder, config)
    provenance.finish(folder)
    write_run_html(folder)
    return tables


def training_figures(
    folder: Path, config: RunConfig, data: PreparedData
) -> dict[str, float] | None:
    """How smoothly a run trained and how far its validation loss fell, from its log.

    Args:
        folder: the run folder, with `metrics.jsonl`.
        config: its config.
        data: the cells it was trained on.

    Returns:
        None for an ensemble, which was not trained itself.
    """
    if members_of(folder):
        return None
    training, records = config.training, read_metrics(folder)
    sets = data.plan_builder("train", config.data, config.seed).sets_per_epoch()
    identity = [r["val/identity_loss"] for r in records if r.get("val/identity_loss") is not None]
    return training_stability(
        records,
        clip_norm=training.clip_norm,
        warmup_steps=training.warmup_steps,
        steps_per_epoch=math.ceil(sets / training.batch_size),
        identity_loss=identity[0] if identity else None,
    )
