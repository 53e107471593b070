"""Matrices that grow by blocks of rows: dense ones in place, sparse ones stacked at the end."""

import numpy as np
import scipy.sparse as sp

Matrix = np.ndarray | sp.csr_matrix


class Rows:
    """Named matrices of one number of rows, filled block by block from the top."""

    def __init__(self, n_rows: int):
        self.n_rows = n_rows
        self.filled = 0
        self._dense: dict[str, np.ndarray] = {}
        self._sparse: dict[str, list[sp.csr_matrix]] = {}

    def add(self, parts: dict[str, Matrix]) -> None:
        """Appends a block: the same names each time, all of one number of rows."""
        height = len(next(part for part in parts.values() if isinstance(part, np.ndarray)))
        for name, part in parts.items():
            if isinstance(part, np.ndarray):
                shape = (self.n_rows, *part.shape[1:])
                whole = self._dense.setdefault(name, np.empty(shape, part.dtype))
                whole[self.filled : self.filled + height] = part
            else:
                self._sparse.setdefault(name, []).append(part)
        self.filled += height

    def take(self, name: str) -> Matrix:
        """The whole matrix of that name, which is then forgotten here."""
        if name in self._dense:
            return self._dense.pop(name)
        return sp.csr_matrix(sp.vstack(self._sparse.pop(name), format="csr"))
