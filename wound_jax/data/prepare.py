"""From a config to cells that can be trained on.

Order: open the source, read the labels, split, fit the preprocessing on training cells, bring all
cells to it, group. Nothing below this module sees the config as a whole.
"""

import hashlib
from dataclasses import dataclass

import anndata as ad
import numpy as np

from wound_jax.config.activity import require_data_source
from wound_jax.config.schema import DataConfig, RunConfig
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


def prepare(config: RunConfig) -> PreparedData:
    """Reads, splits and preprocesses the cells of a run.

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
    cells, spec = _table(adata, annotations, split, config)
    match_on = tuple(name for name in data.match_on if _has_label(name, data))
    return PreparedData(cells, split, spec, match_on, fingerprint(cells))


def _has_label(name: str, data: DataConfig) -> bool:
    """Whether the data have the label; matching on a timepoint that nobody has asks for nothing."""
    return name != "timepoint" or data.timepoint_col is not None


def _table(
    adata: ad.AnnData, annotations: Annotations, split: Split, config: RunConfig
) -> tuple[CellTable, DataSpec]:
    """Features and expression of all cells, and the spec fitted on the training cells."""
    data = config.data
    gene_input = is_gene_matrix(data.input)
    training = np.zeros(len(annotations), dtype=bool)
    training[split.training_cells] = True
    preprocessing, expression = NO_GENES, None
    if gene_input or config.model.decoder.enable:
        values = matrix(adata, data.input if gene_input else data.genes)
        preprocessing = fit_preprocessing(
            values, adata.var_names, training, data.preprocess, data.n_hvg
        )
        expression, _ = preprocessing.apply(values, adata.var_names)
    if gene_input:
        cells = CellTable(annotations, expression, None)
    else:
        features = embedding(matrix(adata, data.input), data.input)
        cells = CellTable(annotations, features, expression)
    spec = DataSpec(
        input=data.input,
        gene_input=gene_input,
        input_width=cells.features.shape[1],
        preprocessing=preprocessing,
        control=data.control,
        non_negative=bool(gene_input and cells.features[training].min() >= 0.0),
        **vocabularies(annotations, split.treated["train"], split.training_cells),
    )
    return cells, spec


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
