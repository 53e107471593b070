"""Conversion of an h5ad file of any size to a training store, in two passes over blocks of rows.

The first looks at the scale of all cells, counts the values of each gene and fits the
preprocessing on the training cells; the second brings the cells to it and writes them. Both need
the memory of a few blocks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
from tqdm import tqdm

from wound_jax.config.schema import RunConfig
from wound_jax.data.annotations import Annotations, excluded, read_annotations, require_control
from wound_jax.data.cells import CellDigest
from wound_jax.data.fit import origin_of, training_labels
from wound_jax.data.h5ad_writer import new_h5ad, write_csr
from wound_jax.data.preprocess import Preprocessing, PreprocessingFit
from wound_jax.data.settings import file_path
from wound_jax.data.source import BackedCells, backed_cells, is_store, open_h5ad, row_blocks
from wound_jax.data.splits import Split, make_split
from wound_jax.data.store.files import (
    Store,
    StoreRecord,
    labels_digest,
    open_store,
    plain_exclude,
    training_digest,
    write_record,
)
from wound_jax.data.store.seal import seal
from wound_jax.data.stored_matrix import Matrix, n_rows
from wound_jax.errors import UserError
from wound_jax.files import replacing


def convert(config: RunConfig, output: Path, *, progress: bool = True) -> Store:
    """Writes the cells of a config as a training store.

    Args:
        config: the file, its columns, the split that variable genes are chosen under, the
            preprocessing.
        output: the store to write.
        progress: whether to draw a bar.

    Raises:
        UserError: anything about the file, the columns, the split or the scale that does not fit.
    """
    path = file_path(config.data)
    with open_h5ad(path) as file:
        if is_store(file):
            raise UserError(f"{path} is a training store already; give the file it came from.")
        source = backed_cells(file, config.data.input)
        _Conversion(config, source, progress).write(output)
    return open_store(output)


class _Conversion:
    """One file on its way.

    Args:
        config: of the conversion.
        source: the cells.
        progress: whether to draw a bar.
    """

    def __init__(self, config: RunConfig, source: BackedCells, progress: bool):
        self._config = config
        self._source = source
        self._progress = progress
        data = config.data
        self._kept = ~excluded(source.obs, data.exclude)
        kept = np.flatnonzero(self._kept)
        self._obs = source.obs if self._kept.all() else source.obs.iloc[kept]
        self._labels: Annotations = read_annotations(self._obs, data)
        require_control(self._labels, data.control)
        self._split: Split = make_split(self._labels, data.control, config.split)
        # Vocabularies are not stored, but what is wrong with them is found before the long part.
        training_labels(self._labels, self._split, data)

    def write(self, output: Path) -> None:
        """Both passes."""
        preprocessing, values_of, lowest = self._look()
        genes = preprocessing.genes
        digest = CellDigest(self._labels, genes)
        n_values = int(values_of[np.isin(self._source.genes, genes)].sum())
        shape = len(self._obs), len(genes)
        with replacing(output) as part:
            with new_h5ad(part, self._obs, genes, {}) as file:
                write_csr(file, self._brought(preprocessing, digest), shape, n_values=n_values)
                write_record(file, self._record(preprocessing, digest.hexdigest(), lowest))
            seal(part)

    def _brought(self, preprocessing: Preprocessing, digest: CellDigest) -> Iterator[Matrix]:
        """The cells as they are stored, which the digest takes up on their way."""
        for _, block in self._blocks("writing"):
            cells = preprocessing.transform_csr(block, self._source.genes)
            digest.add(cells.toarray())
            yield cells

    def _look(self) -> tuple[Preprocessing, np.ndarray, float]:
        """The preprocessing, the number of values of each gene, and the lowest value of all."""
        data, names = self._config.data, self._source.genes
        fit = PreprocessingFit(
            names,
            data.preprocess,
            data.n_hvg,
            origin=origin_of(file_path(data), data.input, self._labels, names),
            trust=data.trusts_scale,
        )
        trains = np.zeros(len(self._labels), dtype=bool)
        trains[self._split.training_cells] = True
        values_of, lowest = np.zeros(len(names), dtype=np.int64), 0.0
        for cells, block in self._blocks("reading"):
            fit.add(block, trains[cells])
            values_of += _values_of(block)
            lowest = min(lowest, float(block.min()))
        return fit.result(), values_of, lowest

    def _blocks(self, doing: str) -> Iterator[tuple[slice, Matrix]]:
        """The cells that are kept, block by block, and which of them these are."""
        at, total = 0, len(self._kept)
        with tqdm(total=total, desc=doing, unit="cell", disable=not self._progress) as bar:
            for rows, block in row_blocks(self._source.values):
                kept = self._kept[rows]
                if kept.any():
                    block = block if kept.all() else block[kept]
                    yield slice(at, at + n_rows(block)), block
                    at += n_rows(block)
                bar.update(len(kept))

    def _record(self, preprocessing: Preprocessing, digest: str, lowest: float) -> StoreRecord:
        data = self._config.data
        return StoreRecord(
            source=file_path(data),
            input=data.input,
            preprocess=data.preprocess,
            n_hvg=data.n_hvg,
            exclude=plain_exclude(data),
            scale=data.scale,
            normalisation_genes=preprocessing.normalisation_genes,
            totals=preprocessing.totals,
            chosen_on=None if data.n_hvg is None else training_digest(self._split),
            non_negative=lowest >= 0.0,
            labels=labels_digest(self._labels),
            fingerprint=digest,
        )


def _values_of(block: Matrix) -> np.ndarray:
    """How many cells have a value of each gene."""
    if isinstance(block, np.ndarray):
        return np.count_nonzero(block.astype(np.float32, copy=False), axis=0)
    if not block.has_canonical_format:
        block.sum_duplicates()
    stored = block.indices[block.data.astype(np.float32, copy=False) != 0]
    return np.bincount(stored, minlength=cast(tuple[int, int], block.shape)[1])
