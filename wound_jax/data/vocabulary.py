"""Labels as codes: the ordered names a model was trained with, stored with it."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


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
