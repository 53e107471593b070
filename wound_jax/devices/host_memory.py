"""Host memory: tables that a CPU device reads where they lie, and free memory given back.

The C library keeps much of what a training has freed, some 500 MiB at the plan's size, in pieces
that the large arrays of an evaluation do not fit into.
"""

import contextlib
import ctypes

import numpy as np
from jaxtyping import Float

# jax.device_put copies an array to a CPU device unless it begins at a multiple of so many bytes.
_ALIGNMENT = 64


def aligned_table(n_rows: int, n_columns: int) -> Float[np.ndarray, "rows columns"]:
    """A new float32 table with undefined values, aligned for devices.

    Once it is placed on a CPU device the two are one: it must not be written to any more.
    """
    size = 4 * n_rows * n_columns
    block = np.empty(size + _ALIGNMENT, np.uint8)
    start = -block.ctypes.data % _ALIGNMENT
    return block[start : start + size].view(np.float32).reshape(n_rows, n_columns)


def as_aligned(values: np.ndarray) -> Float[np.ndarray, "rows columns"]:
    """A matrix as a float32 table that is aligned for devices; itself if it is one already."""
    fits = values.dtype == np.float32 and values.flags.c_contiguous
    if fits and values.ctypes.data % _ALIGNMENT == 0:
        return values
    table = aligned_table(*values.shape)
    np.copyto(table, values, casting="same_kind")
    return table


def give_back() -> None:
    """Gives free memory back to the system where the C library can (glibc); elsewhere nothing."""
    # No library of that name, or none that has the function (macOS, Windows, musl).
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
