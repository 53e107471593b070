"""Predictions of trained models: one predicted cell for each control cell.

Control cells are cut into sets of the training length, a fixed partition by seed, and run through
one compiled shape, the sets of all groups in common batches. Adapters are folded into the backbone
first. Cells are read while the model computes, and results can be taken batch by batch.

The cells of an ensemble are means over its members, cell by cell: cell i of every member is made
from control cell i, so that the means are a population as each member's cells are.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import jax
import numpy as np
from flax import nnx

from wound_jax.arrays import Parameters
from wound_jax.data.sets import prediction_sets
from wound_jax.data.store.rows import Rows
from wound_jax.devices.prefetch import Ahead
from wound_jax.models.functional import merged, predict
from wound_jax.models.set_transformer import SetInputs

# Which request, places in its controls, and their cells.
Predicted = tuple[int, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Request:
    """Control cells that are predicted together.

    Attributes:
        controls: their positions in the features.
        perturbation: code of the condition to predict.
        timepoint: code of their day, -1 where unseen in training.
        day: their day as a number, NaN where the timepoint names none.
    """

    controls: np.ndarray
    perturbation: int
    timepoint: int
    day: float = float("nan")


@dataclass(frozen=True, eq=False)
class ModelCells:
    """Cells as a model is given them.

    Attributes:
        features: float32 `[table, features]`, the model's input, in memory or on disk.
        replicates: int32 `[table]`, code of each cell's replicate, -1 where unseen in training.
        scalars: float32 `[table, scalars]`, for a model that is given scalar features.
    """

    features: Rows
    replicates: np.ndarray
    scalars: np.ndarray | None = None


class Predictor(ABC):
    """What predicts perturbed cells from control cells.

    Attributes:
        passes: how often it goes over the cells.
    """

    passes: int = 1

    @abstractmethod
    def stream(self, cells: ModelCells, requests: Sequence[Request]) -> Iterator[Predicted]:
        """`predict`, set by set: the whole is never held.

        Yields:
            Which request, places in its controls, and float32 `[places, width]`. Each place comes
            once in a pass; what comes for it in all passes adds up to its predicted cell.
        """

    def predict(self, cells: ModelCells, requests: Sequence[Request]) -> list[np.ndarray]:
        """Predicts the control cells of each request.

        Args:
            cells: among which the requests find their controls.
            requests: what to predict; a cell may be asked for more than once.

        Returns:
            For each request float32 `[len(controls), width]`, rows in the order of its controls;
            genes where the model has a decoder, else the input's own space.
        """
        outputs: dict[int, np.ndarray] = {}
        for owner, places, predicted in self.stream(cells, requests):
            if owner not in outputs:
                n = len(requests[owner].controls)
                outputs[owner] = np.zeros((n, predicted.shape[-1]), np.float32)
            outputs[owner][places] += predicted
        return [outputs[owner] for owner in sorted(outputs)]


class Ensemble(Predictor):
    """Several models, of which the mean is taken.

    Args:
        members: at least one, all of the same cells and genes.
    """

    def __init__(self, members: Sequence[Predictor]):
        self._members = tuple(members)
        self.passes = sum(member.passes for member in members)

    def stream(self, cells: ModelCells, requests: Sequence[Request]) -> Iterator[Predicted]:
        """Each member's share of the mean, one member after the other."""
        share = np.float32(1.0 / len(self._members))
        for member in self._members:
            for owner, places, predicted in member.stream(cells, requests):
                yield owner, places, share * predicted


class NetworkPredictor(Predictor):
    """A trained network.

    Args:
        graphdef: the model's structure.
        parameters: its parameters.
        cell_set_len: cells in a set, as in training.
        batch_size: sets in a batch.
        seed: of the partition of control cells into sets.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        parameters: Parameters,
        *,
        cell_set_len: int,
        batch_size: int,
        seed: int,
    ):
        graphdef, self._parameters = merged(graphdef, parameters)
        self._cell_set_len = cell_set_len
        self._batch_size = batch_size
        self._seed = seed

        def run(parameters: Parameters, inputs: SetInputs):
            prediction = predict(graphdef, parameters, inputs)
            return prediction.cells if prediction.genes is None else prediction.genes

        self._run = jax.jit(run)

    def stream(self, cells: ModelCells, requests: Sequence[Request]) -> Iterator[Predicted]:
        """The cells of each set, in one pass."""
        sets = (row for i, request in enumerate(requests) for row in self._sets(i, request))
        batches = iter(lambda: list(islice(sets, self._batch_size)), [])
        gathered = Ahead(partial(self._inputs, cells))
        batch, running = next(batches, None), None
        while batch is not None:
            after = next(batches, None)
            inputs = gathered(batch, () if after is None else (after,))
            # The next batch is computed while what this one gave is taken up.
            begun = (batch, self._run(self._parameters, inputs))
            if running is not None:
                yield from _results(*running)
            batch, running = after, begun
        if running is not None:
            yield from _results(*running)

    def _sets(self, owner: int, request: Request) -> Iterator[tuple]:
        """The sets of one request: owner, places in the request, mask, positions, codes."""
        order = np.arange(len(request.controls))
        places, masks = prediction_sets(order, self._cell_set_len, self._seed)
        for place, mask in zip(places, masks, strict=True):
            cells = request.controls[place]
            yield owner, place, mask, cells, request.perturbation, request.timepoint, request.day

    def _inputs(self, cells: ModelCells, batch: list[tuple]) -> SetInputs:
        """The sets of a batch as arrays of one shape, filled up by repeating the last set."""
        filled = [*batch, *[batch[-1]] * (self._batch_size - len(batch))]
        _, _, masks, rows, perturbations, timepoints, days = (
            np.stack(column) for column in zip(*filled, strict=True)
        )
        return SetInputs(
            control=cells.features[rows],
            mask=masks,
            perturbation=perturbations.astype(np.int32),
            timepoint=timepoints.astype(np.int32),
            replicate=cells.replicates[rows],
            day=days.astype(np.float32),
            scalars=None if cells.scalars is None else cells.scalars[rows],
        )


def _results(batch: list[tuple], predicted: jax.Array) -> Iterator[Predicted]:
    """Owner, places and cells of each set; the sets that fill up the last batch are left out."""
    for (owner, place, mask, *_), cells in zip(batch, np.asarray(predicted), strict=False):
        yield owner, place[mask], cells[mask]
