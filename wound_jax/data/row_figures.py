"""Figures of the rows of a block of cells, dense or CSR, without a dense copy of it."""

from collections.abc import Callable

import numpy as np

from wound_jax.data.stored_matrix import Matrix, n_columns, n_rows

# Rows that are looked at one by one.
_SOME = 128


def stored_values(block: Matrix) -> np.ndarray:
    """The values that are stored, of any shape."""
    return block if isinstance(block, np.ndarray) else block.data


def columns_of(block: Matrix, columns: np.ndarray) -> Matrix:
    """Some columns by position: the block itself where these are as many as it has."""
    return block if len(columns) == n_columns(block) else block[:, columns]


def any_in_row(block: Matrix, found: np.ndarray) -> np.ndarray:
    """Which cells have a stored value where `found` holds, boolean `[cells]`."""
    return _reduced(np.logical_or, block, found)


def totals_of_powers(block: Matrix, values: np.ndarray) -> np.ndarray:
    """The sum of expm1 over each cell, float64, of values up to 50."""
    # Four times as fast as expm1, and the digits it lacks are those of small values.
    powers = np.exp(np.minimum(values.astype(np.float32, copy=False), np.float32(50)))
    stored = n_columns(block) if isinstance(block, np.ndarray) else np.diff(block.indptr)
    return _reduced(np.add, block, powers, np.float64) - stored


def _reduced(combine: np.ufunc, block: Matrix, x: np.ndarray, dtype: type = np.bool_) -> np.ndarray:
    """Values that lie where those of `block` do, combined over each cell; 0 where it has none."""
    if isinstance(block, np.ndarray):
        return combine.reduce(x, axis=1, dtype=dtype)
    filled = np.flatnonzero(np.diff(block.indptr))
    out = np.zeros(n_rows(block), dtype=dtype)
    if filled.size:
        out[filled] = combine.reduceat(x, block.indptr[filled], dtype=dtype)
    return out


def rows_where(block: Matrix, wrong: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Which rows have a stored value that is wrong, boolean `[cells]`."""
    return any_in_row(block, wrong(stored_values(block)))


def first_where(block: Matrix, wrong: Callable[[np.ndarray], np.ndarray]) -> tuple[int, int]:
    """Row and column of the first stored value that is wrong; there is one."""
    row = int(np.flatnonzero(rows_where(block, wrong))[0])
    return row, int(np.flatnonzero(wrong(dense_rows(block, np.array([row]))[0]))[0])


def dense_rows(block: Matrix, rows: np.ndarray) -> np.ndarray:
    """Rows by position, as a plain array."""
    kept = block[rows]
    return kept if isinstance(kept, np.ndarray) else kept.toarray()


def some_rows(block: Matrix, rows: np.ndarray) -> np.ndarray:
    """A few of the rows, dense."""
    return dense_rows(block, np.flatnonzero(rows)[:_SOME])
