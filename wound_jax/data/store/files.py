"""Training store: cells in a model's genes and scale, laid out so that rows are read fast.

An h5ad file like others, whose X is CSR with its values and columns each in one piece, neither
cut into chunks nor compressed: row i is bytes `4 indptr[i]` to `4 indptr[i+1]` of both. `uns` says
what the cells were brought to, and on which training cells the genes were chosen. A seal behind
the file (`wound_jax.data.store.seal`) tells a damaged store from a whole one whenever it is opened.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata.io import read_elem, write_elem

from wound_jax.data.annotations import Annotations
from wound_jax.data.cells import CellDigest
from wound_jax.data.preprocess import Preprocessing
from wound_jax.data.scale_kinds import TotalRange
from wound_jax.data.settings import DataSettings
from wound_jax.data.source import STORE_RECORD, is_store, open_h5ad, read_labels
from wound_jax.data.splits import Split
from wound_jax.data.store.rows import SparseRows
from wound_jax.data.store.seal import AGAIN, CONVERT, is_sealed
from wound_jax.errors import UserError
from wound_jax.files import DamagedFile

_VERSION = 2


@dataclass(frozen=True)
class StoreRecord:
    """What a store holds.

    Attributes:
        source: the file it was converted from.
        input: its matrix there.
        preprocess: "none" or "log1p_cp10k", done already.
        n_hvg: how many variable genes were kept; None where all were.
        exclude: the cells that were left out (`data.exclude`).
        scale: whether the scale of the cells was checked ("check" or "trust").
        normalisation_genes: the genes whose sum was a cell's total.
        totals: the range of what log values sum up to over them.
        chosen_on: digest of the training cells that the variable genes were chosen on; None where
            all genes were kept.
        non_negative: whether no value of any cell is negative.
        labels: digest of the labels, by the columns that were named then.
        fingerprint: of the cells, as in memory (`wound_jax.data.cells.fingerprint`).
        version: of the layout.
    """

    source: str
    input: str
    preprocess: str
    n_hvg: int | None
    exclude: dict[str, list[str]]
    scale: str
    normalisation_genes: tuple[str, ...]
    totals: TotalRange | None
    chosen_on: str | None
    non_negative: bool
    labels: str
    fingerprint: str
    version: int = _VERSION

    def problems(self, data: DataSettings) -> list[str]:
        """What a config asks for that the store does not hold, one line each."""
        asked = {"input": data.input, "preprocess": data.preprocess, "n_hvg": data.n_hvg}
        asked |= {"scale": data.scale, "exclude": plain_exclude(data)}
        return [
            f"data.{key}={value} is asked for, the store was converted with {getattr(self, key)}"
            for key, value in asked.items()
            if getattr(self, key) != value
        ]


@dataclass(frozen=True, eq=False)
class Store:
    """An opened store.

    Attributes:
        path: the file.
        record: what it holds.
        obs: labels of the cells.
        genes: names of the columns.
        rows: the cells, on disk.
    """

    path: Path
    record: StoreRecord
    obs: pd.DataFrame
    genes: tuple[str, ...]
    rows: SparseRows

    @property
    def preprocessing(self) -> Preprocessing:
        """How the cells were brought to the model's genes and scale."""
        record = self.record
        genes = self.genes
        return Preprocessing(record.preprocess, genes, record.normalisation_genes, record.totals)


def plain_exclude(data: DataSettings) -> dict[str, list[str]]:
    """`data.exclude` as it is written down."""
    return {column: sorted(values) for column, values in sorted(data.exclude.items())}


def training_digest(split: Split) -> str:
    """A digest of which cells train."""
    positions = np.ascontiguousarray(split.training_cells, dtype="<i8")
    return hashlib.blake2b(positions.data, digest_size=16).hexdigest()


def labels_digest(annotations: Annotations) -> str:
    """A digest of the labels of all cells."""
    return CellDigest(annotations).hexdigest()


def open_store(path: str | Path) -> Store:
    """Opens a store: its labels are read, its cells stay on disk.

    Raises:
        UserError: there is no such file, it is no store, or of another layout.
        DamagedFile: it is not what was written.
    """
    with open_h5ad(path) as file:
        return store_of(file)


def store_of(file: Any) -> Store:
    """The store in an open file (from `open_h5ad`, which compares it with its seal).

    Raises:
        UserError: it is no store, or of another layout.
        DamagedFile: it is not what was written.
    """
    path = Path(file.filename)
    if not is_store(file):
        raise UserError(
            f"{path} is no training store, and data.location=disk reads only those; convert "
            f"it once: {CONVERT}."
        )
    values = _recorded(file)
    if values.get("version", _VERSION) != _VERSION:
        raise UserError(
            f"{path} has layout {values.get('version')} of a training store, expected "
            f"{_VERSION}; convert the cells anew: {CONVERT}."
        )
    if not is_sealed(path):
        raise DamagedFile(
            f"{path} was a training store, but another program wrote it anew or its end was cut "
            f"off; {AGAIN}"
        )
    values["normalisation_genes"] = tuple(values["normalisation_genes"])
    totals = values["totals"]
    values["totals"] = None if totals is None else TotalRange(**totals)
    obs, genes = read_labels(file)
    return Store(path, StoreRecord(**values), obs, tuple(genes), _open_rows(path, file["X"]))


def _recorded(file: Any) -> dict[str, Any]:
    """What a store says of itself; nothing where that cannot be read, as of one without its end."""
    try:
        values = json.loads(str(read_elem(file["uns"][STORE_RECORD])))
    except (ValueError, KeyError, OSError):
        return {}
    return values if isinstance(values, dict) else {}


def _open_rows(path: Path, x: Any) -> SparseRows:
    data, indices, indptr = x["data"], x["indices"], x["indptr"][:].astype(np.int64)
    # Without a single value nothing has a place.
    at = [part.id.get_offset() or 0 for part in (data, indices)]
    return SparseRows(path, indptr, int(x.attrs["shape"][1]), *at)


def write_record(file: Any, record: StoreRecord) -> None:
    """Makes an h5ad file a store; written last, so that only a whole one is ever taken for one."""
    write_elem(file["uns"], STORE_RECORD, json.dumps(dataclasses.asdict(record)))
