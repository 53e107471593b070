"""What a trained model needs to know of its data, to meet other cells: stored with every checkpoint."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from wound_jax.data.annotations import Annotations
from wound_jax.data.preprocess import Preprocessing
from wound_jax.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class DataSpec:
    """The data side of a model.

    Attributes:
        input: matrix key of the input ("X", "layers/NAME", "obsm/KEY").
        gene_input: whether the input is expression; then it is the model's output space too.
        input_width: number of input features.
        preprocessing: how expression is brought to the model's genes and scale.
        control: the control condition.
        perturbations: all conditions, the control included.
        cell_types: cell types whose treated cells were trained on.
        timepoints: timepoints of the training cells.
        animals: animals of the training cells.
        non_negative: whether the output space holds no negative value.
    """

    input: str
    gene_input: bool
    input_width: int
    preprocessing: Preprocessing
    control: str
    perturbations: Vocabulary
    cell_types: Vocabulary
    timepoints: Vocabulary
    animals: Vocabulary
    non_negative: bool

    @property
    def genes(self) -> tuple[str, ...]:
        """The model's genes, in order."""
        return self.preprocessing.genes

    def to_json(self) -> dict:
        """The spec as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> "DataSpec":
        """The inverse of `to_json`."""
        values = dict(values)
        p = values.pop("preprocessing")
        for name in ("perturbations", "cell_types", "timepoints", "animals"):
            values[name] = Vocabulary(tuple(values[name]["names"]))
        preprocessing = Preprocessing(
            p["kind"], tuple(p["genes"]), tuple(p["normalisation_genes"])
        )
        return cls(preprocessing=preprocessing, **values)


def vocabularies(annotations: Annotations, treated: np.ndarray, training: np.ndarray) -> dict:
    """The vocabularies of a spec.

    Args:
        annotations: labels of all cells.
        treated: positions of the treated training cells.
        training: positions of all training cells.
    """
    return {
        "perturbations": Vocabulary.of(annotations.condition),
        "cell_types": Vocabulary.of(annotations.cell_type[treated]),
        "timepoints": Vocabulary.of(annotations.timepoint[training]),
        "animals": Vocabulary.of(annotations.animal[training]),
    }
