"""Settings of the data: `data`, by its source, and `split`, by its kind."""

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, Strict, field_validator

from wound_jax.errors import UserError
from wound_jax.registry import (
    ActsWith,
    Fraction,
    Label,
    Labels,
    NonNegativeFloat,
    PositiveInt,
    Section,
    Seed,
    Variant,
    Variants,
)

MATRIX_NAME = re.compile(r"X|(?:layers|obsm)/.+")


class SyntheticSettings(Section):
    """The synthetic wound set (`wound_jax.data.synthetic`), deterministic in `seed`."""

    n_cells: Annotated[int, Field(ge=500)] = 57_298
    n_genes: Annotated[int, Field(ge=300)] = 3_000
    embedding_dim: Annotated[int, Field(ge=8)] = 2_058
    mouse_sd: NonNegativeFloat = 0.10
    effect_scale: NonNegativeFloat = 1.0
    seed: Seed = 42


class DataSettings(Variant):
    """Which cells, which columns, which matrix; a source adds where the cells come from."""

    source: str = ""
    # "X", "layers/NAME" or "obsm/KEY".
    input: str = "X"
    # The expression matrix that a gene decoder predicts and the evaluation reads; the input itself
    # when that is a gene matrix.
    genes: str = "X"
    preprocess: Literal["none", "log1p_cp10k"] = "none"
    # Whether the values have to show the scale that `preprocess` expects, and those of another file
    # that of the training file; trust asks only for finite values.
    scale: Literal["check", "trust"] = "check"
    n_hvg: PositiveInt | None = None
    pert_col: str = "condition"
    control: Label = "Sham"
    # Null where the data have no such column. Without one of types all cells are of one.
    cell_type_col: str | None = "cell_types_simple_short"
    timepoint_col: str | None = "timepoint"
    replicate_col: str | None = "mouse_id"
    # obs column -> values; cells that carry one of them are left out. Mappings merge, so null takes
    # back what a config builds on: of one column, or for `exclude` itself of all.
    exclude: dict[str, Labels] = Field(default_factory=dict)
    # May hold cell_type and timepoint while their columns are null: the rest is matched on then.
    match_on: Annotated[
        tuple[Literal["cell_type", "timepoint", "replicate"], ...], Strict(False)
    ] = (
        "cell_type",
        "timepoint",
    )
    cell_set_len: Annotated[int, Field(ge=2)] = 128
    short_sets: Literal["mask", "resample"] = "mask"
    control_fraction: Fraction = 0.0
    # Where the cells lie: on the device, in the memory of the host, or in a training store on disk
    # (`convert` writes one), from which batches are read ahead of the step.
    location: Literal["device", "host", "disk"] = "device"

    @field_validator("exclude", mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if value is None:
            return {}
        if isinstance(value, dict):
            return {column: names for column, names in value.items() if names is not None}
        return value

    @property
    def trusts_scale(self) -> bool:
        """Whether the scale of expression is left unchecked."""
        return self.scale == "trust"

    @property
    def is_embedding(self) -> bool:
        """Whether the model's input is an embedding (obsm) and not a gene matrix."""
        return self.input.startswith("obsm/")

    def problems(self) -> Iterator[str]:
        """Names that are no matrices, and replicates without a column."""
        if not MATRIX_NAME.fullmatch(self.input):
            yield f"data.input={self.input}: expected X, layers/NAME or obsm/KEY."
        if not MATRIX_NAME.fullmatch(self.genes) or self.genes.startswith("obsm/"):
            yield f"data.genes={self.genes}: expected a gene matrix, X or layers/NAME."
        if "replicate" in self.match_on and self.replicate_col is None:
            yield (
                "data.match_on holds replicate, but data.replicate_col is null: set "
                "data.replicate_col=COLUMN or take replicate out of data.match_on."
            )


SOURCES = Variants("source", DataSettings, tag="source", method="open")


@SOURCES.declare("file", "wound_jax.data.source")
class FileData(DataSettings):
    """Cells of an AnnData file, or of a training store."""

    path: str | None = None


@SOURCES.declare("synthetic", "wound_jax.data.source")
class SyntheticData(DataSettings):
    """The synthetic wound set."""

    synthetic: SyntheticSettings = SyntheticSettings()


def file_path(config: DataSettings) -> str:
    """The path of the file that the cells are in.

    Raises:
        UserError: they come from elsewhere.
    """
    if not isinstance(config, FileData) or config.path is None:
        raise UserError(f"data.source={config.source} names no file; set data.path=FILE.h5ad.")
    return config.path


class SplitSettings(Variant):
    """Which cells are held out; a kind of split adds how they are named or drawn."""

    # The key of `data` with the column that the split goes by.
    column: ClassVar[str | None] = None

    kind: str = ""
    # Whether control cells of held-out units are held out too; auto: yes for random and replicate.
    controls: Literal["auto", "held_out", "shared"] = "auto"
    seed: Seed = 42


SPLITS = Variants("split", SplitSettings, tag="kind", method="roles")


def _leaves_some(**drawn: float) -> Iterator[str]:
    """Fractions that are drawn leave some to train on."""
    total = sum(drawn.values())
    if total >= 1.0:
        names = " + ".join(f"split.{key}={fraction:g}" for key, fraction in drawn.items())
        yield f"{names} is {total:g}, which leaves nothing to train on: expected a sum below 1."


class DrawnSplit(SplitSettings):
    """A split whose seed draws a fraction for each part, where no units are named for it."""

    test_fraction: Annotated[Fraction, ActsWith("test", (None,))] = 0.1
    val_fraction: Annotated[Fraction, ActsWith("val", (None,))] = 0.1


@SPLITS.declare("random", "wound_jax.data.splits")
class RandomSplit(DrawnSplit):
    """Cells at random: leaky."""

    def problems(self) -> Iterator[str]:
        """Nothing left to train on."""
        yield from _leaves_some(test_fraction=self.test_fraction, val_fraction=self.val_fraction)


class NamedUnits(DrawnSplit):
    """Whole units held out: those named in `test` and `val`, or where null a fraction by seed.

    Each kind declares `test` and `val` anew, since the names are of its own units: a config that
    is laid over another and changes the kind does not inherit them.
    """

    test: Labels | None = None
    val: Labels | None = None

    def problems(self) -> Iterator[str]:
        """Nothing to test on, or nothing left to train on."""
        if self.test == ():
            yield "split.test=[] names nothing to test on: name values, or set split.test=null."
        drawn = {"test": self.test_fraction, "val": self.val_fraction}
        yield from _leaves_some(
            **{f"{key}_fraction": drawn[key] for key in drawn if getattr(self, key) is None}
        )


@SPLITS.declare("replicate", "wound_jax.data.splits")
class ReplicateSplit(NamedUnits):
    """Whole replicates."""

    column: ClassVar[str | None] = "replicate_col"

    test: Labels | None = None
    val: Labels | None = None


@SPLITS.declare("timepoint", "wound_jax.data.splits")
class TimepointSplit(NamedUnits):
    """Whole timepoints."""

    column: ClassVar[str | None] = "timepoint_col"

    test: Labels | None = None
    val: Labels | None = None


@SPLITS.declare("celltype", "wound_jax.data.splits")
class CelltypeSplit(NamedUnits):
    """Whole cell types: the zero-shot question."""

    column: ClassVar[str | None] = "cell_type_col"

    test: Labels | None = None
    val: Labels | None = None


@SPLITS.declare("fewshot", "wound_jax.data.splits")
class FewshotSplit(SplitSettings):
    """Whole cell types, by name, but for a share of their cells that stays in training."""

    column: ClassVar[str | None] = "cell_type_col"

    test: Labels | None = None
    val: Labels | None = None
    val_fraction: Annotated[Fraction, ActsWith("val", (None,))] = 0.1
    # Share of the cells of a type, treated and control, that stays in training.
    fewshot_fraction: Fraction = 0.1

    def problems(self) -> Iterator[str]:
        """No types."""
        if not self.test:
            yield "split.kind=fewshot needs the types by name: set split.test=[CELL TYPE, ...]."
