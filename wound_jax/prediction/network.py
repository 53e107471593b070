"""Predictions of trained networks: one predicted cell for each control cell.

Control cells are cut into sets of the training length, a fixed partition by seed, gathered as in
training and run through one compiled shape, the sets of all groups in common batches. Adapters are
folded into the backbone first. Cells are read while the network computes, and results can be taken
batch by batch.

The cells of an ensemble are means over its members, cell by cell: cell i of every member is made
from control cell i, so that the means are a population as each member's cells are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import numpy as np
from flax import nnx

from wound_jax.arrays import Parameters
from wound_jax.data.cells import Cells
from wound_jax.data.groups import Group
from wound_jax.data.sets import SetPlan, prediction_plan
from wound_jax.data.spec import Codes
from wound_jax.devices.prefetch import Ahead
from wound_jax.models.functional import merged, predict
from wound_jax.models.set_transformer import SetInputs
from wound_jax.training.batch import gather_inputs

# Which group, places among its controls, and their predicted cells.
Predicted = tuple[int, np.ndarray, np.ndarray]


class Predictor(ABC):
    """What predicts perturbed cells from control cells.

    Attributes:
        passes: how often it goes over the cells.
    """

    passes: int = 1

    @abstractmethod
    def stream(self, cells: Cells, groups: Sequence[Group]) -> Iterator[Predicted]:
        """`predict`, set by set: the whole is never held.

        Yields:
            Which group, places among its controls, and float32 `[places, width]`. Each place comes
            once in a pass; what comes for it in all passes adds up to its predicted cell.
        """

    def predict(self, cells: Cells, groups: Sequence[Group]) -> list[np.ndarray]:
        """Predicts the control cells of each group under its condition.

        Args:
            cells: among which the groups find their controls.
            groups: what to predict; their targets are not looked at, and a cell may be the control
                of more than one.

        Returns:
            For each group float32 `[len(controls), width]`, rows in the order of its controls;
            genes where the model has a decoder, else the input's own space.
        """
        outputs: dict[int, np.ndarray] = {}
        for owner, places, predicted in self.stream(cells, groups):
            if owner not in outputs:
                n = len(groups[owner].controls)
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

    def stream(self, cells: Cells, groups: Sequence[Group]) -> Iterator[Predicted]:
        """Each member's share of the mean, one member after the other."""
        share = np.float32(1.0 / len(self._members))
        for member in self._members:
            for owner, places, predicted in member.stream(cells, groups):
                yield owner, places, share * predicted


class NetworkPredictor(Predictor):
    """A trained network.

    Args:
        graphdef: the model's structure.
        parameters: its parameters.
        codes: what the model is told of a group (`wound_jax.data.spec.DataSpec.codes`).
        cell_set_len: cells in a set, as in training.
        batch_size: sets in a batch.
        seed: of the partition of control cells into sets.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        parameters: Parameters,
        *,
        codes: Callable[[Group], Codes],
        cell_set_len: int,
        batch_size: int,
        seed: int,
    ):
        graphdef, self._parameters = merged(graphdef, parameters)
        self._codes = codes
        self._cell_set_len = cell_set_len
        self._batch_size = batch_size
        self._seed = seed

        def run(parameters: Parameters, inputs: SetInputs):
            prediction = predict(graphdef, parameters, inputs)
            return prediction.cells if prediction.genes is None else prediction.genes

        self._run = jax.jit(run)

    def stream(self, cells: Cells, groups: Sequence[Group]) -> Iterator[Predicted]:
        """The cells of each set, in one pass.

        Raises:
            UserError: the network was not trained on the condition of a group.
        """
        if not groups:
            return
        planned = [self._plan(group) for group in groups]
        plan, place = jax.tree.map(lambda *parts: np.concatenate(parts), *planned)
        owner = np.repeat(np.arange(len(groups)), [len(sets) for sets, _ in planned])
        # The last batch is filled up, so that all have one shape.
        each = [slice(i, i + self._batch_size) for i in range(0, len(plan), self._batch_size)]
        batches = [plan.take(part).filled(self._batch_size) for part in each]
        gathered, running = Ahead(partial(gather_inputs, cells)), None
        for i, (part, batch) in enumerate(zip(each, batches, strict=True)):
            inputs = gathered(batch, batches[i + 1 : i + 2])
            # The next batch is computed while what this one gave is taken up.
            begun = (owner[part], place[part], batch, self._run(self._parameters, inputs))
            if running is not None:
                yield from _results(*running)
            running = begun
        if running is not None:
            yield from _results(*running)

    def _plan(self, group: Group) -> tuple[SetPlan, np.ndarray]:
        return prediction_plan(group, self._codes(group), self._cell_set_len, self._seed)


def _results(
    owner: np.ndarray, place: np.ndarray, plan: SetPlan, predicted: jax.Array
) -> Iterator[Predicted]:
    """Group, places and cells of each set; the empty sets that fill up a batch are left out."""
    found = np.asarray(predicted)
    for i, mask in enumerate(plan.control_mask[: len(owner)]):
        yield int(owner[i]), place[i][mask], found[i][mask]
