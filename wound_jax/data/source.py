"""Where cells come from: an AnnData file, read in parts, the synthetic wound set, or your own.

Only the matrices a run asks for are read; sparse matrices stay sparse. `row_blocks` walks along a
matrix, in memory or in a file, without a second copy of it.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import read_elem

from wound_jax.data.settings import SOURCES, DataSettings, FileData, SyntheticData
from wound_jax.data.store.seal import is_sealed, require_unbroken
from wound_jax.data.stored_matrix import Matrix, read_matrix, rows_of, sound
from wound_jax.data.stored_table import read_table
from wound_jax.errors import UserError, unknown_name

# Entries of `uns` that say what a matrix means.
_NOTES = ("velocity_latent_basis", "velocity_estimate")
# The entry of `uns` by which a training store (`wound_jax.data.store.files`) is known.
STORE_RECORD = "wound_jax_store"
# Values of a block of rows, were they all stored.
_BLOCK_VALUES = 1 << 24
# Stored values up to which a matrix by columns is read whole, about 3 GB.
_MOST_BY_COLUMNS = 1 << 28
_NO_X = (
    "the AnnData has no X; name a layer instead (layers/NAME), or for data.input an embedding "
    "(obsm/KEY)."
)


def open_source(
    config: DataSettings, keys: Collection[str], optional: Collection[str] = ()
) -> ad.AnnData:
    """The cells a config names, with the named matrices.

    Args:
        config: the file, or the settings of the synthetic set.
        keys: matrices that are needed: "X", "layers/NAME" or "obsm/KEY".
        optional: matrices to read where they are there.

    Raises:
        UserError: the file is not there, is no AnnData file, lacks a named matrix, or one
            contradicts itself.
    """
    source = cast(Source, SOURCES.build(config))
    adata = source.open(keys, optional)
    # A file is read in parts; any other source may have more than was asked for.
    return adata if isinstance(config, FileData) else _only(adata, keys, optional, str(source))


def describe_source(config: DataSettings) -> str:
    """What the cells are, in words, for records and people."""
    return str(SOURCES.build(config))


register_source = SOURCES.register


@runtime_checkable
class Source(Protocol):
    """A source: a class of data settings, registered, that opens cells; its `str` describes it."""

    def open(self, keys: Collection[str], optional: Collection[str]) -> ad.AnnData:
        """The cells, with the named matrices at least.

        Args:
            keys: matrices that are needed: "X", "layers/NAME" or "obsm/KEY".
            optional: matrices of use where there are any.
        """
        ...


@register_source("file")
class File(FileData):
    """An AnnData file, of which only the named matrices are read."""

    def open(self, keys: Collection[str], optional: Collection[str]) -> ad.AnnData:
        """The cells of the file."""
        return read_parts(str(self.path), keys, optional)

    def __str__(self) -> str:
        return str(self.path)


@register_source("synthetic")
class Synthetic(SyntheticData):
    """The synthetic wound set, simulated in memory."""

    def open(self, keys: Collection[str], optional: Collection[str]) -> ad.AnnData:
        """The cells, with all their matrices."""
        from wound_jax.data.synthetic import simulate

        return simulate(self.synthetic).adata

    def __str__(self) -> str:
        return f"synthetic wound set, {self.synthetic.n_cells} cells (simulated)"


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
        UserError: there is no such file, it is no AnnData file, lacks a layer or an obsm key, or
            a matrix contradicts itself.
    """
    with open_h5ad(path) as file:
        if is_store(file):
            raise UserError(
                f"{path} is a training store, which holds cells in the scale of one model; to "
                "train from it, set data.location=disk; for anything else, give the file it was "
                "converted from."
            )
        for key in sorted(set(keys) - {"X"}):
            kind, _, name = key.partition("/")
            _require(kind, name, file.get(kind, {}))
        obs, var = read_table(file, "obs"), read_table(file, "var")
        wanted = [key for key in sorted({*keys, *optional}) if key in file]
        parts = {key: read_matrix(file, key, _shape(key, obs, var)) for key in wanted}
        adata = _assemble(parts, obs, var)
        adata.uns = {name: read_elem(file["uns"][name]) for name in _NOTES if _has(file, name)}
        return adata


def read_whole(path: str | Path) -> ad.AnnData:
    """All of an h5ad file, for a command that writes it again with something added.

    Raises:
        UserError: as of `read_parts`.
    """
    with open_h5ad(path) as file:
        obs, var = read_table(file, "obs"), read_table(file, "var")
        keys = ["X"] if "X" in file else []
        keys += [f"{kind}/{name}" for kind in ("layers", "obsm") for name in file.get(kind, {})]
        parts = {key: read_matrix(file, key, _shape(key, obs, var)) for key in keys}
        tables = [key for key in keys if file[key].attrs.get("encoding-type") == "dataframe"]
        parts |= {key: read_elem(file[key]) for key in tables}
        others = ("uns", "varm", "obsp", "varp", "raw")
        return _assemble(parts, obs, var, **{k: read_elem(file[k]) for k in others if k in file})


