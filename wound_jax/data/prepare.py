"""From a config to cells that can be trained on.

Order: open the source, read the labels, split, fit the preprocessing on training cells, bring all
cells to it, group. Nothing below this module sees the config as a whole.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import anndata as ad
import numpy as np
import pandas as pd

from wound_jax.config.activity import require_data_source
from wound_jax.config.schema import DataConfig, RunConfig, SplitConfig
from wound_jax.data.annotations import (
    Annotations,
    excluded,
    read_annotations,
    require_control,
)
from wound_jax.data.days import days_of, require_days
from wound_jax.data.groups import Group, control_pairs, make_groups, require_controls
from wound_jax.data.plan import PlanBuilder, PlannedGroup
from wound_jax.data.preprocess import NO_GENES, fit_preprocessing
from wound_jax.data.scalars import fit_scalars, read_scalars
from wound_jax.data.source import Matrix, is_gene_matrix, matrix, n_columns, open_source, take_cells
from wound_jax.data.spec import DataSpec, vocabularies
from wound_jax.data.splits import Split, make_split
from wound_jax.data.velocity.contract import VelocityData, velocity_keys
from wound_jax.data.velocity.of_run import refuse_leak, run_velocity
from wound_jax.data.vocabulary import Vocabulary
from wound_jax.errors import UserError, unknown_name

# Cells looked at together, where only a summary of many is wanted.
_BLOCK = 4_096


@dataclass(frozen=True, eq=False)
class CellTable:
    """All cells of a data set, as a model sees them.

    Attributes:
        annotations: their labels.
        features: float32 `[cells, features]`, the model's input and output space.
        genes: float32 `[cells, genes]`, expression where the features are an embedding; None where
            the features are the expression, or where none is at hand.
        scalars: float32 `[cells, scalars]`, standardised; None where the model has none.
    """

    annotations: Annotations
    features: np.ndarray
    genes: np.ndarray | None
    scalars: np.ndarray | None = None

    @property
    def days(self) -> np.ndarray:
        """The day of each cell, float32 `[cells]`; NaN where its timepoint names none."""
        return days_of(self.annotations.timepoint)

    @property
    def expression(self) -> np.ndarray:
        """The space in which predictions are scored: genes, or the embedding without a decoder."""
        return self.features if self.genes is None else self.genes


@dataclass(frozen=True, eq=False)
class PreparedData:
    """Cells, their split, and what a model must remember of them.

    Attributes:
        cells: all cells.
        split: who trains, validates and tests.
        spec: what is stored with the model.
        match_on: labels on which controls agree.
        fingerprint: digest of the cells.
        velocity: velocities in the basis of the features, where the run asks for them.
    """

    cells: CellTable
    split: Split
    spec: DataSpec
    match_on: tuple[str, ...]
    fingerprint: str
    velocity: VelocityData | None = None

    def groups(self, part: str) -> tuple[list[Group], list[Group]]:
        """The treated groups of a part of the split: those with controls and those without.

        Raises:
            UserError: a training group has no control cell.
        """
        split, labels = self.split, self.cells.annotations
        found, orphans = make_groups(
            labels, split.treated[part], split.controls[part], self.match_on
        )
        if part == "train":
            require_controls(orphans, self.match_on)
        return found, orphans

    def plan_builder(self, part: str, config: DataConfig, seed: int) -> PlanBuilder:
        """The sets of a part of the split, epoch by epoch.

        Control-to-control sets are for training; what is held out is scored on treated cells.
        """
        fraction = config.control_fraction if part == "train" else 0.0
        controls = self.split.controls[part] if fraction else np.zeros(0, dtype=int)
        return PlanBuilder(
            [plan_group(group, self.spec) for group in self.groups(part)[0]],
            [
                plan_group(group, self.spec)
                for group in control_pairs(self.cells.annotations, controls, self.match_on)
            ],
            cell_set_len=config.cell_set_len,
            resample=config.short_sets == "resample",
            control_fraction=fraction,
            seed=seed,
        )

    def trained_on(self, other: "PreparedData", part: str) -> int:
        """How many treated cells of a part of `other` (same cells, other split) train here."""
        return len(np.intersect1d(self.split.treated["train"], other.split.treated[part]))


def plan_group(group: Group, spec: DataSpec) -> PlannedGroup:
    """A group with the codes of a model's vocabularies.

    Raises:
        UserError: the model was not trained on the group's condition.
    """
    if group.condition not in spec.perturbations:
        raise unknown_name("condition of treated cells", group.condition, spec.perturbations.names)
    return PlannedGroup(
        group=group,
        perturbation=int(spec.perturbations.encode(np.array([group.condition]))[0]),
        timepoint=int(spec.timepoints.encode(np.array([group.timepoint]))[0]),
    )


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
    optional = velocity_keys(data.input) if config.velocity.enable else ()
    adata, annotations = labelled_cells(open_source(data, _matrices(config), optional), data)
    require_control(annotations, data.control)
    split = make_split(annotations, data.control, config.split)
    if spec is None:
        spec = fit_spec(adata, annotations, split, config)
    if config.model.timepoint_embedding == "continuous":
        require_days(annotations.timepoint)
    cells = cell_table(adata, annotations, spec, data.genes)
    velocity = None
    if config.velocity.enable:
        velocity = run_velocity(adata, annotations, spec, config.velocity, config.seed)
        refuse_leak(adata, velocity, split)
    digest = fingerprint(cells, spec.genes, velocity)
    return PreparedData(cells, split, spec, match_labels(data), digest, velocity)


def _matrices(config: RunConfig) -> set[str]:
    """The matrices a run reads: its input, and the genes that a decoder predicts."""
    decodes = config.model.decoder.enable and not is_gene_matrix(config.data.input)
    return {config.data.input, *([config.data.genes] if decodes else [])}


def labelled_cells(
    adata: ad.AnnData, data: DataConfig, *, strict: bool = True
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


def resplit(data: PreparedData, config: SplitConfig) -> PreparedData:
    """The same cells under another split; genes and vocabularies stay those of the first."""
    split = make_split(data.cells.annotations, data.spec.control, config)
    return dataclasses.replace(data, split=split)


def match_labels(data: DataConfig) -> tuple[str, ...]:
    """The labels controls must agree on, without a timepoint that the data do not have."""
    has_timepoint = data.timepoint_col is not None
    return tuple(name for name in data.match_on if name != "timepoint" or has_timepoint)


def fit_spec(
    adata: ad.AnnData, annotations: Annotations, split: Split, config: RunConfig
) -> DataSpec:
    """What a model must remember of its data, fitted on the training cells.

    Raises:
        UserError: training cells have no controls, a held-out condition is not among them, or the
            expression does not fit its settings.
    """
    data = config.data
    labels = _training_labels(annotations, split, data)
    gene_input = is_gene_matrix(data.input)
    values = matrix(adata, data.input)
    preprocessing = NO_GENES
    if gene_input or config.model.decoder.enable:
        expression = values if gene_input else matrix(adata, data.genes)
        preprocessing = fit_preprocessing(
            expression, list(adata.var_names), split.training_cells, data.preprocess, data.n_hvg
        )
    scalars = config.model.scalars
    return DataSpec(
        input=data.input,
        gene_input=gene_input,
        input_width=len(preprocessing.genes) if gene_input else n_columns(values),
        preprocessing=preprocessing,
        control=data.control,
        # log1p of counts keeps the sign, so the raw matrix answers for both scales.
        non_negative=gene_input and _non_negative(values, split.training_cells),
        scalars=fit_scalars(
            cast(pd.DataFrame, adata.obs),
            scalars.columns if scalars.enable else (),
            split.training_cells,
        ),
        **labels,
    )


def _training_labels(
    annotations: Annotations, split: Split, data: DataConfig
) -> dict[str, Vocabulary]:
    """The vocabularies of the sets that training will see."""
    match_on, controls = match_labels(data), split.controls["train"]
    groups, orphans = make_groups(annotations, split.treated["train"], controls, match_on)
    require_controls(orphans, match_on)
    pairs = control_pairs(annotations, controls, match_on) if data.control_fraction else []
    found = vocabularies(annotations, data.control, groups, pairs)
    held_out = np.concatenate([split.treated["val"], split.treated["test"]])
    unknown = sorted(set(annotations.condition[held_out]) - set(found["perturbations"].names))
    if unknown:
        raise UserError(
            f"the {split.kind} split holds out every cell of condition {', '.join(unknown)}; a "
            "model can predict only conditions it was trained on. Hold out other units, or leave "
            f"those cells out (data.exclude on {data.pert_col!r})."
        )
    return found


def _non_negative(values: Matrix, cells: np.ndarray) -> bool:
    """Whether no value of those cells is negative."""
    blocks = (cells[i : i + _BLOCK] for i in range(0, len(cells), _BLOCK))
    return all(values[block].min() >= 0.0 for block in blocks)


def cell_table(
    adata: ad.AnnData,
    annotations: Annotations,
    spec: DataSpec,
    genes: str,
    *,
    missing: str = "error",
    expression: bool = True,
) -> CellTable:
    """Cells as a model sees them; the arguments are those of `apply_spec`, and their labels."""
    features, beside = apply_spec(adata, spec, genes, missing=missing, expression=expression)
    scalars = read_scalars(cast(pd.DataFrame, adata.obs), spec.scalars)
    return CellTable(annotations, features, beside, scalars)


def apply_spec(
    adata: ad.AnnData,
    spec: DataSpec,
    genes: str,
    *,
    missing: str = "error",
    expression: bool = True,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Brings cells to a model's features and genes.

    Args:
        adata: the cells.
        spec: the model's genes and scale.
        genes: matrix key of the expression, for a model of an embedding with a gene decoder.
        missing: "error", or "zero" to fill absent genes with zeros.
        expression: whether the expression beside an embedding is wanted.

    Returns:
        `CellTable.features` and `CellTable.genes`.

    Raises:
        UserError: genes are missing, the scale is another, or an embedding has another width.
    """
    values, names = matrix(adata, spec.input), list(adata.var_names)
    if spec.gene_input:
        return spec.preprocessing.apply(values, names, missing=missing)[0], None
    if n_columns(values) != spec.input_width:
        raise UserError(
            f"{spec.input} has {n_columns(values)} dimensions, but the model was trained on "
            f"{spec.input_width}; compute the embedding with the same encoder."
        )
    beside = None
    if spec.genes and expression:
        beside, _ = spec.preprocessing.apply(matrix(adata, genes), names, missing=missing)
    return embedding(values, spec.input), beside


def embedding(values: Matrix, key: str) -> np.ndarray:
    """An embedding as float32 `[cells, dims]`.

    Raises:
        UserError: it holds values that are not finite.
    """
    dense = np.ascontiguousarray(
        values.toarray() if not isinstance(values, np.ndarray) else values, dtype=np.float32
    )
    if not np.isfinite(dense).all():
        raise UserError(f"{key} holds NaN or infinite values; recompute the embedding.")
    return dense


def fingerprint(
    cells: CellTable, genes: Sequence[str], velocity: VelocityData | None = None
) -> str:
    """A digest of the labels, gene names, values and velocities of all cells, in their order.

    How a matrix was stored, sparse or dense, makes no difference.
    """
    digest = hashlib.blake2b(digest_size=16)
    labels = cells.annotations
    columns = [getattr(labels, field.name) for field in dataclasses.fields(labels)]
    for column in (*columns, genes):
        digest.update(f"{len(column)}\x1e".encode())
        digest.update("\x1f".join(map(str, column)).encode())
    drift = (velocity.velocity, velocity.confidence) if velocity is not None else ()
    for values in (cells.features, cells.genes, cells.scalars, *drift):
        if values is not None:
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
