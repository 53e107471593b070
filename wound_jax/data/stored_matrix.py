"""Stored matrices, found to be what they say before anything is computed from them.

A sparse matrix of an h5ad file is three arrays that have to agree: row i is `data` and `indices`
from `indptr[i]` to `indptr[i+1]`. scipy's C code believes them: a column that is not there is
written past the end of a row. And a value in two entries counts as two values wherever something
is not linear (a logarithm, a threshold). So every block of rows is checked when it is read,
entries of one place are summed, and a matrix has the shape that obs and var say.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import h5py
import numpy as np
import scipy.sparse as sp
from anndata.io import read_elem

from wound_jax.errors import UserError

Matrix = np.ndarray | sp.csr_matrix
Shape = tuple[int, int | None]

# Stored values of a sparse matrix in memory that are looked at together.
_BLOCK = 1 << 22
_ARRAYS = ("data", "indices", "indptr")
_ANEW = "write the file anew from the matrix it was made of"


class DenseRows:
    """A dense matrix of an open file, whose rows are read when they are asked for.

    Args:
        name: of the file and the matrix, for messages.
        values: the dataset.
        shape: rows, and columns if their number is known.

    Raises:
        UserError: it has another shape, or holds no numbers.
    """

    def __init__(self, name: str, values: Any, shape: Shape):
        _require_numbers(name, values.dtype)
        self.shape = _require_shape(name, values.shape, shape)
        self._name = name
        self._values = values

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Some rows."""
        return _read(self._name, self._values, rows)


class CompressedRows:
    """A matrix in compressed form by rows (CSR), or by columns (CSC), block by block.

    Args:
        name: of the file and the matrix, for messages.
        arrays: `data`, `indices` and `indptr`, in memory or in a file.
        shape: rows and columns; of CSC columns and rows.
        line: what `indptr` counts, "row" or "column".

    Raises:
        UserError: the arrays contradict each other.
    """

    def __init__(self, name: str, arrays: Any, shape: tuple[int, int], line: str = "row"):
        self.shape = shape
        self._name = name
        self._line = line
        self._data, self._indices = arrays["data"], arrays["indices"]
        _require_numbers(f"{name}/data", self._data.dtype)
        for part in _ARRAYS:
            if arrays[part].ndim != 1:
                self._refuse(f"{part} has shape {arrays[part].shape}, expected one dimension")
        for part in ("indices", "indptr"):
            if arrays[part].dtype.kind not in "iu":
                self._refuse(f"{part} holds {arrays[part].dtype} values, expected integers")
        self._starts = _read(name, arrays["indptr"], slice(None)).astype(np.int64, copy=False)
        self._require_starts()

    def _require_starts(self) -> None:
        starts, line, n = self._starts, self._line, self.shape[0]
        n_values, n_places = len(self._data), len(self._indices)
        if n_values != n_places:
            self._refuse(f"data has {n_values} entries and indices {n_places}")
        if len(starts) != n + 1:
            self._refuse(f"indptr has {len(starts)} entries, expected {n + 1} for {n} {line}s")
        if starts[0] != 0:
            self._refuse(f"indptr begins at {starts[0]}, expected 0 ({line} 0)")
        falls = np.flatnonzero(starts[1:] < starts[:-1])
        if falls.size:
            at = int(falls[0])
            self._refuse(
                f"indptr says that {line} {at} begins at {starts[at]} and ends at {starts[at + 1]}"
            )
        if starts[-1] != n_values:
            self._refuse(
                f"indptr ends at {starts[-1]} ({line} {n - 1}), but {n_values} values are stored"
            )

    def __getitem__(self, lines: slice) -> sp.csr_matrix:
        """Some rows (of CSC columns), in canonical form but for the order of their entries.

        Raises:
            UserError: an entry lies outside the matrix, or cannot be read.
        """
        block = self._block(lines)
        return _summed(block) if _has_duplicates(block) else block

    def has_duplicates(self) -> bool:
        """Whether a place has several entries; looks at all of them.

        Raises:
            UserError: an entry lies outside the matrix.
        """
        found = [_has_duplicates(self._block(lines)) for lines in self._blocks()]
        return any(found)

    def _blocks(self) -> Iterator[slice]:
        ends = np.searchsorted(self._starts, np.arange(_BLOCK, self._starts[-1] + _BLOCK, _BLOCK))
        bounds = np.unique(np.r_[0, np.minimum(ends, self.shape[0]), self.shape[0]])
        return (slice(a, b) for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))

    def _block(self, lines: slice) -> sp.csr_matrix:
        first, last = self._starts[lines.start], self._starts[lines.stop]
        values = _for_sparse(_read(self._name, self._data, slice(first, last)))
        places = _read(self._name, self._indices, slice(first, last))
        if places.size and not 0 <= places.min() <= places.max() < self.shape[1]:
            wrong = int(np.flatnonzero((places < 0) | (places >= self.shape[1]))[0])
            line = int(np.searchsorted(self._starts, first + wrong, side="right")) - 1
            self._refuse(
                f"{self._line} {line} has an entry in {_OTHER[self._line]} {places[wrong]}, "
                f"expected 0 to {self.shape[1] - 1}"
            )
        starts = self._starts[lines.start : lines.stop + 1] - first
        return sp.csr_matrix((values, places, starts), shape=(len(starts) - 1, self.shape[1]))

    def _refuse(self, what: str) -> None:
        raise UserError(f"{self._name} contradicts itself: {what}; {_ANEW}.")


