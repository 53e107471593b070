"""Reading a config: what a file and overrides add up to, and the one line for each mistake."""

import re
import tempfile
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from wound_jax.config import RunConfig, dump_config, load_config
from wound_jax.config.keys import leaves as config_leaves
from wound_jax.config.keys import schema_keys, value_at
from wound_jax.config.load import parse_config
from wound_jax.config.text import inline
from wound_jax.errors import UserError

pytestmark = pytest.mark.quick


@pytest.fixture
def write(tmp_path):
    """Writes a file into one folder and gives its path."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def mistakes(path: Path | None = None, *overrides: str) -> list[str]:
    """The lines of the error that loading must raise."""
    with pytest.raises(UserError) as error:
        load_config(path, overrides)
    return str(error.value).splitlines()


def test_no_file_and_an_empty_file_give_the_defaults(write):
    assert load_config(None) == RunConfig()
    assert load_config(write("empty.yaml", "")) == RunConfig()
    assert load_config(write("comment.yaml", "# nothing yet\n")) == RunConfig()


def test_the_text_of_a_config_is_read_without_a_file(write):
    base = write("base.yaml", "seed: 7\nmodel: {heads: 2}\n")
    text = "extends: base.yaml\nname: x\n"
    source = str(base.with_name("elsewhere.yaml"))
    assert parse_config(text, ["model.heads=4"], source) == load_config(
        write("there.yaml", text), ["model.heads=4"]
    )
    assert parse_config(dump_config(RunConfig(seed=3))) == RunConfig(seed=3)
    with pytest.raises(UserError, match=r"^first\.yaml: unknown config key 'nmae'"):
        parse_config("nmae: x\n", source="first.yaml")


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 1e-3), ("1E2", 100.0), (".5", 0.5), ("1.", 1.0), ("2.5e+1", 25.0), ("1_0.5", 10.5)],
)
def test_every_spelling_of_a_number_is_a_number(write, text, number):
    path = write("a.yaml", f"training:\n  learning_rate: {text}\n")
    assert load_config(path).training.learning_rate == number
    assert load_config(None, [f"training.learning_rate={text}"]).training.learning_rate == number


@pytest.mark.parametrize("label", ["007", "1:30", "2024-01-01", "e5", "0x1F", "D1"])
def test_a_label_that_only_resembles_a_number_stays_text(label):
    assert load_config(None, [f"name={label}"]).name == label


def test_a_key_is_text_however_it_reads(write):
    config = load_config(write("a.yaml", "data: {exclude: {3: [x], no: [y]}}\n"))
    assert config.data.exclude == {"3": ("x",), "no": ("y",)}
    path = write("b.yaml", "on: 1\n")
    assert mistakes(path)[0].startswith(f"{path}: unknown config key 'on'.")


def test_later_files_the_file_itself_and_overrides_win_in_this_order(write):
    write("base.yaml", "seed: 1\nname: base\ntraining: {batch_size: 2, warmup_steps: 1}\n")
    write("more/other.yaml", "extends: ../base.yaml\nseed: 2\ndata: {exclude: {day: [D1]}}\n")
    path = write(
        "top.yaml",
        "extends: [base.yaml, more/other.yaml]\n"
        "training: {batch_size: 3, max_epochs: null, max_steps: 9}\ndata: {exclude: {type: [B]}}\n",
    )
    config = load_config(path, ["training.batch_size=4", "training.batch_size=5"])
    assert (config.seed, config.name) == (2, "base")
    assert config.training.model_dump() == {
        **RunConfig().training.model_dump(),
        **{"batch_size": 5, "warmup_steps": 1, "max_epochs": None, "max_steps": 9},
    }
    assert config.data.exclude == {"day": ("D1",), "type": ("B",)}


def test_null_takes_back_what_a_config_excludes(write):
    path = write("a.yaml", "data: {exclude: {day: [D1], type: [B]}}\n")
    assert load_config(path, ["data.exclude.type=null"]).data.exclude == {"day": ("D1",)}
    assert load_config(path, ["data.exclude=null"]).data.exclude == {}
    again = load_config(path, ["data.exclude=null", "data.exclude.day=[D2]"])
    assert again.data.exclude == {"day": ("D2",)}


def test_overrides_are_yaml():
    config = load_config(
        None,
        [
            "split.kind=celltype",
            "split.test=[NK cells, 'T, gd']",
            "model.kv_heads=",
            "data.exclude.orig.ident=[m1]",
            "model.lora={enable: true, r: 4}",
            "run_dir=runs/lr=1e-3",
        ],
    )
    assert value_at(config, "split.test") == ("NK cells", "T, gd")
    assert value_at(config, "model.kv_heads") is None
    assert config.data.exclude == {"orig.ident": ("m1",)}
    assert (config.model.lora.enable, config.model.lora.r) == (True, 4)
    assert config.run_dir == "runs/lr=1e-3"


@pytest.mark.parametrize("text", ["training.seed", "=3", " =3", ""])
def test_an_override_without_key_or_value_is_refused(text):
    assert mistakes(None, text) == [
        f"command line: got {text!r}, expected KEY=VALUE, like training.batch_size=8."
    ]


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("learning_rate", "Did you mean 'training.learning_rate'?"),
        ("model.hiden_dim", "Did you mean 'model.hidden_dim'?"),
        ("trainning.max_steps", "Did you mean 'training.max_steps'?"),
        ("r", "Did you mean 'model.lora.r'?"),
        ("lora.enable", "Did you mean 'model.lora.enable'"),
        ("loss.zzz", "Known there: loss.name."),
        ("training.clip_norm.x", "Known there: training.batch_size, training.max_epochs, "),
    ],
)
def test_an_unknown_key_names_the_nearest_of_all_keys(key, nearest):
    (line,) = mistakes(None, f"{key}=1")
    assert line.startswith(f"command line: unknown config key {key!r}. {nearest}")


def test_each_mistake_is_one_line_with_the_file_it_comes_from(write):
    base = write("base.yaml", "modle: {heads: 2}\nmodel: {hidden_dim: 0, layers: 0}\n")
    path = write("top.yaml", "extends: base.yaml\nmodel: {layers: x}\ndata: {batch_size: 3}\n")
    assert sorted(mistakes(path, "split.kind=replicates")) == [
        f"{base}: model.hidden_dim: got 0, expected an integer >= 1.",
        f"{base}: unknown config key 'modle'. Did you mean 'model'?",
        f"{path}: model.layers: got x, expected an integer >= 1.",
        f"{path}: unknown config key 'data.batch_size'. Did you mean 'training.batch_size'?",
        "command line: split.kind: got replicates, expected one of 'random', 'replicate', "
        "'timepoint', "
        "'celltype', 'fewshot'. Did you mean 'replicate'?",
    ]


def test_dots_in_a_file_are_refused(write):
    path = write("a.yaml", "training.batch_size: 2\nmodel: {lora.r: 3}\nmodel.decoder: {}\n")
    assert sorted(mistakes(path)) == [
        f"{path}: the key 'model.decoder' is written with dots: in a file, nest it.",
        f"{path}: the key 'model.lora.r' is written with dots: in a file, nest it.",
        f"{path}: the key 'training.batch_size' is written with dots: in a file, nest it.",
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("training.learning_rate=fast", "got fast, expected a number > 0."),
        ("training.learning_rate=-1e-3", "got -0.001, expected a number > 0."),
        ("training.learning_rate=.nan", "got .nan, expected a number > 0."),
        ("data.control_fraction=1", "got 1, expected a number >= 0 and < 1."),
        ("data.source=synthetic data.synthetic.n_cells=20", "got 20, expected an integer >= 500."),
        ("model.heads=8.0", "got 8.0, expected an integer >= 1."),
        ("model.heads=true", "got true, expected an integer >= 1."),
        ("data.n_hvg=0", "got 0, expected null or an integer >= 1."),
        ("evaluation.plots=1", "got 1, expected true or false."),
        ("training.devices=some", "got some, expected an integer >= 1 or 'all'."),
        ("split.kind=celltype split.test=NK", "got NK, expected null or a list, each item text."),
        ("data.exclude=[a]", "got [a], expected a mapping, each value a list, each item text."),
        (
            "loss=mse",
            "got mse, expected a section with the keys name.",
        ),
        (
            "data.match_on=[cell, timepoint]",
            "got [cell, timepoint], expected a list, each item one of 'cell_type', 'timepoint', "
            "'replicate'. Did you mean 'cell_type'?",
        ),
        (
            "data.control=3",
            "got 3, expected text. Text that reads as a number or a truth value needs quotes: "
            """'3', on a command line "'3'".""",
        ),
    ],
)
def test_a_wrong_value_says_what_was_given_and_expected(override, problem):
    tagged = override.startswith(("data.source=", "split.kind="))
    given = override.split(" ", 1) if tagged else [override]
    key = given[-1].partition("=")[0]
    assert mistakes(None, *given) == [f"command line: {key}: {problem}"]


def test_text_that_is_no_yaml_names_the_line(write):
    twice = write("twice.yaml", "seed: 1\nmodel:\n  heads: 2\n  heads: 4\n")
    assert mistakes(twice) == [
        f"{twice}, line 4: this is not valid YAML: the key 'heads' is given twice."
    ]
    (broken,) = mistakes(write("broken.yaml", "seed: 1\nmodel: [1\n"))
    assert re.search(r"broken.yaml, line 3: this is not valid YAML: expected ',' or '\]'", broken)
    a_list = write("list.yaml", "- seed\n")
    assert mistakes(a_list) == [f"{a_list}: got [seed], expected keys with values, like seed: 42."]
    (value,) = mistakes(None, "split.test=[a")
    assert value.startswith("command line, 'split.test=[a', line 1: this is not valid YAML:")


def test_a_missing_file_names_the_nearest_and_a_folder_is_refused(write, tmp_path):
    good = write("burn_gene.yaml", "")
    (line,) = mistakes(tmp_path / "burn_gen.yaml")
    assert line == (
        f"unknown config file '{tmp_path}/burn_gen.yaml'. Did you mean '{good}'? Known: {good}."
    )
    assert mistakes(tmp_path) == [
        f"{tmp_path} is a folder, expected a YAML file. YAML files in it: {good}."
    ]
    (tmp_path / "cells.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n\xff")
    assert mistakes(tmp_path / "cells.h5ad") == [
        f"{tmp_path}/cells.h5ad is not text, expected a YAML file."
    ]


def test_extends_refuses_circles_missing_files_and_wrong_types(write):
    a = write("a.yaml", "extends: sub/b.yaml\n")
    b = write("sub/b.yaml", "extends: ../a.yaml\n")
    assert mistakes(a) == [f"extends goes in a circle: {a} -> {b} -> {b.parent}/../a.yaml"]
    c = write("c.yaml", "extends: bsae.yaml\n")
    base = write("base.yaml", "")
    (line,) = mistakes(c)
    assert f"unknown base config of {c} '{c.parent}/bsae.yaml'. Did you mean '{base}'" in line
    d = write("d.yaml", "extends: 3\n")
    assert mistakes(d) == [f"{d}: extends: got 3, expected a file or a list of them."]


TEXT = st.text(max_size=12)
LABELS = st.lists(st.one_of(TEXT, st.integers().map(str), st.floats().map(str)), max_size=3)


def is_name(text: str) -> bool:
    return text.isprintable() and not {"/", "\\"} & set(text) and bool(text.strip(" ."))


CONFIGS = st.fixed_dictionaries(
    {
        "name": TEXT.filter(is_name),
        "run_dir": st.none()
        | st.sampled_from(["1e5", "1.5", "yes", "null", "~", "=", "<<", "- a"]),
        "seed": st.integers(0, 2**32 - 1),
        "data": st.fixed_dictionaries(
            {"path": st.none() | TEXT, "exclude": st.dictionaries(TEXT, LABELS, max_size=2)}
        ),
        "split": st.fixed_dictionaries(
            {"kind": st.just("celltype"), "test": st.none() | LABELS.filter(bool)}
        ),
        "model": st.fixed_dictionaries(
            {
                "lora": st.fixed_dictionaries(
                    {"r": st.integers(1, 99), "targets": st.none() | LABELS}
                )
            }
        ),
        "training": st.fixed_dictionaries(
            {
                "learning_rate": st.floats(0, exclude_min=True, allow_infinity=False),
                "clip_norm": st.none() | st.integers(1, 9),
                "devices": st.just("all") | st.integers(1, 9),
            }
        ),
    }
)


@given(CONFIGS)
@settings(max_examples=150, deadline=None)
def test_a_dumped_config_reads_back_equal_inactive_keys_included(values):
    config = RunConfig.model_validate(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(dump_config(config), encoding="utf-8")
        assert load_config(path) == config
    assert load_config(None, [f"name={inline(config.name)}"]).name == config.name


def test_a_dump_lists_every_key_and_still_judges_the_command_line(write):
    path = write("config.yaml", dump_config(RunConfig()))
    assert list(yaml.safe_load(path.read_text())["training"]) == list(
        RunConfig().training.model_dump()
    )
    assert "model.lora.r=3 has no effect" in mistakes(path, "model.lora.r=3")[0]
    # A file that extends a complete config inherits its keys and is judged for its own.
    heir = write("heir.yaml", "extends: config.yaml\nmodel: {lora: {r: 3}}\n")
    assert mistakes(heir)[0].startswith(f"{heir}: model.lora.r=3 has no effect")


def test_schema_keys_are_all_leaves():
    def leaves(values: dict, prefix: str = ""):
        for name, value in values.items():
            section = isinstance(value, dict) and name != "exclude"
            yield from leaves(value, f"{prefix}{name}.") if section else [(prefix + name, value)]

    expected = dict(leaves(RunConfig().model_dump()))
    assert config_leaves(RunConfig()) == expected
    assert set(expected) <= set(schema_keys())
    assert {key: value_at(RunConfig(), key) for key in expected} == expected
    assert schema_keys()["data.source"] == Literal["file", "synthetic"]
    assert {"split.fewshot_fraction", "data.synthetic.seed"} <= set(schema_keys())
