"""The rules on keys: the code reads each one, a set one has an effect, none contradicts another."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import wound_jax
from wound_jax.config import load_config, require_data_source
from wound_jax.config.keys import schema_keys, value_at
from wound_jax.config.rules import check_consistency, rules_of
from wound_jax.config.schema import tagged_sections
from wound_jax.config.text import inline
from wound_jax.errors import UserError

pytestmark = pytest.mark.quick

PACKAGE = Path(wound_jax.__file__).parent


def attributes_read(sources: Iterable[str]) -> Iterator[str]:
    """The names of all attributes that the sources read (`x.name`, not `x.name = ...`)."""
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                yield node.attr


def test_every_key_is_read_outside_the_config_package():
    """Every leaf of the schema is read somewhere as an attribute of its name.

    The check goes by the last name alone. It finds a key that nobody reads; it cannot tell
    `model.dropout` from `model.lora.dropout`, nor a key from any other attribute called `name`,
    and it sees neither `getattr` nor a whole section turned into a dict.
    """
    files = [p for p in PACKAGE.rglob("*.py") if PACKAGE / "config" not in p.parents]
    read = set(attributes_read(path.read_text(encoding="utf-8") for path in files))
    # A tag is read by the registry of its kind.
    tags = {f"{name}.{tagged.variants.tag}" for name, tagged in tagged_sections().items()}
    unread = [k for k in schema_keys() if k not in tags and k.rpartition(".")[2] not in read]
    assert not unread, f"config keys that no code reads: {', '.join(unread)}"


def test_a_key_counts_as_read_when_loaded_and_not_when_assigned():
    sources = ["x = config.training.seed", "thing.heads = 3\ndel thing.layers"]
    assert set(attributes_read(sources)) == {"training", "seed"}


def complaint(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(UserError) as error:
        load_config(path, overrides)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "key", "switch", "fix"),
    [
        ("data.genes=X", "data.genes=X", "data.input is X", "data.input=obsm/KEY"),
        ("model.lora.r=32", "model.lora.r=32", "model.lora.enable is false",
         "model.lora.enable=true"),
        ("model.lora.enable=false model.lora.targets=[q]", "model.lora.targets=[q]",
         "model.lora.enable is false", "model.lora.enable=true"),
        ("model.lora.enable=true model.lora.targets=[q] model.lora.adapt_mlp=true",
         "model.lora.adapt_mlp=true", "model.lora.targets is [q]", "model.lora.targets=null"),
        ("training.lora_b_multiplier=16", "training.lora_b_multiplier=16.0",
         "model.lora.enable is false", "model.lora.enable=true"),
        ("model.decoder.weight=2", "model.decoder.weight=2.0", "model.decoder.enable is false",
         "model.decoder.enable=true"),
        ("split.kind=replicate split.test=[a] split.test_fraction=0.2", "split.test_fraction=0.2",
         "split.test is [a]", "split.test=null"),
        ("split.kind=fewshot split.test=[a] split.val=[b] split.val_fraction=0.1",
         "split.val_fraction=0.1", "split.val is [b]", "split.val=null"),
    ],
)  # fmt: skip
def test_a_set_key_whose_switch_is_off_is_an_error(overrides, key, switch, fix):
    line = complaint(*overrides.split())
    expected = f"{key} has no effect: {switch}. Set {fix} or remove the key."
    assert line == f"command line: {expected}"


NAMED = "split.kind=replicate or split.kind=timepoint or split.kind=celltype or split.kind=fewshot"


@pytest.mark.parametrize(
    ("overrides", "key", "tag", "belongs"),
    [
        ("data.source=synthetic data.path=a.h5ad", "data.path", "synthetic", "data.source=file"),
        ("data.synthetic.seed=42", "data.synthetic.seed", "file", "data.source=synthetic"),
        ("training.weight_decay=0.1 training.optimizer=adam", "training.weight_decay", "adam",
         "training.optimizer=adamw"),
        ("model.backbone=gpt2 model.kv_heads=2", "model.kv_heads", "gpt2", "model.backbone=llama"),
        ("loss.blur=1", "loss.blur", "energy", "loss.name=sinkhorn or loss.name=combined"),
        ("loss.name=sinkhorn loss.sinkhorn_weight=1", "loss.sinkhorn_weight", "sinkhorn",
         "loss.name=combined"),
        ("split.fewshot_fraction=0.2", "split.fewshot_fraction", "random", "split.kind=fewshot"),
        ("split.test=[a]", "split.test", "random", NAMED),
        ("split.val=[]", "split.val", "random", NAMED),
        ("split.kind=celltype split.test=[a] split.kind=random split.val=[b]", "split.val",
         "random", NAMED),
    ],
)  # fmt: skip
def test_a_key_of_another_variant_is_refused_with_the_tag_that_has_it(overrides, key, tag, belongs):
    assert complaint(*overrides.split()) == (
        f"command line: {key}: {tag} has no such key; it belongs to {belongs}. "
        "Set that or remove the key."
    )


@pytest.mark.parametrize(
    "overrides",
    [
        "model.lora.enable=false model.decoder.enable=false",
        "model.lora.enable=true model.lora.r=32 training.lora_b_multiplier=4.0",
        "data.source=synthetic data.synthetic.seed=1",
        "data.path=a.h5ad",
        "data.input=obsm/A model.decoder.enable=true data.genes=layers/counts",
        "data.input=obsm/A model.decoder.enable=true prediction.round_to_counts=true",
        "model.kv_heads=2",
        "training.weight_decay=0.1",
        "split.test_fraction=0.2 split.val_fraction=0.2",
        "split.kind=celltype split.test=[a] split.val_fraction=0.2",
        "split.kind=timepoint split.test_fraction=0.2",
        "split.kind=fewshot split.test=[a] split.fewshot_fraction=0.2 split.val_fraction=0.2",
    ],
)
def test_an_active_key_passes(overrides):
    config = load_config(None, overrides.split())
    for key, _, value in (text.partition("=") for text in overrides.split()):
        assert inline(value_at(config, key)) == value


def test_own_keys_are_judged_and_inherited_ones_are_not(tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text("model: {lora: {r: 8, alpha: 4}}\n")
    heir = tmp_path / "heir.yaml"
    heir.write_text("extends: base.yaml\nseed: 1\n")
    assert load_config(heir).model.lora.r == 8
    lines = complaint(path=base).splitlines()
    assert [line.partition(" has no effect")[0] for line in lines] == [
        f"{base}: model.lora.r=8",
        f"{base}: model.lora.alpha=4.0",
    ]


def test_an_inherited_key_without_effect_neither_blocks_nor_contradicts_another(tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text("split: {kind: replicate, test: [a]}\nmodel: {kv_heads: 3, heads: 6}\n")
    heir = tmp_path / "heir.yaml"
    heir.write_text(
        "extends: base.yaml\nsplit: {kind: random, test_fraction: 0.2}\n"
        "model: {backbone: gpt2, heads: 8}\n"
    )
    # Random cells are drawn by fraction whatever is named; gpt2 has no key and value heads.
    assert value_at(load_config(heir), "split.test_fraction") == 0.2


def test_a_switch_thrown_on_the_command_line_does_not_blame_the_file(tmp_path):
    path = tmp_path / "lora.yaml"
    path.write_text("model: {lora: {enable: true, r: 8}}\n")
    assert load_config(path, ["model.lora.enable=false"]).model.lora.r == 8
    assert "command line: model.lora.r=4 has no effect" in complaint(
        "model.lora.enable=false", "model.lora.r=4", path=path
    )


def every_rule():
    """The rules of each variant of each section, with the overrides that choose the variant."""
    needed = {"split.kind=fewshot": ["split.test=[a]"]}
    for section, tagged in tagged_sections().items():
        for name in tagged.variants.names():
            choice = f"{section}.{tagged.variants.tag}={name}"
            chosen = [choice, *needed.get(choice, [])]
            for rule in rules_of(load_config(None, chosen)):
                yield pytest.param(rule, chosen, id=f"{choice} {rule.keys}")


@pytest.mark.parametrize(("rule", "chosen"), list(every_rule()))
def test_the_fix_of_each_rule_gives_its_keys_an_effect(rule, chosen):
    needed = {
        "model.decoder.enable=true": ["data.input=obsm/A"],
        "model.lora.targets=null": ["model.lora.enable=true"],
        "model.mhc.mixing=streams": ["model.mhc.enable=true"],
        "model.mhc.h_res=sinkhorn": ["model.mhc.enable=true"],
        "velocity.source=matched_target": ["velocity.enable=true"],
        "velocity.beta=1.0": ["velocity.enable=true"],
    }
    fix = rule.fix.partition(" ")[0]
    cleared = [text for text in chosen if text.partition("=")[0] != fix.partition("=")[0]]
    fixed = load_config(None, [*cleared, *needed.get(fix, []), fix])
    assert rule.active(fixed)
    keys = [key for key in schema_keys() if rule.governs(key)]
    assert keys
    assert rule.switch in schema_keys()
    assert rule.switch not in keys


def test_a_changed_tag_takes_back_what_was_said_to_the_old_variant(tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text(
        "split: {kind: replicate, test: [m1], val: [m2], controls: shared, seed: 7}\n"
        "loss: {name: sinkhorn, epsilon: absolute, blur: 2.0}\n"
        "model: {kv_heads: 2, heads: 4}\ndata: {source: synthetic, synthetic: {seed: 3}}\n"
    )
    heir = tmp_path / "heir.yaml"
    heir.write_text("extends: base.yaml\nsplit: {kind: timepoint}\nmodel: {backbone: gpt2}\n")
    config = load_config(heir, ["loss.name=combined", "data.source=file", "data.path=a.h5ad"])
    assert inline(config.split.model_dump()) == inline(
        {"kind": "timepoint", "controls": "shared", "seed": 7, "test_fraction": 0.1,
         "val_fraction": 0.1, "test": None, "val": None}
    )  # fmt: skip
    # What the combined loss has from the Sinkhorn divergence means the same to it.
    assert value_at(config, "loss.blur") == 2.0
    assert (config.model.heads, config.data.source) == (4, "file")
    # The other kind's fraction of units, drawn by the seed, is still a fraction of units.
    drawn = load_config(None, ["split.test_fraction=0.3", "split.kind=celltype"])
    assert value_at(drawn, "split.test_fraction") == 0.3
    # The same tag again changes nothing.
    assert value_at(load_config(base, ["split.kind=replicate"]), "split.test") == ("m1",)


def test_what_a_base_says_to_another_variant_is_not_blamed(tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text("loss: {blur: 0.1}\nsplit: {test: [NK]}\n")
    heir = tmp_path / "heir.yaml"
    heir.write_text("extends: base.yaml\nsplit: {kind: celltype}\n")
    config = load_config(heir)
    assert (config.loss.name, value_at(config, "split.test")) == ("energy", ("NK",))
    assert "loss.blur: energy has no such key" in complaint(path=base)
    # Nor is a file blamed for a tag that the command line sets.
    own = tmp_path / "own.yaml"
    own.write_text("loss: {blur: 0.1}\n")
    assert load_config(own, ["loss.name=mse"]).loss.name == "mse"


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("data.animal_col=mouse", "It is called 'data.replicate_col' now."),
        ("data.residency=host", "It is called 'data.location' now."),
        ("prediction.regress_controls=true", "It is called 'prediction.shrink_controls' now."),
        ("prediction.count_zeros=true", "It is called 'prediction.round_to_counts' now."),
        ("split.kind=animal", "Did you mean 'replicate'?"),
        ("data.match_on=[animal]", "Did you mean 'replicate'?"),
    ],
)
def test_old_names_are_told_the_new_ones(override, meant):
    assert complaint(override).endswith(meant)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ("data.input=obsm", "data.input=obsm: expected X, layers/NAME or obsm/KEY."),
        (
            "data.input=obsm/A model.decoder.enable=true data.genes=obsm/B",
            "data.genes=obsm/B: expected a gene matrix, X or layers/NAME.",
        ),
        (
            "data.match_on=[replicate] data.replicate_col=",
            "set data.replicate_col=COLUMN or take replicate",
        ),
        (
            "split.kind=replicate data.replicate_col=",
            "split.kind=replicate needs .* data.replicate_col=COLUMN",
        ),
        ("split.kind=celltype data.cell_type_col=", "celltype needs .* data.cell_type_col=COLUMN"),
        ("split.kind=fewshot split.test=[a] data.cell_type_col=", "data.cell_type_col=COLUMN"),
        ("split.kind=timepoint data.timepoint_col=", "set data.timepoint_col=COLUMN"),
        ("split.kind=fewshot", r"needs the types by name: set split.test=\[CELL TYPE, ...\]"),
        ("split.kind=fewshot split.test=[]", "needs the types by name"),
        ("split.kind=replicate split.test=[]", r"split.test=\[\] names nothing .* split.test=null"),
        (
            "split.test_fraction=0.5 split.val_fraction=0.5",
            r"^split.test_fraction=0.5 \+ split.val_fraction=0.5 is 1, .* expected a sum below 1",
        ),
        (
            "model.hidden_dim=9 model.heads=2",
            "model.hidden_dim=9 is not divisible by model.heads=2",
        ),
        ("model.heads=8 model.kv_heads=3", "model.heads=8 is not divisible by model.kv_heads=3"),
        ("model.decoder.enable=true", "data.input=X is a gene matrix already: set data.input=obsm"),
        ("model.timepoint_embedding=categorical data.timepoint_col=", "data.timepoint_col is null"),
        ("training.max_epochs=", "training.max_epochs and training.max_steps are both null"),
        (
            "prediction.round_to_counts=true data.input=obsm/A",
            "data.input=obsm/A, an embedding: set prediction.round_to_counts=false, or "
            "model.decoder",
        ),
        (
            "prediction.across_genes=true prediction.linear_weight=auto data.input=obsm/A",
            "data.input=obsm/A, an embedding: set prediction.across_genes=false, or model.decoder",
        ),
        (
            "prediction.across_genes=true",
            "prediction.linear_weight=0 gives rules no share: set prediction.linear_weight=auto",
        ),
    ],
)
def test_contradictions_name_the_keys_and_the_way_out(overrides, problem):
    (line,) = complaint(*overrides.split()).splitlines()
    assert re.search(problem, line), line


@pytest.mark.parametrize(
    "overrides",
    [
        "data.timepoint_col=",
        "split.kind=celltype",
        "split.kind=timepoint split.test=[D1] split.val_fraction=0.95",
        "model.backbone=gpt2 model.heads=2",
        "training.max_epochs= training.max_steps=5",
        "data.input=obsm/A model.decoder.enable=true data.genes=layers/counts",
    ],
)
def test_sensible_combinations_pass(overrides):
    check_consistency(load_config(None, overrides.split()))


def test_the_data_source_is_asked_for_only_where_data_is_read():
    with pytest.raises(
        UserError, match=r"^data.path is not set: give data.path=FILE.h5ad, or data"
    ):
        require_data_source(load_config(None))
    require_data_source(load_config(None, ["data.path=x.h5ad"]))
    require_data_source(load_config(None, ["data.source=synthetic"]))