@contextmanager
def open_h5ad(path: str | Path) -> Iterator[Any]:
    """An h5ad file, open for reading.

    Raises:
        UserError: there is no such file, it was cut short or is torn, or it is no AnnData file.
        DamagedFile: it is a training store, and not what was written.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.h5ad")) if path.parent.is_dir() else []
        found = ", ".join(near) or "none"
        raise UserError(f"no file at {path}. h5ad files in that folder: {found}.")
    try:
        # Before HDF5 sees it: of a damaged file it may give anything.
        if is_sealed(path):
            require_unbroken(path)
        file: Any = h5py.File(path, "r")
    except OSError as e:
        if "truncated" in str(e):
            raise UserError(f"{path} was cut short; copy or write it again ({e}).") from e
        raise UserError(f"{path} is not an h5ad (HDF5) file: {e}") from e
    with file:
        try:
            if not {"obs", "var"} <= set(file):
                raise UserError(f"{path} holds no obs and var: it is not an AnnData file.")
            yield file
        except RuntimeError as e:
            # What HDF5 says where its own notes are torn; other errors are not of the file.
            if not str(e).startswith(("Unable to", "Can't")):
                raise
            raise UserError(f"{path} is damaged ({e}); copy or write it again.") from e


def is_store(file: Any) -> bool:
    """Whether an open h5ad file is a training store (`wound_jax.data.store.files`)."""
    return _has(file, STORE_RECORD)


def read_labels(file: Any) -> tuple[pd.DataFrame, list[str]]:
    """The labels of the cells of an open file, and the names of its genes."""
    obs, var = read_table(file, "obs"), read_table(file, "var")
    return obs, list(map(str, var.index))


@dataclass(frozen=True, eq=False)
class BackedCells:
    """Cells of an open file: labels in memory, one matrix left where it is.

    Attributes:
        obs: labels.
        genes: names of the variables.
        values: the matrix; slices of rows are CSR or plain arrays.
    """

    obs: pd.DataFrame
    genes: list[str]
    values: Any


def backed_cells(file: Any, key: str) -> BackedCells:
    """The cells of an open file with one matrix, which is read when it is sliced.

    A matrix stored by columns cannot be read by rows: where it is small it is read whole.

    Args:
        file: from `open_h5ad`.
        key: "X", "layers/NAME" or "obsm/KEY".

    Raises:
        UserError: there is no such matrix, it contradicts itself or the labels, or is large and
            stored by columns.
    """
    kind, _, name = key.partition("/")
    if kind != "X":
        _require(kind, name, file.get(kind, {}))
    elif "X" not in file:
        raise UserError(_NO_X)
    obs, genes = read_labels(file)
    return BackedCells(obs, genes, rows_of(file, key, _shape(key, obs, genes), _MOST_BY_COLUMNS))


def _shape(key: str, obs: Any, var: Any) -> tuple[int, int | None]:
    """Rows and columns that a matrix has to have; an embedding is as wide as it is."""
    return len(obs), len(var) if is_gene_matrix(key) else None


def row_blocks(values: Any) -> Iterator[tuple[slice, Matrix]]:
    """A matrix block by block, each of some 16 million values were they all stored.

    Args:
        values: `[cells, columns]`, in memory or in a file.

    Yields:
        Which rows, and the block.
    """
    n_rows, n_values = values.shape
    size = min(8_192, max(64, _BLOCK_VALUES // max(1, n_values)))
    for start in range(0, n_rows, size):
        rows = slice(start, min(start + size, n_rows))
        block = values[rows]
        yield rows, sp.csr_matrix(block) if sp.issparse(block) else np.asarray(block)


def take_cells(adata: ad.AnnData, keep: np.ndarray) -> ad.AnnData:
    """Some cells of an AnnData; each matrix is copied once (a view would be, at each look at it).

    Args:
        adata: the cells.
        keep: boolean `[cells]`.
    """
    keys = ["X"] if adata.X is not None else []
    keys += _named_keys(adata)
    parts = {key: matrix(adata, key)[keep] for key in keys}
    taken = _assemble(parts, adata.obs[keep], adata.var)
    taken.uns = adata.uns
    return taken


def _has(file: Any, note: str) -> bool:
    return "uns" in file and note in file["uns"]


def _only(
    adata: ad.AnnData, keys: Collection[str], optional: Collection[str], source: str
) -> ad.AnnData:
    """The named matrices of an AnnData, not copied, and nothing else that takes memory."""
    there = set(_named_keys(adata))
    parts = {
        key: sound(matrix(adata, key), f"{source}: {key}", _shape(key, adata.obs, adata.var))
        for key in sorted({*keys, *(there & set(optional))})
    }
    return _assemble(parts, adata.obs, adata.var)


def _assemble(parts: Mapping[str, Any], obs: Any, var: Any, **others: Any) -> ad.AnnData:
    named = {
        kind: {key.split("/", 1)[1]: m for key, m in parts.items() if key.startswith(f"{kind}/")}
        for kind in ("layers", "obsm")
    }
    layers, obsm = named["layers"], named["obsm"]
    return ad.AnnData(X=parts.get("X"), obs=obs, var=var, layers=layers, obsm=obsm, **others)


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
            raise UserError(_NO_X)
    else:
        _require(kind, name, layer_names(adata) if kind == "layers" else adata.obsm)
        found = (adata.layers if kind == "layers" else adata.obsm)[name]
    return sp.csr_matrix(found) if sp.issparse(found) else np.asarray(found)


def layer_names(adata: ad.AnnData) -> list[str]:
    """Names of the layers, without X, which anndata from 0.13 lists among them as `None`."""
    return [name for name in adata.layers if name is not None]


def _named_keys(adata: ad.AnnData) -> list[str]:
    """Keys of all matrices but X."""
    layers = [f"layers/{name}" for name in layer_names(adata)]
    return layers + [f"obsm/{name}" for name in adata.obsm]


def _require(kind: str, name: str, present: Collection[str]) -> None:
    if name not in present:
        raise unknown_name(f"AnnData {kind} key", name, present)


def is_gene_matrix(key: str) -> bool:
    """Whether a matrix key names expression of genes rather than an embedding."""
    return not key.startswith("obsm/")
