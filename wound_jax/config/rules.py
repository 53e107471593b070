"""The rules between keys: which keys have an effect, and which combinations contradict each other.

A key is inactive when another key, its switch, makes the run ignore it: `model.lora.r` while
`model.lora.enable` is false. Setting an inactive key is an error, since the run would not be the
one that was asked for. Most rules are declared where the key is: by a section's `enable`, and by
`ActsWith` beside the key. Here are those between sections, and the contradictions between sections.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from wound_jax.config.keys import value_at
from wound_jax.config.schema import RunConfig
from wound_jax.config.text import inline
from wound_jax.data.settings import FileData
from wound_jax.errors import UserError
from wound_jax.registry import ActsWith, Section


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


LORA, DECODER = "model.lora.enable", "model.decoder.enable"


def uses_genes(config: RunConfig) -> bool:
    """Whether a run reads expression: as its input, or for a gene decoder."""
    return not config.data.is_embedding or config.model.decoder.enable


BETWEEN_SECTIONS = (
    # A gene matrix as input is itself the matrix that the evaluation reads.
    Rule("data.genes", "data.input", lambda c: c.data.is_embedding, "data.input=obsm/KEY"),
    # An embedding without a decoder needs no genes at all.
    *(
        Rule(key, DECODER, uses_genes, f"{DECODER}=true")
        for key in ("data.genes", "data.preprocess", "data.n_hvg", "data.scale")
    ),
    Rule("training.lora_b_multiplier", LORA, lambda c: c.model.lora.enable, f"{LORA}=true"),
)
# What the values of one key beside it cannot say.
OF_SEVERAL_KEYS = (
    Rule(
        "model.mhc.sinkhorn_iters",
        "model.mhc.h_res",
        lambda c: c.model.mhc.h_res == "sinkhorn" or c.model.mhc.mixing == "features",
        "model.mhc.h_res=sinkhorn",
    ),
    Rule("velocity.scale", "velocity.beta", lambda c: c.velocity.beta > 0, "velocity.beta=1.0"),
)


def rules_of(config: RunConfig) -> tuple[Rule, ...]:
    """All rules on the keys of a config; where two are broken, the first one speaks."""
    return (*_declared(config, ""), *BETWEEN_SECTIONS, *OF_SEVERAL_KEYS)


def _declared(section: Section, prefix: str) -> Iterator[Rule]:
    """The rules that a section and those in it declare."""
    fields = type(section).model_fields
    if "enable" in fields:
        yield _rule(prefix, f"{prefix}enable", (True,))
    for name, field in fields.items():
        for meta in field.metadata:
            if isinstance(meta, ActsWith) and meta.key in fields:
                yield _rule(f"{prefix}{name}", f"{prefix}{meta.key}", meta.values)
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _declared(value, f"{prefix}{name}.")


def _rule(keys: str, switch: str, values: tuple[Any, ...]) -> Rule:
    first, *others = map(inline, values)
    fix = f"{switch}={first}" + (f" (or {', '.join(others)})" if others else "")
    return Rule(keys, switch, lambda config: value_at(config, switch) in values, fix)


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
    off = [rule for rule in rules_of(config) if not rule.active(config)]
    blamed = [(key, rule) for key in file_keys for rule in off if rule.switch not in command_keys]
    blamed += [(key, rule) for key in command_keys for rule in off]
    found: dict[str, Rule] = {}
    for key, rule in blamed:
        if rule.governs(key):
            found.setdefault(key, rule)
    return list(found.items())


def check_consistency(config: RunConfig) -> None:
    """Refuses combinations of keys of several sections that no run can satisfy.

    Args:
        config: the resolved config. Whether there is data to read is not asked here, so that a
            config can be shown before the data is at hand (`require_data_source` asks it).

    Raises:
        UserError: one line for each contradiction.
    """
    problems = [
        *_disk_problems(config),
        *_column_problems(config),
        *_gene_problems(config),
    ]
    if problems:
        raise UserError("\n".join(problems))


def require_data_source(config: RunConfig) -> None:
    """Refuses a config that names no cells. Commands that read data call it; `show` does not.

    Raises:
        UserError: `data.source` is file and `data.path` is null.
    """
    if isinstance(config.data, FileData) and config.data.path is None:
        raise UserError(
            "data.path is not set: give data.path=FILE.h5ad, or data.source=synthetic for the "
            "synthetic wound set"
        )


def _disk_problems(config: RunConfig) -> Iterator[str]:
    """A training store holds one gene matrix and no more, and steps at once need cells at hand."""
    data, at_once = config.data, config.training.steps_per_dispatch
    if at_once > 1 and data.location != "device":
        yield (
            f"training.steps_per_dispatch={at_once} needs the cells on the device, but "
            f"data.location={data.location}: set training.steps_per_dispatch=1 or "
            "data.location=device."
        )
    if data.location != "disk":
        return
    fix = "set data.location=device or host"
    if not isinstance(data, FileData):
        yield f"data.location=disk reads a file, but data.source={data.source} does not: {fix}."
    if data.is_embedding:
        yield (
            f"data.location=disk reads expression, but data.input={data.input} is an embedding: "
            f"set data.input=X or layers/NAME, or {fix}."
        )
    if config.velocity.enable:
        yield f"velocity.enable=true needs the velocities of all cells in memory: {fix}."


def _column_problems(config: RunConfig) -> Iterator[str]:
    """What needs a column of the labels that the data are said not to have."""
    data, split, model = config.data, config.split, config.model
    if split.column is not None and getattr(data, split.column) is None:
        yield f"split.kind={split.kind} needs the column of it: set data.{split.column}=COLUMN."
    if model.batch_embedding and data.replicate_col is None:
        yield (
            "model.batch_embedding=true, but data.replicate_col is null: "
            "set data.replicate_col=COLUMN or model.batch_embedding=false."
        )
    if model.timepoint_embedding != "none" and data.timepoint_col is None:
        yield (
            f"model.timepoint_embedding={model.timepoint_embedding}, but data.timepoint_col is "
            "null: set data.timepoint_col=COLUMN or model.timepoint_embedding=none."
        )


def _gene_problems(config: RunConfig) -> Iterator[str]:
    """A decoder of what are genes already, and what a model without genes cannot be asked for."""
    data, decodes = config.data, config.model.decoder.enable
    if decodes and not data.is_embedding:
        yield (
            f"model.decoder.enable=true, but data.input={data.input} is a gene matrix already: "
            "set data.input=obsm/KEY or model.decoder.enable=false."
        )
    if decodes or not data.is_embedding:
        return
    of_genes = {"round_to_counts": "rounds expression", "across_genes": "learns from gene to gene"}
    for key, does in of_genes.items():
        if getattr(config.prediction, key):
            yield (
                f"prediction.{key}=true {does}, but the model predicts data.input="
                f"{data.input}, an embedding: set prediction.{key}=false, or "
                "model.decoder.enable=true to predict genes."
            )
