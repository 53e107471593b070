"""Prepared cells: from a config to cells that can be trained on, or from a file to cells to score.

Order: open the source, read the labels, split, fit the spec on training cells, bring all cells to
it. A training store (`data.location: disk`) has been brought there already; the cells of another
file are brought to a trained model's genes and scale by name. Nothing below this module sees the
config as a whole.
"""

import dataclasses
from typing import Any, cast

import anndata as ad
import numpy as np
import pandas as pd

from wound_jax.config.rules import require_data_source
from wound_jax.config.schema import RunConfig
from wound_jax.data.annotations import Annotations, excluded, read_annotations, require_control
from wound_jax.data.cells import Cells, PreparedData, fingerprint, match_labels
from wound_jax.data.fit import fit_spec, origin_of, require_counts
from wound_jax.data.label_columns import refuse_other_spelling
from wound_jax.data.scalars import read_scalars
from wound_jax.data.settings import DataSettings, SplitSettings
from wound_jax.data.source import (
    describe_source,
    is_gene_matrix,
    matrix,
    open_source,
    read_parts,
    take_cells,
)
from wound_jax.data.spec import DataSpec
from wound_jax.data.splits import Split, make_split
from wound_jax.data.store.prepare import prepare_store
from wound_jax.data.stored_matrix import Matrix, n_columns
from wound_jax.data.timepoints import require_times
from wound_jax.data.velocity.contract import refuse_leak, run_velocity, velocity_keys
from wound_jax.devices.host_memory import as_aligned
from wound_jax.errors import UserError, named


def prepare(config: RunConfig, spec: DataSpec | None = None) -> PreparedData:
    """Reads, splits and preprocesses the cells of a run.

    Args:
        config: which cells, which columns, which split.
        spec: of a trained model, whose genes and vocabularies are then used; None fits them on the
            training cells.

    Raises:
        UserError: anything about the file, the columns, the split or the scale that does not fit.
    """
    require_data_source(config)
    data = config.data
    if data.location == "disk":
        return prepare_store(config, spec)
    optional = velocity_keys(data.input) if config.velocity.enable else ()
    adata, annotations = labelled_cells(open_source(data, _matrices(config), optional), data)
    require_control(annotations, data.control)
    split = make_split(annotations, data.control, config.split)
    fitted = spec is None
    if spec is None:
        spec = fit_spec(adata, annotations, split, config)
        require_counts(spec, config.prediction)
    if config.model.timepoint_embedding == "continuous":
        require_times(annotations.timepoint)
    # Fitting looked at the scale of all cells.
    trust = fitted or data.trusts_scale
    source = describe_source(data)
    cells = bring_cells(adata, annotations, spec, data.genes, source=source, trust=trust)
    if config.velocity.enable:
        velocity = run_velocity(adata, annotations, spec, config.velocity, config.seed)
        refuse_leak(adata, velocity, split)
        cells = dataclasses.replace(cells, velocity=velocity)
    digest = fingerprint(cells, spec.genes)
    return PreparedData(cells, split, spec, match_labels(data), digest)


def _matrices(config: RunConfig) -> set[str]:
    """The matrices a run reads: its input, and the genes that a decoder predicts."""
    decodes = config.model.decoder.enable and not is_gene_matrix(config.data.input)
    return {config.data.input, *([config.data.genes] if decodes else [])}


def labelled_cells(
    adata: ad.AnnData, data: DataSettings, *, strict: bool = True
) -> tuple[ad.AnnData, Annotations]:
    """The cells that `data.exclude` leaves, and their labels.

    Args:
        adata: all cells of a source.
        data: names the columns.
        strict: whether each value of the filter has to occur.
    """
    left_out = excluded(cast(pd.DataFrame, adata.obs), data.exclude, strict=strict)
    if left_out.any():
        adata = take_cells(adata, ~left_out)
    return adata, read_annotations(cast(pd.DataFrame, adata.obs), data)


def resplit(data: PreparedData, config: SplitSettings) -> PreparedData:
    """The same cells under another split; genes and vocabularies stay those of the first."""
    split = make_split(data.cells.annotations, data.spec.control, config)
    return dataclasses.replace(data, split=split)


