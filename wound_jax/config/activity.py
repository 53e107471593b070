"""The rules between keys: which keys have an effect, and which combinations contradict each other.

A key is inactive when another key, its switch, makes the run ignore it: `model.lora.r` while
`model.lora.enable` is false. Setting an inactive key is an error, since the run would not be the
one that was asked for. `RULES` is the whole table; a new switch is one more line.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from wound_jax.config.schema import DataConfig, ModelConfig, RunConfig, SplitConfig, TrainingConfig
from wound_jax.errors import UserError

MATRIX_NAME = re.compile(r"X|(?:layers|obsm)/.+")


@dataclass(frozen=True)
class Rule:
    """Keys that have an effect only while a switch has the right value.

    Attributes:
        keys: a dotted key, or a prefix that ends in a dot and stands for all keys below it.
        switch: the dotted key that decides; it is never governed by its own rule.
        active: whether the keys have an effect in a given config.
        fix: the setting that would give them one, as it is typed on the command line.
    """

    keys: str
    switch: str
    active: Callable[[RunConfig], bool]
    fix: str

    def governs(self, key: str) -> bool:
        """Whether this rule is about the dotted `key`."""
        below = self.keys.endswith(".") and key.startswith(self.keys)
        return (below or key == self.keys) and key != self.switch


LORA, DECODER, MHC = "model.lora.enable", "model.decoder.enable", "model.mhc.enable"
VELOCITY, SCALARS = "velocity.enable", "model.scalars.enable"
UNIT_KIND = "split.kind=celltype (or replicate, timepoint, fewshot)"

# Keys of the Sinkhorn divergence, and the modes of loss.epsilon in which each acts.
_EPSILON_KEYS = {
    "relative_epsilon": ("relative",),
    "blur": ("absolute", "geomloss"),
    "scaling": ("geomloss",),
    "threshold": ("relative", "absolute"),
    "max_iterations": ("relative", "absolute"),
}


def uses_genes(config: RunConfig) -> bool:
    """Whether a run reads expression: as its input, or for a gene decoder."""
    return not is_embedding(config.data) or config.model.decoder.enable


def has_sinkhorn(config: RunConfig) -> bool:
    """Whether the loss holds a Sinkhorn divergence."""
    return config.loss.name in ("sinkhorn", "combined")


# Where two rules govern a key and both find it inactive, the first one speaks.
RULES = (
    Rule("data.path", "data.source", lambda c: c.data.source == "file", "data.source=file"),
    Rule("data.synthetic.", "data.source", lambda c: is_synthetic(c.data), "data.source=synthetic"),
    # A gene matrix as input is itself the matrix that the evaluation reads.
    Rule("data.genes", "data.input", lambda c: is_embedding(c.data), "data.input=obsm/KEY"),
    # An embedding without a decoder needs no genes at all.
    *(
        Rule(key, DECODER, lambda c: uses_genes(c), f"{DECODER}=true")
        for key in ("data.genes", "data.preprocess", "data.n_hvg")
    ),
    Rule("model.lora.", LORA, lambda c: c.model.lora.enable, f"{LORA}=true"),
    # Named targets are the whole list already.
    Rule(
        "model.lora.adapt_mlp",
        "model.lora.targets",
        lambda c: c.model.lora.targets is None,
        "model.lora.targets=null",
    ),
    Rule("model.scalars.", SCALARS, lambda c: c.model.scalars.enable, f"{SCALARS}=true"),
    Rule("model.mhc.", MHC, lambda c: c.model.mhc.enable, f"{MHC}=true"),
    *(
        Rule(
            f"model.mhc.{key}",
            "model.mhc.mixing",
            lambda c: c.model.mhc.mixing == "streams",
            "model.mhc.mixing=streams",
        )
        for key in ("streams", "h_res", "residual_logit", "remat")
    ),
    Rule(
        "model.mhc.sinkhorn_iters",
        "model.mhc.h_res",
        lambda c: c.model.mhc.h_res == "sinkhorn" or c.model.mhc.mixing == "features",
        "model.mhc.h_res=sinkhorn",
    ),
    Rule(
        "model.mhc.residual_logit",
        "model.mhc.h_res",
        lambda c: c.model.mhc.h_res != "identity",
        "model.mhc.h_res=sinkhorn (or birkhoff)",
    ),
    *(
        Rule(f"loss.{key}", "loss.name", has_sinkhorn, "loss.name=sinkhorn (or combined)")
        for key in ("epsilon", *_EPSILON_KEYS)
    ),
    *(
        Rule(
            f"loss.{key}",
            "loss.epsilon",
            lambda c, modes=modes: c.loss.epsilon in modes,
            f"loss.epsilon={' or '.join(modes)}",
        )
        for key, modes in _EPSILON_KEYS.items()
    ),
    Rule(
        "loss.sinkhorn_weight",
        "loss.name",
        lambda c: c.loss.name == "combined",
        "loss.name=combined",
    ),
    Rule("velocity.", VELOCITY, lambda c: c.velocity.enable, f"{VELOCITY}=true"),
    Rule(
        "velocity.relative_epsilon",
        "velocity.source",
        lambda c: c.velocity.source == "matched_target",
        "velocity.source=matched_target",
    ),
    Rule("velocity.scale", "velocity.beta", lambda c: c.velocity.beta > 0, "velocity.beta=1.0"),
    Rule("training.lora_b_multiplier", LORA, lambda c: c.model.lora.enable, f"{LORA}=true"),
    Rule(
        "training.weight_decay",
        "training.optimizer",
        lambda c: c.training.optimizer == "adamw",
        "training.optimizer=adamw",
    ),
    Rule("model.decoder.", DECODER, lambda c: c.model.decoder.enable, f"{DECODER}=true"),
    Rule("model.kv_heads", "model.backbone", lambda c: is_llama(c.model), "model.backbone=llama"),
    Rule(
        "split.fewshot_fraction",
        "split.kind",
        lambda c: c.split.kind == "fewshot",
        "split.kind=fewshot",
    ),
    # Cells drawn one by one belong to no named unit.
    Rule("split.test", "split.kind", lambda c: c.split.kind != "random", UNIT_KIND),
    Rule("split.val", "split.kind", lambda c: c.split.kind != "random", UNIT_KIND),
    Rule("split.test_fraction", "split.test", lambda c: draws_test(c.split), "split.test=null"),
    Rule("split.val_fraction", "split.val", lambda c: draws_val(c.split), "split.val=null"),
)


def is_synthetic(data: DataConfig) -> bool:
    """Whether the cells are simulated and not read from a file."""
    return data.source == "synthetic"


def is_llama(model: ModelConfig) -> bool:
    """Whether the backbone is the one with grouped key and value heads."""
    return model.backbone == "llama"


def is_embedding(data: DataConfig) -> bool:
    """Whether the model's input is an embedding (obsm) and not a gene matrix."""
    return data.input.startswith("obsm/")


