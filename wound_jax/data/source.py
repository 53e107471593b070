"""Where cells come from: an AnnData file, read in parts, or the synthetic wound set.

Only the matrices a run asks for are read; sparse matrices stay sparse.
"""

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import scipy.sparse as sp
from anndata.io import read_elem

from wound_jax.config.schema import DataConfig
from wound_jax.errors import UserError, unknown_name

Matrix = np.ndarray | sp.csr_matrix


def open_source(config: DataConfig) -> ad.AnnData:
    """The cells a config names, with just the matrices it needs.

    Raises:
        UserError: the file is not there or is no AnnData file.
    """
    if config.source == "synthetic":
        from wound_jax.data.synthetic import simulate

        return simulate(config.synthetic).adata
    return read_parts(str(config.path), {config.input, config.genes})


def describe_source(config: DataConfig) -> str:
    """What the cells are, in words, for records and people."""
    if config.source == "synthetic":
        return f"synthetic wound set, {config.synthetic.n_cells} cells (simulated)"
    return str(config.path)


def read_parts(path: str | Path, keys: set[str]) -> ad.AnnData:
    """Reads `obs`, `var` and the named matrices of an h5ad file.

    Args:
        path: the file.
        keys: matrices to read: "X", "layers/NAME" or "obsm/KEY". One that the file lacks is left
            out here and refused by `matrix`, if it is needed.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.h5ad")) if path.parent.is_dir() else []
        raise UserError(f"no file at {path}. h5ad files in that folder: {', '.join(near) or 'none'}.")
    try:
        file = h5py.File(path, "r")
    except OSError as e:
        raise UserError(f"{path} is not an h5ad (HDF5) file: {e}") from e
    with file:
        if not {"obs", "var"} <= set(file):
            raise UserError(f"{path} holds no obs and var: it is not an AnnData file.")
        parts = {key: read_elem(file[key]) for key in sorted(keys) if key in file}
        return ad.AnnData(
            X=parts.get("X"),
            obs=read_elem(file["obs"]),
            var=read_elem(file["var"]),
            layers=_named(parts, "layers"),
            obsm=_named(parts, "obsm"),
        )


def _named(parts: dict[str, Matrix], kind: str) -> dict[str, Matrix]:
    return {key.split("/", 1)[1]: m for key, m in parts.items() if key.startswith(kind + "/")}


def matrix(adata: ad.AnnData, key: str) -> Matrix:
    """One matrix of an AnnData: CSR if it is sparse there, else a plain array.

    Args:
        adata: the cells.
        key: "X", "layers/NAME" or "obsm/KEY".

    Raises:
        UserError: there is no such matrix.
    """
    kind, _, name = key.partition("/")
    if kind == "X":
        found = adata.X
        if found is None:
            raise UserError("the AnnData has no X; set data.input to a layer or an obsm key.")
    else:
        holder = adata.layers if kind == "layers" else adata.obsm
        if name not in holder:
            raise unknown_name(f"AnnData {kind} key", name, holder.keys())
        found = holder[name]
    return sp.csr_matrix(found) if sp.issparse(found) else np.asarray(found)


def is_gene_matrix(key: str) -> bool:
    """Whether a matrix key names expression of genes rather than an embedding."""
    return not key.startswith("obsm/")
