"""`python scripts/benchmark_store.py --store store.h5ad`: rows of a training store, and by others.

Batches of training (16 sets of 128 controls and 128 treated cells, anywhere in the file) are read
by each reader in turns, from the system's cache and with the files put out of it; the ratios are
those of one round's seconds to the store's own, and their median is shown. anndata's readers get
the same values: as the store's own file, and as zarr in pieces of 65,536 values, uncompressed
(its default pieces, shards and compression were slower).
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import scipy.sparse as sp
import zarr
from anndata.io import read_elem, sparse_dataset, write_elem

from wound_jax.data.store.files import open_store

BATCH = (2, 16, 128)


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the readers of a training store.")
    parser.add_argument("--store", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    path: Path = arguments.store
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, h5py.File(path) as file:
        compare(readers(path, file, Path(folder)), arguments.rounds)
    return 0


def readers(path: Path, file: Any, folder: Path) -> dict[str, tuple[Any, list[Path]]]:
    """Each reader, taking positions in ascending order, and the files it reads."""
    store = open_store(path).rows
    ad.settings.zarr_write_format = 3
    group: Any = zarr.open_group(str(folder / "rows.zarr"), mode="w")
    pieces: dict[str, Any] = {"chunks": (1 << 16,), "compressors": None}
    write_elem(group, "X", read_elem(file["X"]), dataset_kwargs=pieces)
    zarr_files = [part for part in folder.rglob("*") if part.is_file()]
    return {
        "store": (store, [path]),
        "scipy, memory map": (Mapped(path, file["X"]), [path]),
        "anndata, same file": (sparse_dataset(file["X"]), [path]),
        "anndata, zarr": (sparse_dataset(group["X"]), zarr_files),
    }


class Mapped:
    """The rows of a store as scipy reads them through a memory map, made anew for each batch.

    A page that stays mapped is memory of the process, and cannot be put out of the cache.
    """

    def __init__(self, path: Path, x: Any):
        parts = [
            (part.dtype, part.id.get_offset(), part.shape) for part in (x["data"], x["indices"])
        ]
        self._path, self._parts = path, parts
        self._indptr, self._shape = x["indptr"][:].astype(np.int32), tuple(x.attrs["shape"])

    def __getitem__(self, positions: np.ndarray) -> sp.csr_matrix:
        rows = sp.csr_matrix(self._shape, dtype=np.float32)
        rows.data, rows.indices = (
            np.memmap(self._path, kind, "r", at, shape) for kind, at, shape in self._parts
        )
        rows.indptr = self._indptr
        return rows[positions]


def compare(found: dict[str, tuple[Any, list[Path]]], rounds: int) -> None:
    rng, n_rows = np.random.default_rng(0), found["store"][0].shape[0]
    for state in ("cached", "not cached"):
        seconds = np.empty((rounds, len(found)))
        for row in seconds:
            positions = np.unique(rng.integers(0, n_rows, BATCH))
            for column, (rows, files) in enumerate(found.values()):
                if state == "cached":
                    rows[positions]
                else:
                    forget(files)
                start = time.perf_counter()
                dense = rows[positions]
                dense = dense.toarray() if sp.issparse(dense) else dense
                row[column] = time.perf_counter() - start
                if not column:
                    expected = dense
                np.testing.assert_array_equal(dense, expected)
        ratios = np.median(seconds / seconds[:, :1], axis=0)
        for name, ratio, median in zip(found, ratios, np.median(seconds, axis=0), strict=True):
            print(f"{state:10}  {name:20}  {1e3 * median:7.0f} ms  {ratio:6.2f} x", flush=True)


def forget(files: list[Path]) -> None:
    """Puts files out of the system's cache."""
    for path in files:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


if __name__ == "__main__":
    sys.exit(main())
