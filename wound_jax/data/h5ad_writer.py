"""h5ad files that are written block by block, under another name until they are whole."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import sparse_dataset, write_elem


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, `PATH.part`, that becomes `path` when all went well.

    Where something went wrong nothing stays, and what was at `path` before is still there.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


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


def write_rows(file: Any, blocks: Iterable[np.ndarray], *, sparse: bool, n_genes: int) -> None:
    """Writes X block by block.

    Args:
        file: from `new_h5ad`.
        blocks: float32 `[cells, genes]`, in the order of the cells.
        sparse: whether X becomes a CSR matrix.
        n_genes: columns of X.
    """
    if sparse:
        write_elem(file, "X", sp.csr_matrix((0, n_genes), dtype=np.float32))
        stored = sparse_dataset(file["X"])
        for block in blocks:
            stored.append(sp.csr_matrix(block))
        return
    rows = file.create_dataset("X", (0, n_genes), "f4", maxshape=(None, n_genes), chunks=True)
    rows.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    for block in blocks:
        start = len(rows)
        rows.resize(start + len(block), axis=0)
        rows[start:] = block
