"""Loaded run: a finished run, or an ensemble of some, opened to predict with."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wound_jax.config import load_config
from wound_jax.config.schema import RunConfig
from wound_jax.data.spec import DataSpec
from wound_jax.devices.mesh import one_device
from wound_jax.errors import UserError
from wound_jax.models.build import model_dims
from wound_jax.models.functional import abstract_model
from wound_jax.models.partition import label_parameters, partition
from wound_jax.prediction.network import Ensemble, NetworkPredictor, Predictor
from wound_jax.training.checkpoint import Checkpoints
from wound_jax.training.record import finished_at, require_own_config, warn_of_changed_plugins
from wound_jax.training.run_folder import members_of, recorded_members, require_run
from wound_jax.training.run_lock import reading


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
    require_own_config(folder)
    config = load_config(folder / "config.yaml")
    warn_of_changed_plugins(folder, config.plugins)
    if members_of(folder):
        return _load_ensemble(folder, config, checkpoint)
    return _load_network(folder, config, checkpoint)


def _load_ensemble(folder: Path, config: RunConfig, checkpoint: str) -> LoadedRun:
    for member, finished in recorded_members(folder):
        now = finished_at(require_run(member))
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
    with reading(folder), Checkpoints(folder, create=False) as checkpoints:
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
    with reading(folder), Checkpoints(folder, create=False) as checkpoints:
        parameters = checkpoints.parameters(checkpoint, like, one_device())
    return NetworkPredictor(
        graphdef,
        parameters,
        codes=spec.codes,
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
