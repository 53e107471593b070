"""A run on disk: where it is made, and how a finished one is opened again.

config.yaml, provenance.json, parameters.json, split.txt, metrics.jsonl, tb/, checkpoints/, eval/
"""

from dataclasses import dataclass
from pathlib import Path

from wound_jax.assemble import model_dims
from wound_jax.checkpoint import Checkpoints
from wound_jax.config import load_config
from wound_jax.config.schema import RunConfig
from wound_jax.data.spec import DataSpec
from wound_jax.errors import UserError
from wound_jax.inference import Predictor
from wound_jax.models.functional import abstract_model
from wound_jax.optim.partition import label_parameters, partition
from wound_jax.sharding import one_device


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


@dataclass(frozen=True)
class LoadedRun:
    """A trained model with what it knows of its data.

    Attributes:
        folder: the run folder.
        config: its resolved config.
        spec: genes, vocabularies, preprocessing.
        step: the training step of the checkpoint.
        predictor: the model, ready to predict.
    """

    folder: Path
    config: RunConfig
    spec: DataSpec
    step: int
    predictor: Predictor


def load_run(folder: str | Path, checkpoint: str = "best") -> LoadedRun:
    """Opens a run for evaluation or prediction, on one device.

    Args:
        folder: the run folder.
        checkpoint: "best" (lowest validation loss) or "last".

    Raises:
        UserError: there is no run, or no checkpoint in it.
    """
    folder = require_run(folder)
    config = load_config(folder / "config.yaml")
    with Checkpoints(folder, create=False) as checkpoints:
        spec, step = checkpoints.spec(checkpoint), checkpoints.step(checkpoint)
        graphdef, shapes = abstract_model(config.model, model_dims(spec))
        trainable, frozen = partition(
            shapes, label_parameters(shapes, lora=config.model.lora.enable)
        )
        like = {"trainable": trainable, "frozen": frozen}
        parameters = checkpoints.parameters(checkpoint, like, one_device())
    predictor = Predictor(
        graphdef,
        parameters,
        cell_set_len=config.data.cell_set_len,
        batch_size=config.training.batch_size,
        seed=config.seed,
    )
    return LoadedRun(folder, config, spec, step, predictor)
