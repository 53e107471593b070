"""Predictions of a trained model: one predicted cell for each control cell.

Control cells are cut into sets of the training length, a fixed partition by seed, and run through
one compiled shape. Adapters are folded into the backbone first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx

from wound_jax.arrays import Parameters
from wound_jax.data.plan import prediction_sets
from wound_jax.models.functional import merged, predict
from wound_jax.models.set_transformer import SetInputs


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


class Predictor:
    """A trained model, ready to predict.

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

    def predict(
        self,
        features: np.ndarray,
        animals: np.ndarray,
        requests: Sequence[Request],
        scalars: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Predicts the control cells of each request.

        Args:
            features: float32 `[table, features]`, the model's input.
            animals: int32 `[table]`, code of each cell's animal, -1 where unseen in training.
            requests: what to predict; a cell may be asked for more than once.
            scalars: float32 `[table, scalars]`, for a model that is given scalar features.

        Returns:
            For each request float32 `[len(controls), width]`, rows in the order of its controls;
            genes where the model has a decoder, else the input's own space.
        """
        rows = [row for i, request in enumerate(requests) for row in self._rows(i, request)]
        outputs: list[np.ndarray | None] = [None] * len(requests)
        for owners, places, masks, predicted in self._batches(rows, features, animals, scalars):
            for owner, place, mask, cells in zip(owners, places, masks, predicted, strict=False):
                if outputs[owner] is None:
                    n = len(requests[owner].controls)
                    outputs[owner] = np.empty((n, cells.shape[-1]), np.float32)
                outputs[owner][place[mask]] = cells[mask]
        return [output for output in outputs if output is not None]

    def _rows(self, owner: int, request: Request) -> Iterator[tuple]:
        """The sets of one request: owner, places in the request, mask, positions, codes."""
        order = np.arange(len(request.controls))
        places, masks = prediction_sets(order, self._cell_set_len, self._seed)
        for place, mask in zip(places, masks, strict=True):
            cells = request.controls[place]
            yield owner, place, mask, cells, request.perturbation, request.timepoint, request.day

    def _batches(
        self,
        rows: Sequence[tuple],
        features: np.ndarray,
        animals: np.ndarray,
        scalars: np.ndarray | None,
    ) -> Iterator[tuple]:
        """Runs sets in batches of one shape; the last batch is filled up by repeating a set."""
        for start in range(0, len(rows), self._batch_size):
            batch = rows[start : start + self._batch_size]
            filled = [*batch, *[batch[-1]] * (self._batch_size - len(batch))]
            _, _, masks, cells, perturbations, timepoints, days = (
                np.stack(c) for c in zip(*filled, strict=True)
            )
            inputs = SetInputs(
                control=features[cells],
                mask=masks,
                perturbation=perturbations.astype(np.int32),
                timepoint=timepoints.astype(np.int32),
                animal=animals[cells],
                day=days.astype(np.float32),
                scalars=None if scalars is None else scalars[cells],
            )
            predicted = np.asarray(self._run(self._parameters, inputs))
            yield [r[0] for r in batch], [r[1] for r in batch], [r[2] for r in batch], predicted
