"""Finished runs as they lie on disk, with what an experiment reads of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wound_jax.config import RunConfig, load_config
from wound_jax.data.spec import DataSpec
from wound_jax.errors import UserError
from wound_jax.evaluation.uncertainty import Draws
from wound_jax.experiments.plan import config_differences, is_finished
from wound_jax.files import DamagedFile, read_json
from wound_jax.training.checkpoint import Checkpoints
from wound_jax.training.record import read_provenance
from wound_jax.training.run_folder import require_run, require_single


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """One trained and evaluated run.

    Attributes:
        folder: the run folder.
        config: its resolved config.
        result: `eval/metrics.json`.
        draws: `eval/bootstrap.npz`; None where missing.
        parameters: `parameters.json`.
        provenance: `provenance.json`.
        split_table: `split.txt`.
    """

    folder: Path
    config: RunConfig
    result: dict[str, Any]
    draws: Draws | None
    parameters: dict[str, Any]
    provenance: dict[str, Any]
    split_table: str

    @cached_property
    def spec(self) -> DataSpec:
        """What the model remembers of its data: genes, scale, labels."""
        with Checkpoints(self.folder, create=False) as checkpoints:
            return checkpoints.spec("best")

    @property
    def summary(self) -> dict[str, Any]:
        """Means over strata: "model", "baselines", and "ceiling" where there is one."""
        return self.result["summary"]

    @property
    def training(self) -> dict[str, Any]:
        """Figures of the training ("loss_cv", "spikes_per_1000", ...)."""
        return self.result.get("training") or {}

    @property
    def seconds(self) -> float | None:
        """How long it was trained for; None where that was not recorded."""
        return self.provenance.get("training_seconds")


def read_run(folder: str | Path) -> FinishedRun:
    """Reads a finished run.

    Raises:
        UserError: there is no run, it is not finished, or it is an ensemble.
    """
    folder = require_run(folder)
    require_single(folder, "runs are compared or averaged one by one")
    if not is_finished(folder):
        raise UserError(
            f"{folder} is not finished, expected a trained and evaluated run; continue it by "
            f"python -m wound_jax.train --resume {folder}."
        )
    bootstrap, table = folder / "eval" / "bootstrap.npz", folder / "split.txt"
    return FinishedRun(
        folder=folder,
        config=load_config(folder / "config.yaml"),
        result=_read(folder / "eval" / "metrics.json"),
        draws=Draws.load(bootstrap) if bootstrap.is_file() else None,
        parameters=_read(folder / "parameters.json"),
        provenance=read_provenance(folder),
        split_table=table.read_text() if table.is_file() else "",
    )


def group_runs(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs that were given by folder, as variants: those that differ in their seed alone.

    Returns:
        Name -> runs. A variant is called as its runs are; where two would have one name, as its
        first folder is.

    Raises:
        UserError: two runs have the same config and seed.
    """
    groups: list[list[FinishedRun]] = []
    for run in runs:
        for group in groups:
            if not config_differences(group[0].config, run.config):
                _require_new_seed(group, run)
                group.append(run)
                break
        else:
            groups.append([run])
    names = [group[0].config.name for group in groups]
    if len(set(names)) < len(names):
        names = [group[0].folder.name for group in groups]
    if len(set(names)) < len(names):
        names = [str(group[0].folder) for group in groups]
    return dict(zip(names, groups, strict=True))


def _require_new_seed(group: Sequence[FinishedRun], run: FinishedRun) -> None:
    for other in group:
        if other.config.seed == run.config.seed:
            raise UserError(
                f"{other.folder} and {run.folder} are one run twice: the same config and "
                f"seed={run.config.seed}. Leave one of them out."
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except DamagedFile as e:
        raise DamagedFile(f"{e} Expected the folder of a trained and evaluated run.") from e
