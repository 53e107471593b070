"""The configuration of a run: typed, frozen, complete.

Every default a run can depend on is written here and nowhere else. A section is handed to the
part that needs it, never the whole tree. Unknown keys, wrong types and values out of range are
refused when the config is read (`wound_jax.config.load`); a key that is set while its switch is
off is refused too (`wound_jax.config.activity`).
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, field_validator


def _as_names(value: object) -> object:
    """A list of labels as strings: YAML reads the donor label 101 as a number."""
    if isinstance(value, list | tuple):
        return tuple(str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in value)
    return value


# YAML has lists only; a tuple keeps the config immutable.
Names = Annotated[tuple[str, ...], BeforeValidator(_as_names)]
Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False)]
Indices = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Strict(False)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the config: frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SyntheticConfig(Section):
    """The synthetic wound set (`wound_jax.data.synthetic`), deterministic in `seed`."""

    n_cells: Annotated[int, Field(ge=500)] = 57_298
    n_genes: Annotated[int, Field(ge=300)] = 3_000
    embedding_dim: Annotated[int, Field(ge=8)] = 2_058
    mouse_sd: Annotated[float, Field(ge=0.0)] = 0.10
    effect_scale: Annotated[float, Field(ge=0.0)] = 1.0
    seed: int = 42


class DataConfig(Section):
    """Which cells, which columns, which matrix."""

    source: Literal["file", "synthetic"] = "file"
    path: str | None = None
    synthetic: SyntheticConfig = SyntheticConfig()
    # "X", "layers/NAME" or "obsm/KEY".
    input: str = "X"
    # The expression matrix that a gene decoder predicts and the evaluation reads; the input itself
    # when that is a gene matrix.
    genes: str = "X"
    preprocess: Literal["none", "log1p_cp10k"] = "none"
    n_hvg: PositiveInt | None = None
    pert_col: str = "condition"
    control: str = "Sham"
    # Null where the data have no such column. Without one of types all cells are of one.
    cell_type_col: str | None = "cell_types_simple_short"
    timepoint_col: str | None = "timepoint"
    replicate_col: str | None = "mouse_id"
    # obs column -> values; cells that carry one of them are left out. Mappings merge, so null takes
    # back what a config builds on: of one column, or for `exclude` itself of all.
    exclude: dict[str, Names] = Field(default_factory=dict)
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


class SplitConfig(Section):
    """Which cells are held out. `val` and `test` name the held-out values; null chooses by seed."""

    kind: Literal["random", "replicate", "timepoint", "celltype", "fewshot"] = "random"
    test: Names | None = None
    val: Names | None = None
    test_fraction: Fraction = 0.1
    val_fraction: Fraction = 0.1
    # Share of the treated cells of a `fewshot` type that stays in training.
    fewshot_fraction: Fraction = 0.1
    # Whether control cells of held-out units are held out too; auto: yes for random and replicate.
    controls: Literal["auto", "held_out", "shared"] = "auto"
    seed: int = 42


class LoraConfig(Section):
    """Low-rank adapters on the backbone (arXiv 2106.09685)."""

    enable: bool = False
    r: PositiveInt = 16
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    dropout: Fraction = 0.05
    rslora: bool = False
    adapt_mlp: bool = False
    # Names of the projections to adapt; null takes the backbone's own default.
    targets: Names | None = None


class MhcConfig(Section):
    """Manifold-constrained hyper-connections (arXiv 2512.24880) in place of the plain residual."""

    enable: bool = False
    mixing: Literal["streams", "features"] = "streams"
    streams: Annotated[int, Field(ge=2, le=16)] = 4
    h_res: Literal["sinkhorn", "birkhoff", "identity"] = "sinkhorn"
    sinkhorn_iters: PositiveInt = 10
    # Layers whose attention and MLP are joined by mHC; null takes all.
    layer_indices: Indices | None = None
    # Off the diagonal of H_res at the start. -8 is nearer to no mixing, but the gradient of the
    # mixing goes with the mass there, about exp(residual_logit).
    residual_logit: Annotated[float, Field(lt=0.0)] = -4.0
    # Recompute the maps in the backward pass: less memory, more time.
    remat: bool = False


class ScalarConfig(Section):
    """Scalar features of the control cells as a further input."""

    enable: bool = False
    # Numeric obs columns.
    columns: Names = ("velocity_magnitude", "velocity_pseudotime", "velocity_confidence")
    # Where the learned weight in front of them starts.
    initial_weight: Annotated[float, Field(gt=0.0)] = 0.1


class DecoderConfig(Section):
    """The gene decoder, for runs whose input is an embedding."""

    enable: bool = False
    hidden_dims: Widths = (1024, 1024, 512)
    dropout: Fraction = 0.1
    weight: Annotated[float, Field(ge=0.0)] = 1.0


class ModelConfig(Section):
    """The set transformer."""

    backbone: str = "llama"
    hidden_dim: PositiveInt = 512
    layers: PositiveInt = 8
    heads: PositiveInt = 8
    kv_heads: PositiveInt | None = None
    mlp_dim: PositiveInt | None = None
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    encoder_layers: PositiveInt = 4
    decoder_layers: PositiveInt = 4
    dropout: Fraction = 0.1
    residual: Literal["output", "hidden", "none"] = "output"
    output_activation: Literal["auto", "relu", "none"] = "auto"
    batch_embedding: bool = False
    # categorical: a vector a day; continuous: sinusoids of the day, so that any day can be asked.
    timepoint_embedding: Literal["none", "categorical", "continuous"] = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"
    lora: LoraConfig = LoraConfig()
    mhc: MhcConfig = MhcConfig()
    scalars: ScalarConfig = ScalarConfig()
    decoder: DecoderConfig = DecoderConfig()


class LossConfig(Section):
    """The distance between a predicted and a measured set of cells."""

    name: str = "energy"
    # Temperature of the Sinkhorn divergence: a share of the mean cost, a fixed blur^2, or
    # geomloss's unconverged schedule, for parity.
    epsilon: Literal["relative", "absolute", "geomloss"] = "relative"
    relative_epsilon: Annotated[float, Field(gt=0.0)] = 0.3
    blur: Annotated[float, Field(gt=0.0)] = 0.05
    scaling: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    threshold: Annotated[float, Field(gt=0.0)] = 1e-4
    max_iterations: PositiveInt = 500
    # In `combined`: energy + sinkhorn_weight * sinkhorn.
    sinkhorn_weight: Annotated[float, Field(ge=0.0)] = 0.01


class VelocityConfig(Section):
    """The velocity loss: predicted displacements point along RNA velocity."""

    enable: bool = False
    # matched_target: velocity of the treated cells that optimal transport matches; control: the
    # control cell's own; target_by_index: the published form.
    source: Literal["matched_target", "control", "target_by_index"] = "matched_target"
    weight: Annotated[float, Field(gt=0.0)] = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 1000
    # obs column of confidences in [0, 1]; null trusts all cells alike.
    confidence_col: str | None = "velocity_confidence"
    min_confidence: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    # Weight of the difference of lengths, |d| against scale * |v|; units of time are arbitrary.
    beta: Annotated[float, Field(ge=0.0)] = 0.0
    scale: Annotated[float, Field(gt=0.0)] = 1.0
    # Weight of mean |d - v|^2 within the term.
    regularization_weight: Annotated[float, Field(ge=0.0)] = 0.0
    # Temperature of the matching, as a share of the mean cost.
    relative_epsilon: Annotated[float, Field(gt=0.0)] = 0.1
    # Lengths below it count as this: the gradient of a cosine grows without bound towards 0.
    smallest_length: Annotated[float, Field(gt=0.0)] = 1e-2
    # The control experiment: velocities exchanged among the cells of a (type, condition).
    shuffle: bool = False


class TrainingConfig(Section):
    """Optimiser, schedule, devices and the rhythm of validation and logs."""

    batch_size: PositiveInt = 16
    max_epochs: PositiveInt | None = 10
    max_steps: PositiveInt | None = None
    optimizer: Literal["adam", "adamw"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-4
    lora_b_multiplier: Annotated[float, Field(gt=0.0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 10.0
    devices: PositiveInt | Literal["all"] = 1
    # Parts of a batch whose gradients are taken one after the other: less memory, the same step.
    accumulate: PositiveInt = 1
    # Steps handed to the devices at once, between logs and validations; cells on the device only.
    steps_per_dispatch: PositiveInt = 1
    val_every: PositiveInt = 100
    val_batches: PositiveInt = 8
    early_stopping: PositiveInt | None = None
    log_every: PositiveInt = 20


class PredictionConfig(Section):
    """What a trained model's cells go through before they are scored or written."""

    # Share of the rules (linear, or `across_genes`) in the mean of a stratum's predicted cells, 0
    # to 1; "auto" takes the share of least squared error on the validation strata, 0.5 where there
    # are none.
    linear_weight: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["auto"] = 0.0
    # Whether what sets the controls of a known type apart from training is drawn back, as far as
    # held-out training strata show it to be noise (`prediction.calibration.shrink_controls`).
    shrink_controls: bool = False
    # Whether the rules of an unknown cell type are also what is learnt across genes from the known
    # ones, four at least, as far as it proves itself on these
    # (`prediction.calibration.across_genes`). Takes seconds after training with six strata, minutes
    # with 33 strata of 3,000 genes.
    across_genes: bool = False
    # Whether expression below one count is rounded to 0 or one count, at random with its mean.
    round_to_counts: bool = False

    @property
    def moves_means(self) -> bool:
        """Whether the mean of a stratum's cells is another than the network's."""
        return self.linear_weight != 0.0 or self.shrink_controls


class EvaluationConfig(Section):
    """How held-out cells are scored after training."""

    min_cells: Annotated[int, Field(ge=2)] = 30
    # Cells of each arm of a stratum that are scored or learnt from, at most, the same ones for
    # every model; null takes all where the cells are in memory, and 512 where they are on disk.
    cells_per_arm: Annotated[int, Field(ge=10)] | None = None
    n_pcs: PositiveInt = 50
    # Draws of the bootstrap over held-out replicates.
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    plots: bool = True


class RunConfig(Section):
    """One run, complete: everything that decides its numbers."""

    name: str = "run"
    run_dir: str | None = None
    seed: int = 42
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    velocity: VelocityConfig = VelocityConfig()
    training: TrainingConfig = TrainingConfig()
    prediction: PredictionConfig = PredictionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
