"""Where cells come from: an AnnData file, read in parts, or the synthetic wound set.

Only the matrices a run asks for are read; sparse matrices stay sparse.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import anndata as ad
import h5py
import numpy as np
import scipy.sparse as sp
from anndata.io import read_elem

from wound_jax.config.schema import DataConfig
from wound_jax.errors import UserError, unknown_name

Matrix = np.ndarray | sp.csr_matrix

# Entries of `uns` that say what a matrix means.
_NOTES = ("velocity_latent_basis", "velocity_estimate")


def open_source(
    config: DataConfig, keys: Collection[str], optional: Collection[str] = ()
) -> ad.AnnData:
    """The cells a config names, with the named matrices.

    Args:
        config: the file, or the settings of the synthetic set.
        keys: matrices that are needed: "X", "layers/NAME" or "obsm/KEY".
        optional: matrices to read where they are there.

    Raises:
        UserError: the file is not there, is no AnnData file, or lacks a named matrix.
    """
    if config.source == "synthetic":
        from wound_jax.data.synthetic import simulate

        return _only(simulate(config.synthetic).adata, keys, optional)
    return read_parts(str(config.path), keys, optional)


def describe_source(config: DataConfig) -> str:
    """What the cells are, in words, for records and people."""
    if config.source == "synthetic":
        return f"synthetic wound set, {config.synthetic.n_cells} cells (simulated)"
    return str(config.path)


def read_parts(
    path: str | Path, keys: Collection[str], optional: Collection[str] = ()
) -> ad.AnnData:
    """Reads `obs`, `var` and the named matrices of an h5ad file.

    Args:
        path: the file.
        keys: matrices to read: "X", "layers/NAME" or "obsm/KEY". X may be absent; `matrix`
            refuses that where X is needed.
        optional: matrices to read where they are there.

    Raises:
        UserError: there is no such file, it is no AnnData file, or lacks a layer or an obsm key.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.h5ad")) if path.parent.is_dir() else []
        found = ", ".join(near) or "none"
        raise UserError(f"no file at {path}. h5ad files in that folder: {found}.")
    try:
        file: Any = h5py.File(path, "r")
    except OSError as e:
        raise UserError(f"{path} is not an h5ad (HDF5) file: {e}") from e
    with file:
        if not {"obs", "var"} <= set(file):
            raise UserError(f"{path} holds no obs and var: it is not an AnnData file.")
        for key in sorted(set(keys) - {"X"}):
            kind, _, name = key.partition("/")
            _require(kind, name, file.get(kind, {}))
        wanted = sorted({*keys, *optional})
        parts = {key: read_elem(file[key]) for key in wanted if key in file}
        adata = _assemble(parts, read_elem(file["obs"]), read_elem(file["var"]))
        adata.uns = {name: read_elem(file["uns"][name]) for name in _NOTES if _has(file, name)}
        return adata


def take_cells(adata: ad.AnnData, keep: np.ndarray) -> ad.AnnData:
    """Some cells of an AnnData; each matrix is copied once (a view would be, at each look at it).

    Args:
        adata: the cells.
        keep: boolean `[cells]`.
    """
    keys = ["X"] if adata.X is not None else []
    keys += [f"layers/{name}" for name in adata.layers] + [f"obsm/{name}" for name in adata.obsm]
    parts = {key: matrix(adata, key)[keep] for key in keys}
    taken = _assemble(parts, adata.obs[keep], adata.var)
    taken.uns = adata.uns
    return taken


def _has(file: Any, note: str) -> bool:
    return "uns" in file and note in file["uns"]


def _only(adata: ad.AnnData, keys: Collection[str], optional: Collection[str]) -> ad.AnnData:
    """The named matrices of an AnnData, not copied, and nothing else that takes memory."""
    there = {f"layers/{name}" for name in adata.layers} | {f"obsm/{name}" for name in adata.obsm}
    parts = {key: matrix(adata, key) for key in sorted({*keys, *(there & set(optional))})}
    return _assemble(parts, adata.obs, adata.var)


def _assemble(parts: Mapping[str, Any], obs: Any, var: Any) -> ad.AnnData:
    named = {
        kind: {key.split("/", 1)[1]: m for key, m in parts.items() if key.startswith(f"{kind}/")}
        for kind in ("layers", "obsm")
    }
    layers, obsm = named["layers"], named["obsm"]
    return ad.AnnData(X=parts.get("X"), obs=obs, var=var, layers=layers, obsm=obsm)


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
            raise UserError(
                "the AnnData has no X; name a layer instead (layers/NAME), or for data.input an "
                "embedding (obsm/KEY)."
            )
    else:
        holder = adata.layers if kind == "layers" else adata.obsm
        _require(kind, name, holder)
        found = holder[name]
    return sp.csr_matrix(found) if sp.issparse(found) else np.asarray(found)


def _require(kind: str, name: str, present: Collection[str]) -> None:
    if name not in present:
        raise unknown_name(f"AnnData {kind} key", name, present)


def n_columns(values: Matrix) -> int:
    """Number of columns (scipy leaves open whether a matrix has a shape)."""
    return cast(tuple[int, int], values.shape)[1]


def is_gene_matrix(key: str) -> bool:
    """Whether a matrix key names expression of genes rather than an embedding."""
    return not key.startswith("obsm/")
