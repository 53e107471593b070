"""h5ad files written block by block."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

# Values of a chunk. HDF5 keeps note of every chunk in memory, so that small ones cost more of it
# than the values themselves.
_CHUNK = 1 << 18


@contextmanager
def new_h5ad(
    path: Path, obs: pd.DataFrame, genes: Iterable[str], notes: dict[str, Any]
) -> Iterator[Any]:
    """A new h5ad file without X, open for writing it.

    Args:
        path: the file.
        obs: labels of the cells.
        genes: names of the variables.
        notes: what `uns` holds.
    """
    var = pd.DataFrame(index=pd.Index(list(genes)))
    ad.AnnData(obs=obs, var=var, uns=notes).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        if "X" in file:
            del file["X"]
        yield file


def write_dense(file: Any, blocks: Iterable[np.ndarray], shape: tuple[int, int]) -> None:
    """Writes X as a dense matrix, block by block.

    Args:
        file: from `new_h5ad`.
        blocks: float32 `[cells, genes]`, in the order of the cells.
        shape: of X.
    """
    x = file.create_dataset("X", shape, "<f4")
    x.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    row = 0
    for block in blocks:
        x[row : row + len(block)] = block
        row += len(block)


def write_csr(
    file: Any,
    blocks: Iterable[Any],
    shape: tuple[int, int],
    *,
    n_values: int | None = None,
    compression: str | None = None,
) -> None:
    """Writes X as a CSR matrix, block by block; the arguments are those of `write_dense`.

    Args:
        file: from `new_h5ad`.
        blocks: float32 `[cells, genes]`, dense or CSR.
        shape: of X.
        n_values: how many values are stored in all; given, they lie in one piece, neither cut
            into chunks nor compressed.
        compression: of h5py, such as "gzip".

    Raises:
        RuntimeError: the blocks hold other numbers of cells or values than was said.
    """
    x, indptr = file.create_group("X"), [np.zeros(1, np.int64)]
    x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    x.attrs["shape"] = np.array(shape, np.int64)
    growing: dict[str, Any] = {"maxshape": (None,), "chunks": (_CHUNK,), "compression": compression}
    options = growing if n_values is None else {}
    kinds = {"data": "<f4", "indices": "<i4"}
    arrays = {
        name: x.create_dataset(name, (n_values or 0,), kinds[name], **options) for name in kinds
    }
    end = 0
    for block in map(sp.csr_matrix, blocks):
        start, end = end, end + block.nnz
        _require_same(n_values is None or end <= n_values)
        for name, array in arrays.items():
            if n_values is None:
                array.resize(end, axis=0)
            array[start:end] = getattr(block, name)
        indptr.append(start + block.indptr[1:].astype(np.int64))
    x.create_dataset("indptr", data=np.concatenate(indptr))
    _require_same(n_values in (None, end) and len(x["indptr"]) == shape[0] + 1)


def _require_same(same: bool) -> None:
    if not same:
        raise RuntimeError("the cells changed while they were written; write them again")
