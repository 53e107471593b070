"""What a model must remember of its data, fitted on the training cells."""

from collections.abc import Sequence
from typing import cast

import anndata as ad
import numpy as np
import pandas as pd

from wound_jax.config.schema import RunConfig
from wound_jax.data.annotations import Annotations
from wound_jax.data.cells import match_labels
from wound_jax.data.groups import control_pairs, make_groups, require_controls
from wound_jax.data.preprocess import NO_GENES, fit_preprocessing
from wound_jax.data.scalars import fit_scalars
from wound_jax.data.scale import Origin
from wound_jax.data.settings import DataSettings
from wound_jax.data.source import describe_source, is_gene_matrix, matrix
from wound_jax.data.spec import DataSpec, Vocabulary, vocabularies
from wound_jax.data.splits import Split
from wound_jax.data.store.rows import DiskRows
from wound_jax.data.stored_matrix import Matrix, n_columns
from wound_jax.errors import UserError, named
from wound_jax.prediction.settings import PredictionSettings

# Cells looked at together, where only a summary of many is wanted.
_BLOCK = 4_096


def fit_spec(
    adata: ad.AnnData, annotations: Annotations, split: Split, config: RunConfig
) -> DataSpec:
    """What a model must remember of its data, fitted on the training cells.

    Raises:
        UserError: training cells have no controls, a held-out condition is not among them, or the
            expression does not fit its settings.
    """
    data = config.data
    labels = training_labels(annotations, split, data)
    gene_input = is_gene_matrix(data.input)
    values = matrix(adata, data.input)
    preprocessing = NO_GENES
    if gene_input or config.model.decoder.enable:
        key = data.input if gene_input else data.genes
        preprocessing = fit_preprocessing(
            values if gene_input else matrix(adata, key),
            list(adata.var_names),
            split.training_cells,
            data.preprocess,
            data.n_hvg,
            origin=origin_of(describe_source(data), key, annotations, list(adata.var_names)),
            trust=data.trusts_scale,
        )
    scalars = config.model.scalars
    return DataSpec(
        input=data.input,
        gene_input=gene_input,
        input_width=len(preprocessing.genes) if gene_input else n_columns(values),
        preprocessing=preprocessing,
        control=data.control,
        # log1p of counts keeps the sign, so the raw matrix answers for both scales.
        non_negative=gene_input and non_negative(values, split.training_cells),
        scalars=fit_scalars(
            cast(pd.DataFrame, adata.obs),
            scalars.columns if scalars.enable else (),
            split.training_cells,
        ),
        **labels,
    )


def origin_of(source: str, key: str, annotations: Annotations, genes: Sequence[str]) -> Origin:
    """The cells of a matrix, as messages on its scale name them.

    Args:
        source: the file.
        key: "X", "layers/NAME" or "obsm/KEY".
        annotations: labels of the cells.
        genes: names of the columns.
    """
    return Origin(f"{source}: {key}", annotations.names, genes, annotations.condition)


def require_counts(spec: DataSpec, prediction: PredictionSettings) -> None:
    """Refuses to round zeros where the expression cannot be that of counts.

    Raises:
        UserError: `prediction.round_to_counts` is asked for, and training cells have values
            below 0.
    """
    if prediction.round_to_counts and spec.gene_input and not spec.non_negative:
        raise UserError(
            f"prediction.round_to_counts=true rounds expression to counts, but training cells have "
            f"negative values in {spec.input} (scaled expression?): set "
            "prediction.round_to_counts=false, or data.input to a matrix of counts or of their "
            "logarithm."
        )


def training_labels(
    annotations: Annotations, split: Split, data: DataSettings
) -> dict[str, Vocabulary]:
    """The vocabularies of the sets that training will see.

    Raises:
        UserError: training cells have no controls, or a held-out condition is not among them.
    """
    match_on, controls = match_labels(data), split.controls["train"]
    groups, orphans = make_groups(annotations, split.treated["train"], controls, match_on)
    require_controls(orphans, match_on)
    pairs = control_pairs(annotations, controls, match_on) if data.control_fraction else []
    found = vocabularies(annotations, data.control, groups, pairs)
    held_out = np.concatenate([split.treated["val"], split.treated["test"]])
    unknown = sorted(set(annotations.condition[held_out]) - set(found["perturbations"].names))
    if unknown:
        raise UserError(
            f"the {split.kind} split holds out every cell of condition {named(unknown)}; a "
            "model can predict only conditions it was trained on. Hold out other units, or leave "
            f"those cells out (data.exclude on {data.pert_col!r})."
        )
    return found


def non_negative(values: Matrix | DiskRows, cells: np.ndarray) -> bool:
    """Whether no value of those cells is negative."""
    blocks = (cells[i : i + _BLOCK] for i in range(0, len(cells), _BLOCK))
    return all(values[block].min() >= 0.0 for block in blocks)
