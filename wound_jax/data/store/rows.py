"""Rows on disk, asked for by position as of an array in memory.

`rows[index]` is `array[index]`, in float32 and dense. Rows are read with `pread`, neighbours in
one call, after all were announced: what was read takes no memory afterwards, and threads may read
at once. For the random rows of a batch anndata takes 3.3 times as long on the same file and 8.5
times as zarr; scipy on a memory map takes 0.6 times as long from the system's cache and 2.7 times
from the disk, keeps what it read in the process, and dies of a file that was cut short
(`scripts/benchmark_store.py`).
"""

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from wound_jax.data.store.seal import AGAIN
from wound_jax.files import DamagedFile

_CAN_ANNOUNCE = hasattr(os, "posix_fadvise")


class DiskRows(ABC):
    """Rows on disk; a subclass says how the rows at ascending positions are read.

    Args:
        shape: rows and columns.
    """

    def __init__(self, shape: tuple[int, int]):
        self.shape = shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Int[np.ndarray, "..."] | slice) -> Float[np.ndarray, "... cols"]:
        """The rows at some positions: a slice, or an array of positions of any shape."""
        if isinstance(index, slice):
            return self._read(np.arange(*index.indices(len(self))))
        # Each row is read once, in the order of the file, however often it is asked for.
        wanted, place = np.unique(index, return_inverse=True)
        if wanted.size and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of {len(self)}")
        return self._read(wanted)[place.reshape(index.shape)]

    @abstractmethod
    def _read(self, positions: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows cols"]: ...


class SparseRows(DiskRows):
    """Rows of a CSR matrix whose arrays lie in one piece in a file.

    Args:
        path: the file.
        indptr: int64 `[rows + 1]`.
        n_columns: how many columns there are.
        data_at: byte at which the values (float32) begin.
        indices_at: byte at which their columns (int32) begin.
    """

    def __init__(
        self, path: str | Path, indptr: np.ndarray, n_columns: int, data_at: int, indices_at: int
    ):
        super().__init__((len(indptr) - 1, n_columns))
        self._path = path
        self._file = _File(path, os.O_RDONLY)
        self._indptr = indptr
        self._data_at = data_at
        self._indices_at = indices_at

    def _read(self, positions: np.ndarray) -> np.ndarray:
        starts, ends = self._indptr[positions], self._indptr[positions + 1]
        local = np.r_[0, np.cumsum(ends - starts)]
        values, columns = np.empty(local[-1], "<f4"), np.empty(local[-1], "<i4")
        self._file.fill(
            (self._data_at + 4 * starts, self._data_at + 4 * ends, values),
            (self._indices_at + 4 * starts, self._indices_at + 4 * ends, columns),
        )
        # The file was whole when it was opened; scipy writes wherever a column says.
        if columns.size and not 0 <= columns.min() <= columns.max() < self.shape[1]:
            raise DamagedFile(
                f"{self._path} was damaged while it was read from: rows {positions[0]} to "
                f"{positions[-1]} have entries outside its {self.shape[1]} columns; {AGAIN}"
            )
        shape = (len(positions), self.shape[1])
        return sp.csr_matrix((values, columns, local), shape=shape).toarray()


class ScratchRows(DiskRows):
    """Dense float32 rows to write to and read from, in a file that is gone when they are.

    Args:
        path: where the file is made.
        shape: rows and columns.
    """

    def __init__(self, path: str | Path, shape: tuple[int, int]):
        super().__init__(shape)
        self._file = _File(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        # Without a name from here on: whatever ends the process, no file stays behind.
        os.unlink(path)

    def __setitem__(self, index: Int[np.ndarray, " rows"] | slice, rows: np.ndarray) -> None:
        """Writes rows."""
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        order = np.argsort(index)
        self._file.write(*self._bytes(index[order]), np.ascontiguousarray(rows[order], "<f4"))

    def _read(self, positions: np.ndarray) -> np.ndarray:
        rows = np.empty((len(positions), self.shape[1]), "<f4")
        self._file.fill((*self._bytes(positions), rows))
        return rows

    def _bytes(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = positions.astype(np.int64) * (4 * self.shape[1])
        return starts, starts + 4 * self.shape[1]


class TakenRows(DiskRows):
    """Some rows of rows on disk.

    Args:
        rows: the whole.
        positions: which of them.
    """

    def __init__(self, rows: DiskRows, positions: Int[np.ndarray, " rows"]):
        super().__init__((len(positions), rows.shape[1]))
        self._rows = rows
        self._positions = positions

    def _read(self, positions: np.ndarray) -> np.ndarray:
        return self._rows[self._positions[positions]]


# What holds the cells of a run: an array, or rows on disk.
Rows = np.ndarray | DiskRows
# Of these what can be written to.
Table = np.ndarray | ScratchRows


class _File:
    """Ranges of bytes of a file, read and written in place."""

    def __init__(self, path: str | Path, flags: int):
        self._file = os.open(path, flags, 0o600)
        weakref.finalize(self, os.close, self._file)

    def fill(self, *pieces: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Fills arrays: each piece is starts and ends of ranges, and what they are read into."""
        ranges = [(list(_joined(starts, ends)), into) for starts, ends, into in pieces]
        for of_piece, _ in ranges if _CAN_ANNOUNCE else ():
            for start, end in of_piece:
                # All before the first is read, so that the drive works on many at a time.
                os.posix_fadvise(self._file, start, end - start, os.POSIX_FADV_WILLNEED)
        for of_piece, into in ranges:
            self._read_ranges(of_piece, into)

    def _read_ranges(self, ranges: Iterable[tuple[int, int]], into: np.ndarray) -> None:
        memory, at = into.reshape(-1).view(np.uint8).data, 0
        for start, end in ranges:
            while start < end:
                got = os.preadv(self._file, [memory[at : at + end - start]], start)
                if not got:
                    raise OSError(f"the file ends before byte {end}: it was cut short")
                at, start = at + got, start + got

    def write(self, starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> None:
        """Writes an array to ranges, one after the other."""
        memory, at = values.reshape(-1).view(np.uint8).data, 0
        for start, end in _joined(starts, ends):
            while start < end:
                done = os.pwrite(self._file, memory[at : at + end - start], start)
                at, start = at + done, start + done


def _joined(starts: np.ndarray, ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges, with those joined that follow each other without a gap."""
    if not len(starts):
        return
    first = np.flatnonzero(np.r_[True, starts[1:] != ends[:-1]])
    last = np.r_[first[1:] - 1, len(starts) - 1]
    yield from zip(starts[first].tolist(), ends[last].tolist(), strict=True)