_OTHER = {"row": "column", "column": "row"}


def rows_of(file: Any, key: str, shape: Shape, most_by_columns: int) -> Any:
    """A matrix of an open file, whose rows can be sliced; what is small and no rows is read whole.

    Args:
        file: an open h5ad file.
        key: "X", "layers/NAME" or "obsm/KEY", which is there.
        shape: rows, and columns if their number is known.
        most_by_columns: stored values up to which a matrix by columns is read whole.

    Raises:
        UserError: the matrix contradicts itself, `obs` or `var`, or is large and by columns.
    """
    stored, name = file[key], _name(file, key)
    if isinstance(stored, h5py.Dataset):
        return DenseRows(name, stored, shape)
    form = _form(stored)
    if form == "csr_matrix":
        return CompressedRows(name, *_parts(name, stored, shape))
    if form == "csc_matrix" and len(stored["data"]) > most_by_columns:
        raise UserError(
            f"{name} is stored by columns (CSC), so its rows cannot be read one block after the "
            f"other; write the file anew with that matrix as CSR (scipy's .tocsr())."
        )
    return read_matrix(file, key, shape)


def read_matrix(file: Any, key: str, shape: Shape) -> Matrix:
    """A matrix of an open file: CSR if it is sparse there, else a plain array.

    Args:
        file: an open h5ad file.
        key: "X", "layers/NAME" or "obsm/KEY", which is there.
        shape: rows, and columns if their number is known.

    Raises:
        UserError: the matrix contradicts itself, `obs` or `var`.
    """
    stored, name = file[key], _name(file, key)
    if isinstance(stored, h5py.Dataset):
        return DenseRows(name, stored, shape)[:]
    form = _form(stored)
    if form not in ("csr_matrix", "csc_matrix"):
        # A table in obsm, say.
        return sound(np.asarray(read_elem(stored)), name, shape)
    arrays, size = _parts(name, stored, shape)
    whole = {part: _read(name, arrays[part], slice(None)) for part in _ARRAYS}
    return _sound_sparse(whole, name, size, by_rows=form == "csr_matrix")


def sound(values: Any, name: str, shape: Shape) -> Matrix:
    """A matrix in memory as `read_matrix` gives it.

    Args:
        values: sparse or dense.
        name: what messages call it.
        shape: rows, and columns if their number is known.

    Raises:
        UserError: the matrix contradicts itself, or has another shape.
    """
    if not sp.issparse(values):
        values = np.asarray(values)
        _require_numbers(name, values.dtype)
        _require_shape(name, values.shape, shape)
        return _native(values)
    by_rows = values.format != "csc"
    kept = values if values.format in ("csr", "csc") else values.tocsr()
    size = _require_shape(name, cast(tuple[int, int], kept.shape), shape)
    arrays = {part: getattr(kept, part) for part in _ARRAYS}
    return _sound_sparse(arrays, name, size, by_rows=by_rows)


