"""Cells of a file as a trained model sees them, brought there block by block.

What is small stays in memory; what is not goes to a scratch file without a name, which is gone
with the process.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wound_jax.data.prepare import embedding, require_width
from wound_jax.data.scale import Origin
from wound_jax.data.source import BackedCells, Matrix, backed_cells, row_blocks
from wound_jax.data.spec import DataSpec
from wound_jax.data.store.files import store_of
from wound_jax.data.store.rows import Rows, ScratchRows, Table, TakenRows
from wound_jax.errors import UserError

# Bytes of a table that is held in memory, at most.
IN_MEMORY = 1 << 29


@dataclass(frozen=True)
class Scratch:
    """Where large tables go.

    Attributes:
        folder: on a disk with room for them.
        progress: whether to draw bars.
    """

    folder: Path
    progress: bool = False

    def table(self, n_rows: int, n_columns: int) -> Table:
        """A new float32 table, in memory or on disk.

        Raises:
            UserError: there is no room for it.
        """
        size = 4 * n_rows * n_columns
        if size <= IN_MEMORY:
            return np.empty((n_rows, n_columns), np.float32)
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise UserError(
                f"{size / 1e9:.1f} GB are needed in {self.folder} for {n_rows} cells while they "
                f"are predicted, and {free / 1e9:.1f} GB are free; make room, or write to another "
                "disk."
            )
        return ScratchRows(self.folder / ".wound_jax-scratch", (n_rows, n_columns))


def features_of(
    file: Any,
    spec: DataSpec,
    cells: np.ndarray,
    scratch: Scratch,
    *,
    missing: str = "error",
    trust: bool = False,
) -> Rows:
    """Some cells of an open file in a model's features.

    Args:
        file: from `wound_jax.data.source.open_h5ad`.
        spec: the model's genes and scale.
        cells: their positions in the file, ascending.
        scratch: where they go.
        missing: "error", or "zero" to fill absent genes with zeros.
        trust: whether the scale of expression is left unchecked (`data.scale`).

    Returns:
        float32 `[cells, features]`.

    Raises:
        UserError: genes are missing, the scale is another, or an embedding has another width.
    """
    if spec.gene_input:
        return expression_of(file, spec, spec.input, cells, scratch, missing=missing, trust=trust)
    source = backed_cells(file, spec.input)
    require_width(source.values, spec)
    name, names = f"{file.filename}: {spec.input}", _names(source, cells)
    rows = scratch.table(len(cells), spec.input_width)

    def bring(block: Matrix, first: int) -> np.ndarray:
        return embedding(block, name, names[first:])

    return _fill(rows, source.values, cells, bring, scratch)


def expression_of(
    file: Any,
    spec: DataSpec,
    key: str,
    cells: np.ndarray,
    scratch: Scratch,
    *,
    missing: str = "error",
    trust: bool = False,
) -> Rows:
    """Some cells of an open file in a model's genes; arguments and errors as of `features_of`.

    Args:
        key: the matrix of expression.
    """
    source = backed_cells(file, key)
    origin = Origin(f"{file.filename}: {key}", _names(source, cells), source.genes)
    scale = spec.preprocessing.scale_check(source.genes, origin, trust=trust)

    def bring(block: Matrix, _: int) -> np.ndarray:
        scale.add(block)
        return spec.preprocessing.transform(block, source.genes, missing=missing)[0]

    rows = scratch.table(len(cells), len(spec.genes))
    _fill(rows, source.values, cells, bring, scratch)
    scale.require()
    return rows


def features_of_store(file: Any, spec: DataSpec, cells: np.ndarray) -> Rows:
    """Some cells of a training store, which stay where they are.

    Args:
        file: from `wound_jax.data.source.open_h5ad`.
        spec: the model's genes and scale.
        cells: their positions in the file, ascending.

    Raises:
        UserError: the store was converted for another model.
    """
    store = store_of(file)
    if not spec.gene_input or store.preprocessing != spec.preprocessing:
        raise UserError(
            f"{store.path} is a training store of {len(store.genes)} genes "
            f"({store.record.preprocess}), and this model reads {spec.input_width} columns of "
            f"{spec.input} brought to a scale of its own; give the file the store was converted "
            f"from ({store.record.source})."
        )
    return TakenRows(store.rows, cells)


def _names(source: BackedCells, cells: np.ndarray) -> np.ndarray:
    """The names of some cells."""
    return source.obs.index.to_numpy()[cells]


def _fill(
    rows: Table,
    values: Any,
    cells: np.ndarray,
    bring: Callable[[Matrix, int], np.ndarray],
    scratch: Scratch,
) -> Rows:
    """Brings the cells to the model and writes them to the table.

    Args:
        bring: of some cells, and how many came before them.
    """
    with tqdm(total=len(cells), desc="reading", unit="cell", disable=not scratch.progress) as bar:
        for part, block in row_blocks(values):
            first, last = np.searchsorted(cells, (part.start, part.stop))
            if first < last:
                rows[first:last] = bring(block[cells[first:last] - part.start], first)
                bar.update(int(last - first))
    return rows