def draws_test(split: SplitConfig) -> bool:
    """Whether the seed, and not a list of names, chooses the test cells."""
    return split.kind == "random" or split.test is None


def draws_val(split: SplitConfig) -> bool:
    """Whether the seed, and not a list of names, chooses the validation cells."""
    return split.kind == "random" or split.val is None


def inactive_keys(
    config: RunConfig, file_keys: Collection[str], command_keys: Collection[str]
) -> list[tuple[str, Rule]]:
    """The keys that were set and have no effect, each with the rule it breaks.

    A file is not blamed for a switch that the command line throws: with `model.lora.enable=false`
    there, the file's `model.lora.r` passes. A key of the command line itself is always judged.

    Args:
        config: the resolved config.
        file_keys: the dotted leaf keys that the given file itself sets, not those it inherits.
        command_keys: the dotted leaf keys set on the command line.

    Returns:
        Pairs of dotted key and rule, those of the file first, each group in the order given.
    """
    off = [rule for rule in RULES if not rule.active(config)]
    blamed = [(key, rule) for key in file_keys for rule in off if rule.switch not in command_keys]
    blamed += [(key, rule) for key in command_keys for rule in off]
    found: dict[str, Rule] = {}
    for key, rule in blamed:
        if rule.governs(key):
            found.setdefault(key, rule)
    return list(found.items())