def bring_cells(
    adata: ad.AnnData,
    annotations: Annotations,
    spec: DataSpec,
    genes: str,
    *,
    source: str,
    missing: str = "error",
    trust: bool = False,
) -> Cells:
    """Brings cells to a model's features and genes.

    Args:
        adata: the cells.
        annotations: their labels.
        spec: the model's genes, scale and vocabularies.
        genes: matrix key of the expression, for a model of an embedding with a gene decoder.
        source: what the cells are, in words.
        missing: "error", or "zero" to fill absent genes with zeros.
        trust: whether their scale is left unchecked.

    Raises:
        UserError: genes are missing, the scale is another, or an embedding has another width.
    """
    names, beside = list(adata.var_names), None

    def expression(key: str) -> np.ndarray:
        origin = origin_of(source, key, annotations, names)
        how = {"missing": missing, "origin": origin, "trust": trust}
        brought, _ = spec.preprocessing.apply(matrix(adata, key), names, **how)
        return brought

    if spec.gene_input:
        features = expression(spec.input)
    else:
        values = matrix(adata, spec.input)
        require_width(values, spec)
        if spec.genes:
            beside = expression(genes)
        features = embedding(values, f"{source}: {spec.input}", annotations.names)
    return Cells(
        annotations,
        features,
        spec.replicates.encode(annotations.replicate),
        genes=beside,
        scalars=read_scalars(cast(pd.DataFrame, adata.obs), spec.scalars),
    )


def require_width(values: Any, spec: DataSpec) -> None:
    """Checks that an embedding has as many dimensions as the model was trained on.

    Raises:
        UserError: it has another number of them.
    """
    if n_columns(values) != spec.input_width:
        raise UserError(
            f"{spec.input} has {n_columns(values)} dimensions, but the model was trained on "
            f"{spec.input_width}; compute the embedding with the same encoder."
        )


def embedding(values: Matrix, name: str, cells: np.ndarray) -> np.ndarray:
    """An embedding as float32 `[cells, dims]`.

    Args:
        values: as it was read.
        name: of the file and the matrix.
        cells: names of the cells.

    Raises:
        UserError: it holds values that are not finite.
    """
    dense = as_aligned(values if isinstance(values, np.ndarray) else values.toarray())
    finite = np.isfinite(dense)
    if not finite.all():
        cell, dim = np.argwhere(~finite)[0]
        raise UserError(
            f"{name} holds NaN or infinite values ({dense[cell, dim]} in cell "
            f"{str(cells[cell])!r}, dimension {dim}), expected numbers; recompute the embedding."
        )
    return dense


def read_external(
    path: str, config: DataSettings, spec: DataSpec, *, missing: str = "error"
) -> PreparedData:
    """The cells of a file as held-out cells of a trained model, but for those of `data.exclude`.

    Args:
        path: an h5ad file with the columns that the config names.
        config: names the columns and the matching.
        spec: the model's genes, vocabularies and preprocessing.
        missing: "error", or "zero" to fill absent genes with zeros.

    Raises:
        UserError: a column, the control label or a gene is missing, a condition is unknown to the
            model, or the scale is another.
    """
    decodes = spec.genes and not spec.gene_input
    whole = read_parts(path, {spec.input, *([config.genes] if decodes else [])})
    adata, annotations = labelled_cells(whole, config, strict=False)
    require_control(annotations, spec.control)
    require_spelling(annotations, spec)
    _require_known(set(annotations.condition), spec)
    trust = config.trusts_scale
    cells = bring_cells(
        adata, annotations, spec, config.genes, source=path, missing=missing, trust=trust
    )
    treated = annotations.condition != spec.control
    nobody = np.zeros(0, dtype=int)
    split = Split(
        kind="external",
        treated={"train": nobody, "val": nobody, "test": np.flatnonzero(treated)},
        controls={"train": nobody, "val": nobody, "test": np.flatnonzero(~treated)},
        leaky=False,
    )
    digest = fingerprint(cells, spec.genes)
    return PreparedData(cells, split, spec, match_labels(config), digest)


def require_spelling(annotations: Annotations, spec: DataSpec) -> None:
    """Refuses labels of another file that look like those of training and are spelt otherwise.

    Raises:
        UserError: a cell type, timepoint, replicate or condition of the file is one of them.
    """
    for role, known in (
        ("condition", spec.perturbations),
        ("cell_type", spec.cell_types),
        ("timepoint", spec.timepoints),
        ("replicate", spec.replicates),
    ):
        refuse_other_spelling(role, set(annotations.column(role)), set(known.names))


def _require_known(conditions: set[str], spec: DataSpec) -> None:
    unknown = sorted(conditions - set(spec.perturbations.names))
    if unknown:
        raise UserError(
            f"the file holds cells of condition {named(unknown)}, but the model was trained on "
            f"{named(spec.perturbations.names)} alone; leave the others out of the file."
        )
