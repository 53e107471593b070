"""From a config to cells that can be trained on.

Order: open the source, read the labels, split, fit the preprocessing on training cells, bring all
cells to it, group. Nothing below this module sees the config as a whole.
"""

import dataclasses
import hashlib
from dataclasses import dataclass

import anndata as ad
import numpy as np

from wound_jax.config.activity import require_data_source
from wound_jax.config.schema import DataConfig, RunConfig, SplitConfig
from wound_jax.data.annotations import (
    Annotations,
    excluded,
    read_annotations,
    require_control,
)
from wound_jax.data.groups import Group, make_groups, require_controls
from wound_jax.data.plan import PlanBuilder, PlannedGroup
from wound_jax.data.preprocess import NO_GENES, fit_preprocessing
from wound_jax.data.source import Matrix, is_gene_matrix, matrix, open_source
from wound_jax.data.spec import DataSpec, vocabularies
from wound_jax.data.splits import Split, make_split
from wound_jax.errors import UserError


@dataclass(frozen=True)
class CellTable:
    """All cells of a data set, as a model sees them.

    Attributes:
        annotations: their labels.
        features: float32 `[cells, features]`, the model's input and output space.
        genes: float32 `[cells, genes]`, expression where the features are an embedding; None where
            the features are the expression, or where none is at hand.
    """

    annotations: Annotations
    features: np.ndarray
    genes: np.ndarray | None

    @property
    def expression(self) -> np.ndarray:
        """The space in which predictions are scored: genes, or the embedding without a decoder."""
        return self.features if self.genes is None else self.genes


@dataclass(frozen=True)
class PreparedData:
    """Cells, their split, and what a model must remember of them."""

    cells: CellTable
    split: Split
    spec: DataSpec
    match_on: tuple[str, ...]
    fingerprint: str

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
        """The sets of a part of the split, epoch by epoch."""
        controls = self.split.controls[part]
        pairs, _ = make_groups(self.cells.annotations, controls, controls, ())
        return PlanBuilder(
            [self._planned(group) for group in self.groups(part)[0]],
            [self._planned(group) for group in pairs if len(group.targets) > 1],
            cell_set_len=config.cell_set_len,
            resample=config.short_sets == "resample",
            control_fraction=config.control_fraction,
            seed=seed,
        )

    def trained_on(self, other: "PreparedData", part: str) -> int:
        """How many treated cells of a part of `other` (same cells, other split) train here."""
        return len(np.intersect1d(self.split.treated["train"], other.split.treated[part]))

    def _planned(self, group: Group) -> PlannedGroup:
        return plan_group(group, self.spec)


def plan_group(group: Group, spec: DataSpec) -> PlannedGroup:
    """A group with the codes of a model's vocabularies."""
    condition, timepoint = np.array([group.condition]), np.array([group.timepoint])
    return PlannedGroup(
        group=group,
        perturbation=int(spec.perturbations.encode(condition)[0]),
        timepoint=int(spec.timepoints.encode(timepoint)[0]),
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
    adata = open_source(data)
    adata = adata[~excluded(adata.obs, data.exclude)]
    annotations = read_annotations(adata.obs, data)
    require_control(annotations, data.control)
    split = make_split(annotations, data.control, config.split)
    if spec is None:
        spec = fit_spec(adata, annotations, split, config)
    cells = CellTable(annotations, *apply_spec(adata, spec, data.genes))
    return PreparedData(cells, split, spec, match_labels(data), fingerprint(cells))


def resplit(data: PreparedData, config: SplitConfig) -> PreparedData:
    """The same cells under another split; genes and vocabularies stay those of the first."""
    split = make_split(data.cells.annotations, data.spec.control, config)
    return dataclasses.replace(data, split=split)


def match_labels(data: DataConfig) -> tuple[str, ...]:
    """The labels controls must agree on. Matching on a timepoint that nobody has asks for nothing."""
    has_timepoint = data.timepoint_col is not None
    return tuple(name for name in data.match_on if name != "timepoint" or has_timepoint)


def fit_spec(
    adata: ad.AnnData, annotations: Annotations, split: Split, config: RunConfig
) -> DataSpec:
    """What a model must remember of its data, fitted on the training cells."""
    data = config.data
    training = split.training_cells
    gene_input = is_gene_matrix(data.input)
    values = matrix(adata, data.input)
    preprocessing = NO_GENES
    if gene_input or config.model.decoder.enable:
        preprocessing = fit_preprocessing(
            values if gene_input else matrix(adata, data.genes),
            adata.var_names,
            training,
            data.preprocess,
            data.n_hvg,
        )
    return DataSpec(
        input=data.input,
        gene_input=gene_input,
        input_width=len(preprocessing.genes) if gene_input else values.shape[1],
        preprocessing=preprocessing,
        control=data.control,
        # log1p of counts keeps the sign, so the raw matrix answers for both scales.
        non_negative=bool(gene_input and values[training].min() >= 0.0),
        **vocabularies(annotations, split.treated["train"], training),
    )


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
    values = matrix(adata, spec.input)
    if spec.gene_input:
        return spec.preprocessing.apply(values, adata.var_names, missing=missing)[0], None
    if values.shape[1] != spec.input_width:
        raise UserError(
            f"{spec.input} has {values.shape[1]} dimensions, but the model was trained on "
            f"{spec.input_width}; compute the embedding with the same encoder."
        )
    beside = None
    if spec.genes and expression:
        beside, _ = spec.preprocessing.apply(
            matrix(adata, genes), adata.var_names, missing=missing
        )
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


def fingerprint(cells: CellTable) -> str:
    """A digest of the labels and the values of all cells: equal data, equal digest."""
    digest = hashlib.blake2b(digest_size=16)
    labels = cells.annotations
    for column in (labels.names, labels.condition, labels.cell_type, labels.timepoint, labels.animal):
        digest.update("\x1f".join(map(str, column)).encode())
    for values in (cells.features, cells.genes):
        if values is not None:
            digest.update(str(values.shape).encode())
            digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