def check_consistency(config: RunConfig) -> None:
    """Refuses combinations of keys that no run can satisfy.

    Two combinations are accepted on purpose. `split.test` and `split.val` may be null for the
    kinds replicate, timepoint and celltype: the seed then chooses the values. `data.match_on` may
    hold cell_type and timepoint while their columns are null: a set without them matches on the
    rest, so that the default of `data.match_on` fits every set.

    Args:
        config: the resolved config. Whether there is data to read is not asked here, so that a
            config can be shown before the data is at hand (`require_data_source` asks it).

    Raises:
        UserError: one line for each contradiction.
    """
    problems = [
        *_data_problems(config.data),
        *_disk_problems(config),
        *_split_problems(config.split, config.data),
        *_model_problems(config.model, config.data),
        *_training_problems(config.training, config.data),
        *_prediction_problems(config),
    ]
    if problems:
        raise UserError("\n".join(problems))


def require_data_source(config: RunConfig) -> None:
    """Refuses a config that names no cells. Commands that read data call it; `show` does not.

    Raises:
        UserError: `data.source` is file and `data.path` is null.
    """
    if config.data.source == "file" and config.data.path is None:
        raise UserError(
            "data.path is not set: give data.path=FILE.h5ad, or data.source=synthetic for the "
            "synthetic wound set"
        )


def _data_problems(data: DataConfig) -> Iterator[str]:
    if not MATRIX_NAME.fullmatch(data.input):
        yield f"data.input={data.input}: expected X, layers/NAME or obsm/KEY."
    if not MATRIX_NAME.fullmatch(data.genes) or data.genes.startswith("obsm/"):
        yield f"data.genes={data.genes}: expected a gene matrix, X or layers/NAME."
    if "replicate" in data.match_on and data.replicate_col is None:
        yield (
            "data.match_on holds replicate, but data.replicate_col is null: set "
            "data.replicate_col=COLUMN or take replicate out of data.match_on."
        )


def _disk_problems(config: RunConfig) -> Iterator[str]:
    """A training store holds one gene matrix and no more."""
    data = config.data
    if data.location != "disk":
        return
    fix = "set data.location=device or host"
    if is_synthetic(data):
        yield f"data.location=disk reads a file, but data.source=synthetic is simulated: {fix}."
    if is_embedding(data):
        yield (
            f"data.location=disk reads expression, but data.input={data.input} is an embedding: "
            f"set data.input=X or layers/NAME, or {fix}."
        )
    if config.velocity.enable:
        yield f"velocity.enable=true needs the velocities of all cells in memory: {fix}."


def _split_problems(split: SplitConfig, data: DataConfig) -> Iterator[str]:
    columns = {
        "replicate": "replicate_col",
        "timepoint": "timepoint_col",
        "celltype": "cell_type_col",
        "fewshot": "cell_type_col",
    }
    key = columns.get(split.kind)
    if key is not None and getattr(data, key) is None:
        yield f"split.kind={split.kind} needs the column of it: set data.{key}=COLUMN."
    if split.kind == "fewshot" and not split.test:
        yield "split.kind=fewshot needs the types by name: set split.test=[CELL TYPE, ...]."
    if split.kind in ("replicate", "timepoint", "celltype") and split.test == ():
        yield "split.test=[] names nothing to test on: name values, or set split.test=null."
    drawn = [
        (key, fraction)
        for key, fraction, used in (
            ("split.test_fraction", split.test_fraction, draws_test(split)),
            ("split.val_fraction", split.val_fraction, draws_val(split)),
        )
        if used
    ]
    total = sum(fraction for _, fraction in drawn)
    if total >= 1.0:
        names = " + ".join(f"{key}={fraction:g}" for key, fraction in drawn)
        yield f"{names} is {total:g}, which leaves nothing to train on: expected a sum below 1."


