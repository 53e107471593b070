"""A run on disk: where it is made, and how a finished one is opened again.

config.yaml, provenance.json, parameters.json, split.txt, metrics.jsonl, tb/, checkpoints/, eval/

An ensemble is the folder of a run without training: in place of checkpoints it holds ensemble.json,
which names the runs whose predictions are averaged.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wound_jax.assemble import model_dims
from wound_jax.checkpoint import Checkpoints
from wound_jax.config import load_config
from wound_jax.config.schema import RunConfig
from wound_jax.data.spec import DataSpec
from wound_jax.errors import UserError
from wound_jax.inference import Ensemble, NetworkPredictor, Predictor
from wound_jax.models.functional import abstract_model
from wound_jax.optim.partition import label_parameters, partition
from wound_jax.sharding import one_device

_ENSEMBLE = "ensemble.json"


def new_folder(config: RunConfig) -> Path:
    """Makes the folder of a new run; never writes into one that exists.

    Without `run_dir` it is `runs/NAME`, or the first free `runs/NAME-2`, `runs/NAME-3`, ...

    Raises:
        UserError: `run_dir` names a folder that is not empty.
    """
    require_free(config)
    if config.run_dir is None:
        return _first_free(config.name)
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def require_free(config: RunConfig) -> None:
    """Refuses a `run_dir` that holds something already.

    Raises:
        UserError: it is not empty.
    """
    if config.run_dir is None:
        return
    folder = Path(config.run_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"run_dir={folder} exists and is not empty; choose another, or continue that run "
            f"by --resume {folder}."
        )


def _first_free(name: str) -> Path:
    """Makes `runs/NAME`, or the first free one of those that end in a number."""
    folder, n = Path("runs") / name, 1
    while True:
        try:
            # Of two runs that start at once only one makes the folder.
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            n += 1
            folder = Path("runs") / f"{name}-{n}"


def require_run(folder: str | Path) -> Path:
    """The folder of an existing run.

    Raises:
        UserError: there is no run in it.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        parent = folder.parent
        runs = (
            sorted(p.parent.name for p in parent.glob("*/config.yaml")) if parent.is_dir() else []
        )
        raise UserError(
            f"{folder} is no run folder (no config.yaml). Runs in {parent}: "
            f"{', '.join(runs) or 'none'}."
        )
    return folder


def name_members(folder: Path, members: Sequence[Path]) -> None:
    """Makes a folder the ensemble of some runs, named by where they lie from there."""
    runs = [os.path.relpath(member, folder) for member in members]
    (folder / _ENSEMBLE).write_text(json.dumps({"runs": runs}, indent=2) + "\n")


def members_of(folder: Path) -> list[Path]:
    """The runs of an ensemble; none where the folder is that of a single run."""
    path = folder / _ENSEMBLE
    if not path.is_file():
        return []
    return [Path(os.path.normpath(folder / run)) for run in json.loads(path.read_text())["runs"]]


def require_single(folder: Path, purpose: str) -> None:
    """Refuses an ensemble.

    Args:
        folder: of an existing run.
        purpose: what only a single run can be used for, in words.

    Raises:
        UserError: it is an ensemble.
    """
    members = members_of(folder)
    if members:
        raise UserError(
            f"{folder} is an ensemble, and {purpose}; expected one of its runs: "
            f"{', '.join(map(str, members))}."
        )


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, or an ensemble of several, with what it knows of its data.

    Attributes:
        folder: the run folder.
        config: its resolved config.
        spec: genes, vocabularies, preprocessing.
        steps: the training step of the checkpoint, of each member.
        predictor: the model, ready to predict.
    """

    folder: Path
    config: RunConfig
    spec: DataSpec
    steps: tuple[int, ...]
    predictor: Predictor


def load_run(folder: str | Path, checkpoint: str = "best") -> LoadedRun:
    """Opens a run or an ensemble for evaluation or prediction, on one device.

    Args:
        folder: the run folder.
        checkpoint: "best" (lowest validation loss) or "last".

    Raises:
        UserError: there is no run, or no checkpoint in it.
    """
    folder = require_run(folder)
    config = load_config(folder / "config.yaml")
    members = members_of(folder)
    if members:
        return _load_ensemble(folder, config, [load_run(run, checkpoint) for run in members])
    return _load_network(folder, config, checkpoint)


def _load_ensemble(folder: Path, config: RunConfig, runs: Sequence[LoadedRun]) -> LoadedRun:
    spec = runs[0].spec
    for run in runs:
        if run.spec != spec:
            raise UserError(
                f"{run.folder} and {runs[0].folder}, of the ensemble {folder}, are not of the same "
                "genes and labels any more: one was trained anew. Make the ensemble again."
            )
    steps = tuple(step for run in runs for step in run.steps)
    return LoadedRun(folder, config, spec, steps, Ensemble([run.predictor for run in runs]))


def _load_network(folder: Path, config: RunConfig, checkpoint: str) -> LoadedRun:
    with Checkpoints(folder, create=False) as checkpoints:
        spec, step = checkpoints.spec(checkpoint), checkpoints.step(checkpoint)
        graphdef, shapes = abstract_model(config.model, model_dims(spec))
        trainable, frozen = partition(
            shapes, label_parameters(shapes, lora=config.model.lora.enable)
        )
        like = {"trainable": trainable, "frozen": frozen}
        parameters = checkpoints.parameters(checkpoint, like, one_device())
    predictor = NetworkPredictor(
        graphdef,
        parameters,
        cell_set_len=config.data.cell_set_len,
        batch_size=config.training.batch_size,
        seed=config.seed,
    )
    return LoadedRun(folder, config, spec, (step,), predictor)
