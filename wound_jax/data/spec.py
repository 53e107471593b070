"""Spec: what a trained model must know of its data to meet other cells; stored with checkpoints.

Genes and their scale, and vocabularies: the ordered labels that training showed to the model.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wound_jax.data.annotations import Annotations
from wound_jax.data.groups import Group
from wound_jax.data.preprocess import Preprocessing
from wound_jax.data.scalars import ScalarColumn
from wound_jax.data.scale_kinds import TotalRange
from wound_jax.data.timepoints import time_of
from wound_jax.errors import unknown_name


@dataclass(frozen=True)
class Vocabulary:
    """An ordered set of labels; a label's code is its place.

    Attributes:
        names: the labels, sorted.
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, labels: Iterable[str]) -> "Vocabulary":
        """The vocabulary of the labels that occur."""
        return cls(tuple(sorted(set(map(str, labels)))))

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """Codes of labels, int32; -1 for a label that is not in the vocabulary."""
        code = {name: i for i, name in enumerate(self.names)}
        present, inverse = np.unique(labels.astype(str), return_inverse=True)
        return np.array([code.get(name, -1) for name in present], dtype=np.int32)[inverse]


class Codes(NamedTuple):
    """What a model is told of a group beside its cells.

    Attributes:
        perturbation: code of the condition.
        timepoint: code of the timepoint, -1 where unseen in training.
        time: the timepoint in days, NaN where its label names none.
    """

    perturbation: int
    timepoint: int
    time: float


@dataclass(frozen=True)
class DataSpec:
    """The data side of a model.

    Attributes:
        input: matrix key of the input ("X", "layers/NAME", "obsm/KEY").
        gene_input: whether the input is expression; then it is the model's output space too.
        input_width: number of input features.
        preprocessing: how expression is brought to the model's genes and scale.
        control: the control condition.
        perturbations: conditions that were trained on, the control included.
        cell_types: cell types whose treated cells were trained on.
        timepoints: timepoints of the training sets.
        replicates: replicates whose cells are controls in training sets.
        non_negative: whether the output space holds no negative value.
        scalars: scalar features of the control cells that the model is given.
    """

    input: str
    gene_input: bool
    input_width: int
    preprocessing: Preprocessing
    control: str
    perturbations: Vocabulary
    cell_types: Vocabulary
    timepoints: Vocabulary
    replicates: Vocabulary
    non_negative: bool
    scalars: tuple[ScalarColumn, ...] = ()

    @property
    def genes(self) -> tuple[str, ...]:
        """The model's genes, in order."""
        return self.preprocessing.genes

    def codes(self, group: Group) -> Codes:
        """The codes of a group.

        Raises:
            UserError: the model was not trained on the group's condition.
        """
        condition, known = group.condition, self.perturbations
        if condition not in known:
            raise unknown_name("condition of treated cells", condition, known.names)
        return Codes(
            int(known.encode(np.array([condition]))[0]),
            int(self.timepoints.encode(np.array([group.timepoint]))[0]),
            time_of(group.timepoint),
        )

    def to_json(self) -> dict:
        """The spec as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> "DataSpec":
        """The inverse of `to_json`."""
        values = dict(values)
        p = values.pop("preprocessing")
        for name in ("perturbations", "cell_types", "timepoints", "replicates"):
            values[name] = Vocabulary(tuple(values[name]["names"]))
        values["scalars"] = tuple(ScalarColumn(**column) for column in values["scalars"])
        # Models from before the totals were kept have none.
        totals = TotalRange(**p["totals"]) if p.get("totals") else None
        preprocessing = Preprocessing(
            p["kind"], tuple(p["genes"]), tuple(p["normalisation_genes"]), totals
        )
        return cls(preprocessing=preprocessing, **values)


def vocabularies(
    annotations: Annotations, control: str, groups: Sequence[Group], pairs: Sequence[Group]
) -> dict[str, Vocabulary]:
    """The vocabularies of a spec: labels that training sets show to the model, and no others.

    A label that only cells outside those sets carry (the timepoint of shared controls, in a split
    by timepoint) would get a code whose embedding nothing trains; it is unseen instead.

    Args:
        annotations: labels of all cells.
        control: the control condition.
        groups: the treated training groups.
        pairs: the groups of control-to-control sets; empty where there are none.
    """
    drawn = [*(group.controls for group in groups), *(group.targets for group in pairs)]
    return {
        "perturbations": Vocabulary.of([control, *(group.condition for group in groups)]),
        "cell_types": Vocabulary.of(group.cell_type for group in groups),
        "timepoints": Vocabulary.of(group.timepoint for group in (*groups, *pairs)),
        "replicates": Vocabulary.of(annotations.replicate[np.unique(np.concatenate(drawn))]),
    }
