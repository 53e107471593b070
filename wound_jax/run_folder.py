"""A run on disk: where it is made, and how a finished one is opened again.

config.yaml, provenance.json, parameters.json, split.txt, metrics.jsonl, tb/, checkpoints/, eval/

An ensemble is the folder of a run without training: in place of checkpoints it holds ensemble.json,
which names the runs whose predictions are averaged.
"""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wound_jax import provenance
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
    if not is_free(folder):
        raise UserError(
            f"run_dir={folder} exists and is not empty; choose another, or continue that run "
            f"by --resume {folder}."
        )


def is_free(folder: Path) -> bool:
    """Whether nothing is there, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


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
    """Makes a folder the ensemble of some finished runs.

    They are named by where they lie from there, and with when they were finished, by which a run
    that is trained anew in the same place is told.
    """
    runs = [
        {"folder": os.path.relpath(member, folder), "finished": provenance.finished_at(member)}
        for member in members
    ]
    (folder / _ENSEMBLE).write_text(json.dumps({"runs": runs}, indent=2) + "\n")


def members_of(folder: Path) -> list[Path]:
    """The runs of an ensemble; none where the folder is that of a single run."""
    return [path for path, _ in _members(folder)]


def _members(folder: Path) -> list[tuple[Path, str]]:
    """The runs of an ensemble, and when each had been finished."""
    path = folder / _ENSEMBLE
    if not path.is_file():
        return []
    runs = json.loads(path.read_text())["runs"]
    return [(Path(os.path.normpath(folder / run["folder"])), run["finished"]) for run in runs]


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
        opened: gives the model, once it is.
    """

    folder: Path
    config: RunConfig
    spec: DataSpec
    steps: tuple[int, ...]
    opened: Future[Predictor]

    @property
    def predictor(self) -> Predictor:
        """The model, ready to predict; waits until it is."""
        return self.opened.result()


def load_run(folder: str | Path, checkpoint: str = "best") -> LoadedRun:
    """Opens a run or an ensemble for evaluation or prediction, on one device.

    What is known of its data is there at once. The model takes a second at the plan's size and is
    opened in a thread meanwhile, while cells are read.

    Args:
        folder: the run folder.
        checkpoint: "best" (lowest validation loss) or "last".

    Raises:
        UserError: there is no run, or no checkpoint in it.
    """
    folder = require_run(folder)
    config = load_config(folder / "config.yaml")
    if members_of(folder):
        return _load_ensemble(folder, config, checkpoint)
    return _load_network(folder, config, checkpoint)


def _load_ensemble(folder: Path, config: RunConfig, checkpoint: str) -> LoadedRun:
    for member, finished in _members(folder):
        now = provenance.finished_at(require_run(member))
        if now != finished:
            raise UserError(
                f"{member} is not the run that was averaged in {folder}: it was finished "
                f"{now or 'never'}, expected {finished}. Make the ensemble again, in another "
                "folder: python -m wound_jax.ensemble."
            )
    runs = [load_run(member, checkpoint) for member in members_of(folder)]
    steps = tuple(step for run in runs for step in run.steps)
    opened = _begin(lambda: Ensemble([run.predictor for run in runs]))
    return LoadedRun(folder, config, runs[0].spec, steps, opened)


def _load_network(folder: Path, config: RunConfig, checkpoint: str) -> LoadedRun:
    with Checkpoints(folder, create=False) as checkpoints:
        spec, step = checkpoints.spec(checkpoint), checkpoints.step(checkpoint)
    # From wherever the process works by then.
    opened = _begin(partial(_open_network, folder.absolute(), config, checkpoint, spec))
    return LoadedRun(folder, config, spec, (step,), opened)


def _open_network(
    folder: Path, config: RunConfig, checkpoint: str, spec: DataSpec
) -> NetworkPredictor:
    graphdef, shapes = abstract_model(config.model, model_dims(spec))
    trainable, frozen = partition(shapes, label_parameters(shapes, lora=config.model.lora.enable))
    like = {"trainable": trainable, "frozen": frozen}
    with Checkpoints(folder, create=False) as checkpoints:
        parameters = checkpoints.parameters(checkpoint, like, one_device())
    return NetworkPredictor(
        graphdef,
        parameters,
        cell_set_len=config.data.cell_set_len,
        batch_size=config.training.batch_size,
        seed=config.seed,
    )


def _begin(open_model: Callable[[], Predictor]) -> Future[Predictor]:
    """Begins to open a model, in a thread of its own."""
    thread = ThreadPoolExecutor(1, thread_name_prefix="open")
    opened = thread.submit(open_model)
    thread.shutdown(wait=False)
    return opened