def _model_problems(model: ModelConfig, data: DataConfig) -> Iterator[str]:
    if model.hidden_dim % model.heads:
        yield (
            f"model.hidden_dim={model.hidden_dim} is not divisible by model.heads={model.heads}: "
            "each head takes an equal share."
        )
    # For the other backbones an inherited value is inactive.
    if is_llama(model) and model.kv_heads and model.heads % model.kv_heads:
        yield (
            f"model.heads={model.heads} is not divisible by model.kv_heads={model.kv_heads}: "
            "each key and value head serves an equal number of heads."
        )
    if model.decoder.enable and not is_embedding(data):
        yield (
            f"model.decoder.enable=true, but data.input={data.input} is a gene matrix already: "
            "set data.input=obsm/KEY or model.decoder.enable=false."
        )
    if model.lora.enable and model.lora.targets == ():
        yield (
            "model.lora.targets is empty: nothing would be adapted. Name projections, or set "
            "model.lora.targets=null for the backbone's own."
        )
    yield from _mhc_problems(model)
    if model.batch_embedding and data.replicate_col is None:
        yield (
            "model.batch_embedding=true, but data.replicate_col is null: "
            "set data.replicate_col=COLUMN or model.batch_embedding=false."
        )
    if model.scalars.enable and not model.scalars.columns:
        yield "model.scalars.columns is empty: name obs columns, or set model.scalars.enable=false."
    if model.timepoint_embedding != "none" and data.timepoint_col is None:
        yield (
            f"model.timepoint_embedding={model.timepoint_embedding}, but data.timepoint_col is "
            "null: set data.timepoint_col=COLUMN or model.timepoint_embedding=none."
        )


def _mhc_problems(model: ModelConfig) -> Iterator[str]:
    mhc = model.mhc
    if not mhc.enable:
        return
    outside = [i for i in mhc.layer_indices or () if i >= model.layers]
    if outside:
        yield (
            f"model.mhc.layer_indices names {outside}, but the model has layers 0 to "
            f"{model.layers - 1} (model.layers={model.layers})."
        )
    if mhc.layer_indices == ():
        yield "model.mhc.layer_indices is empty: name layers, null for all, or mhc.enable=false."
    if mhc.mixing == "streams" and mhc.h_res == "birkhoff" and mhc.streams > 4:
        yield (
            f"model.mhc.h_res=birkhoff mixes all permutations of {mhc.streams} streams; "
            "set model.mhc.streams to 4 or fewer, or model.mhc.h_res=sinkhorn."
        )


def _training_problems(training: TrainingConfig, data: DataConfig) -> Iterator[str]:
    if training.max_epochs is None and training.max_steps is None:
        yield (
            "training.max_epochs and training.max_steps are both null, so training would never "
            "end: set one of them."
        )
    at_once = training.steps_per_dispatch
    rhythm = min(training.log_every, training.val_every)
    if at_once > 1 and data.location != "device":
        yield (
            f"training.steps_per_dispatch={at_once} needs the cells on the device, but "
            f"data.location={data.location}: set training.steps_per_dispatch=1 or "
            "data.location=device."
        )
    if at_once > rhythm:
        yield (
            f"training.steps_per_dispatch={at_once} never fits between two logs or validations "
            f"(training.log_every={training.log_every}, training.val_every={training.val_every}): "
            f"set training.steps_per_dispatch to {rhythm} or fewer."
        )


def _prediction_problems(config: RunConfig) -> Iterator[str]:
    prediction = config.prediction
    if prediction.across_genes and prediction.linear_weight == 0.0:
        yield (
            "prediction.across_genes=true says what the rules of an unknown type are, but "
            "prediction.linear_weight=0 gives rules no share: set prediction.linear_weight=auto, "
            "or prediction.across_genes=false."
        )
    if config.model.decoder.enable or not is_embedding(config.data):
        return
    # What a model without genes cannot be asked for.
    of_genes = {"round_to_counts": "rounds expression", "across_genes": "learns from gene to gene"}
    for key, does in of_genes.items():
        if getattr(prediction, key):
            yield (
                f"prediction.{key}=true {does}, but the model predicts data.input="
                f"{config.data.input}, an embedding: set prediction.{key}=false, or "
                "model.decoder.enable=true to predict genes."
            )