def _sound_sparse(
    arrays: Mapping[str, np.ndarray], name: str, size: tuple[int, int], *, by_rows: bool
) -> sp.csr_matrix:
    lines = CompressedRows(
        name, arrays, *((size, "row") if by_rows else ((size[1], size[0]), "column"))
    )
    twice = lines.has_duplicates()
    kind = sp.csr_matrix if by_rows else sp.csc_matrix
    data, indices, indptr = (_native(arrays[part]) for part in _ARRAYS)
    whole = kind((_for_sparse(data), indices, indptr), shape=size)
    return sp.csr_matrix(_summed(whole) if twice else whole)


def _parts(name: str, stored: Any, shape: Shape) -> tuple[Any, tuple[int, int]]:
    """The arrays of a sparse matrix in a file, and its size."""
    absent = [part for part in _ARRAYS if part not in stored]
    size = stored.attrs.get("shape", stored.attrs.get("h5sparse_shape"))
    absent += ["shape"] if size is None else []
    if absent:
        raise UserError(f"{name} contradicts itself: it has no {', '.join(absent)}; {_ANEW}.")
    return stored, _require_shape(name, tuple(map(int, cast(Any, size))), shape)


def _form(stored: Any) -> str:
    """How a matrix is laid out; files before anndata 0.7 say it in a word of their own."""
    old = stored.attrs.get("h5sparse_format")
    return f"{old}_matrix" if old else str(stored.attrs.get("encoding-type", ""))


def _require_shape(name: str, found: tuple[int, ...], shape: Shape) -> tuple[int, int]:
    n_rows, n_columns = shape
    if len(found) != 2:
        raise UserError(f"{name} has shape {found}, expected rows and columns; {_ANEW}.")
    if found[0] != n_rows:
        raise UserError(
            f"{name} has {found[0]} rows, but obs names {n_rows} cells: one of them belongs to "
            f"another file; {_ANEW}."
        )
    if n_columns is not None and found[1] != n_columns:
        raise UserError(
            f"{name} has {found[1]} columns, but var names {n_columns} genes: one of them belongs "
            f"to another file; {_ANEW}."
        )
    return found[0], found[1]


def _require_numbers(name: str, dtype: np.dtype) -> None:
    if dtype.kind not in "biuf":
        raise UserError(f"{name} holds {dtype} values, expected numbers; {_ANEW}.")


def _read(name: str, array: Any, part: slice) -> np.ndarray:
    """A part of an array, in the byte order of this machine."""
    try:
        return _native(array[part])
    except OSError as e:
        raise UserError(
            f"{name} cannot be read, the file is damaged: {e}. Copy or write it again."
        ) from e


def _native(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _for_sparse(values: np.ndarray) -> np.ndarray:
    """Values of a type that scipy's sparse matrices know, without loss."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _has_duplicates(block: Any) -> bool:
    if block.has_canonical_format:
        return False
    if block.has_sorted_indices:
        return True
    # The order of entries is left as it is: it is no fault, and sums keep their digits.
    ordered = block.copy()
    ordered.sort_indices()
    return not ordered.has_canonical_format


def _summed(values: Any) -> Any:
    """With one entry for each place; in a type that holds the sums of small ones."""
    wide = {"b": np.int64, "i": np.int64, "u": np.uint64}.get(values.dtype.kind)
    values = values.astype(wide or values.dtype)
    values.sum_duplicates()
    return values


def _name(file: Any, key: str) -> str:
    return f"{file.filename}: {key}"


@runtime_checkable
class HasShape(Protocol):
    """A matrix in memory, or one that is still in its file."""

    @property
    def shape(self) -> Any:
        """Rows and columns."""
        ...


def n_columns(values: Matrix | HasShape) -> int:
    """Number of columns (scipy leaves open whether a matrix has a shape)."""
    return cast(tuple[int, int], values.shape)[1]


def n_rows(values: Matrix | HasShape) -> int:
    """Number of rows."""
    return cast(tuple[int, int], values.shape)[0]
