"""What every run writes at its start and at its end, trained alone or with others.

At the start: config.yaml, split.txt, provenance.json, parameters.json. At the end: eval/ with the
scores on the test cells, the scorecard, pictures and the page, and the mark that it is finished.
"""

import json
import sys
from pathlib import Path
from typing import Any

from wound_jax.config.load import dump_config
from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.source import describe_source
from wound_jax.data.splits import split_table
from wound_jax.models.partition import parameter_table
from wound_jax.training import provenance


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
        run: `wound_jax.training.setup.Run`, or whatever else has its `model` and `devices`.

    Returns:
        How many parameters there are and how many train (`wound_jax.models.partition`).
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
