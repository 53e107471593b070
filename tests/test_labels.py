"""Labels: read alike everywhere, told apart where a person would not, safe as names of folders."""

import re
import string
import unicodedata
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import COLUMNS, tiny_adata, tiny_config, tiny_labels, tiny_obs, write

from wound_jax import cli
from wound_jax.config import load_config
from wound_jax.config.keys import expected, schema_keys, value_at
from wound_jax.config.schema import RunConfig
from wound_jax.config.text import inline
from wound_jax.data.annotations import excluded
from wound_jax.data.label_columns import read_column, refuse_other_spelling
from wound_jax.data.label_text import alike, is_missing, look
from wound_jax.data.prepare import prepare
from wound_jax.data.velocity.options import parse_leave_out
from wound_jax.errors import UserError, named, shown, warn_once
from wound_jax.experiments.folder_names import folder_names
from wound_jax.registry import as_read

pytestmark = pytest.mark.quick

OBS = tiny_obs()


@pytest.fixture(autouse=True)
def _said_anew():
    warn_once.cache_clear()


def obs_with(column: str, change: Mapping[int, object]) -> pd.DataFrame:
    """Tiny labels, some of them changed by the position of the cell."""
    labels = OBS[column].astype(object)
    for place, label in change.items():
        labels.iloc[place] = label
    return OBS.assign(**{column: labels})


@pytest.mark.parametrize("ends", ["{} ", " {}", "\t{}\n", "\u00a0{}\u2003", "\u200b{}\ufeff"])
def test_blanks_at_the_ends_go_and_are_counted(ends, capsys):
    label = str(OBS["mouse"].iloc[0])
    found = tiny_labels(obs_with("mouse", {0: ends.format(label)}))
    assert list(found.replicate) == list(OBS["mouse"])
    said = capsys.readouterr().err
    assert f"1 of {len(OBS)} cells" in said
    assert repr(ends.format(label)) in said
    assert "obs['mouse'] (data.replicate_col)" in said


def test_the_unicode_form_does_not_tell_labels_apart(capsys):
    decomposed = unicodedata.normalize("NFD", "Zelle é")
    found = tiny_labels(obs_with("type", dict.fromkeys(range(5), "Zelle é") | {7: decomposed}))
    assert (found.cell_type == "Zelle é").sum() == 6
    assert "1 of " in capsys.readouterr().err


def test_what_is_right_is_not_spoken_of(capsys):
    tiny_labels(OBS)
    assert capsys.readouterr().err == ""


SAME = [
    ("mock", "Mock"),
    ("Q cell", "Q  cell"),
    ("Q cell", "Q\u00a0cell"),
    ("Q cell", "Qcell"),
    ("Q cell", "Q\u200bcell"),
    ("Q cell", "\uff31 cell"),
    ("IFN-g", "IFN\u2013g"),
    ("5' UTR", "5\u2019 UTR"),
    ("Straße", "STRASSE"),
    ("µM", "μM"),
    ("1", "1.0"),
    ("ﬁb", "fib"),
]
OTHER = [
    ("10²", "102"),
    ("1 12", "11 2"),
    ("CD4+", "CD4-"),
    ("1", "01"),
    ("1", "1.5"),
    ("\u03b1", "β"),
    ("a_b", "a b"),
]


@pytest.mark.parametrize("pair", SAME)
@pytest.mark.parametrize("column", ["treatment", "type", "day", "mouse"])
def test_labels_that_look_the_same_are_refused_with_their_counts(pair, column):
    cells = {0: pair[0], 1: pair[1], 2: pair[1]}
    with pytest.raises(UserError) as error:
        tiny_labels(obs_with(column, cells))
    said = str(error.value)
    assert f"obs[{column!r}]" in said
    assert f"{pair[0]!r} (1 cell)" in said
    assert f"{pair[1]!r} (2 cells)" in said
    assert str({pair[0]: pair[1]}) in said


@pytest.mark.parametrize("pair", OTHER)
def test_labels_that_differ_to_a_person_stay(pair):
    found = tiny_labels(obs_with("type", {0: pair[0], 1: pair[1]}))
    assert list(found.cell_type[:2]) == list(pair)


@given(st.text(max_size=8), st.text(max_size=8))
def test_what_reads_the_same_looks_the_same(one, other):
    assert as_read(as_read(one)) == as_read(one)
    assert look(as_read(one)) == look(one)
    assert not alike([one])
    assert bool(alike([one, other])) == (look(one) == look(other) and one != other)


@pytest.mark.parametrize(
    "text", ["nan", "NaN", " ", "\t", "None", "NA", "<NA>", "null", "N/A", "nan "]
)
@pytest.mark.parametrize("column", ["treatment", "type", "day", "mouse"])
def test_texts_that_stand_for_no_label_are_refused(text, column):
    with pytest.raises(UserError) as error:
        tiny_labels(obs_with(column, {0: text, 3: text, 5: None}))
    said = str(error.value)
    assert f"obs[{column!r}]" in said
    assert f"empty for 3 of {len(OBS)} cells" in said
    assert f"{text!r} (2 cells)" in said
    # The way out that is named is one.
    names = [as_read(text), "nan"]
    assert (
        excluded(obs_with(column, {0: text, 3: text, 5: None}), {column: tuple(names)}).sum() == 3
    )


@pytest.mark.parametrize("text", ["unknown", "other", "-", "nana", "no", "0", "False"])
def test_words_are_labels(text):
    assert not is_missing(text)
    assert tiny_labels(obs_with("type", {0: text})).cell_type[0] == text


def test_a_control_may_be_called_none():
    conditions = OBS["treatment"].astype(object).replace("sham", "none")
    assert "none" in tiny_labels(OBS.assign(treatment=conditions), control="none").condition
    with pytest.raises(UserError, match="'none'"):
        tiny_labels(OBS.assign(treatment=conditions), control="burn")


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1.0, 2.0, 1.0], ["1.0", "2.0", "1.0"]),
        (pd.Categorical([True, False, True]), ["True", "False", "True"]),
        (pd.array([True, False, True], dtype="boolean"), ["True", "False", "True"]),
        (np.array([0.1, 0.2, 0.1], "f4"), ["0.1", "0.2", "0.1"]),
        (np.array([b"a", b"b", b"a"], object), ["a", "b", "a"]),
        (pd.Categorical(["a", "b", "a"], categories=["a", "b", "A", " a"]), ["a", "b", "a"]),
        (pd.array(["a", "b", "a"], dtype="string"), ["a", "b", "a"]),
    ],
)
def test_whatever_the_column_holds_becomes_text(values, texts, capsys):
    assert list(read_column(pd.DataFrame({"c": values}), "c")) == texts
    # Categories that no cell has are no labels.
    assert capsys.readouterr().err == ""


def test_a_column_that_is_there_twice_is_refused():
    with pytest.raises(UserError, match="2 columns named 'type'"):
        tiny_labels(pd.concat([OBS, OBS[["type"]]], axis=1))


def test_two_categories_of_one_text_are_refused_with_their_column(tmp_path):
    path = write(tiny_adata(), tmp_path)
    with h5py.File(path, "r+") as file:
        group: Any = file["obs/type"]
        attributes = dict(group["categories"].attrs)
        texts = [*group["categories"].asstr()[:], "B cell"]
        del group["categories"]
        group.create_dataset("categories", data=texts, dtype=h5py.string_dtype())
        group["categories"].attrs.update(attributes)
    with pytest.raises(UserError, match=r"tiny.h5ad: obs\['type'\] cannot be read \(.*unique"):
        prepare(tiny_config(path, input="layers/counts", preprocess="log1p_cp10k"))


def test_the_control_of_the_config_stays_where_spellings_are_as_frequent():
    obs = obs_with("treatment", {})
    obs["treatment"] = np.where(obs["treatment"] == "sham", ["sham", "Sham"] * (len(obs) // 2), "b")
    for control in ("sham", "Sham"):
        other = {"sham": "Sham", "Sham": "sham"}[control]
        with pytest.raises(UserError, match=re.escape(str({other: control}))):
            tiny_labels(obs, control=control)


def test_a_filter_reads_labels_as_they_are_read_elsewhere():
    obs = obs_with("type", {0: "B cell ", 1: "Doublet", 2: "doublet"})
    assert excluded(obs, {"type": ("B cell",)})[0]
    assert excluded(obs, {"type": ("Doublet", "doublet")})[1:3].all()
    with pytest.raises(UserError, match="names 'Doublet', but the column holds 'doublet'"):
        excluded(obs, {"type": ("Doublet",)})
    with pytest.raises(UserError, match="names 'Doublet'"):
        excluded(obs_with("type", {2: "doublet"}), {"type": ("Doublet",)}, strict=False)


def test_labels_of_a_config_are_read_as_those_of_a_file():
    config = RunConfig.model_validate(
        {
            "data": {**COLUMNS, "control": "sham\u00a0", "exclude": {"type": [" B cell"]}},
            "split": {"kind": "replicate", "test": ["m1 ", 3, 1.5]},
        }
    )
    assert config.data.control == "sham"
    assert config.data.exclude == {"type": ("B cell",)}
    assert value_at(config, "split.test") == ("m1", "3", "1.5")


@pytest.mark.parametrize("label", ["a, b", "x=1", 'it\'s "it"', "$\\frac{$", "Δ/β", "日本", "-1"])
def test_a_command_line_can_name_any_label(label):
    config = load_config(None, ["split.kind=celltype", f"split.test={inline([label])}"])
    assert value_at(config, "split.test") == (label,)
    assert parse_leave_out([f"type={inline([label, 'x'])}"]) == {"type": (label, "x")}


def test_another_file_has_to_spell_labels_as_in_training():
    refuse_other_spelling("cell type", {"B cell", "new"}, {"B cell", "T cell"})
    with pytest.raises(UserError, match=r"'b cell'.*trained on 'B cell'"):
        refuse_other_spelling("cell type", {"b cell"}, {"B cell"})


@given(st.lists(st.text(min_size=1, max_size=80), unique=True, max_size=6))
def test_folders_of_labels_are_apart_and_stay_inside(labels):
    names = folder_names(labels)
    assert len({name.casefold() for name in names}) == len({*names}) == len(labels)
    for name in names:
        assert 0 < len(name) < 100
        assert set(name) <= set(string.ascii_letters + string.digits + "._-")
        assert name[0] not in ".-"
        assert name[-1] != "."


def test_folders_of_plain_labels_are_called_like_them():
    labels = ["CD14+ Monocytes", "NK cells", "m1", "day3.5", "burn_d1_m0"]
    assert folder_names(labels) == ["CD14_Monocytes", "NK_cells", *labels[2:]]
    assert len(set(folder_names(["a b", "a_b", "a+b", "../a", "..", "a/b"]))) == 6


def test_messages_show_what_a_terminal_would_act_on(capsys):
    assert shown("a\x1b[31mb\u202ec\n") == "a\\x1b[31mb\\u202ec\n"
    assert named(["a", "b, c", "d\x07"]) == "a, 'b, c', 'd\\x07'"

    def fails() -> int:
        raise UserError("label \x1b[2J")

    assert cli.run(fails) == 2
    assert capsys.readouterr().err == "error: label \\x1b[2J\n"


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".", "", " ", "a\\b", "a\nb", "x" * 300])
def test_a_run_is_named_like_a_folder(name):
    with pytest.raises(ValueError, match="name="):
        RunConfig(name=name)
    assert RunConfig(name="näme 1 (Δ)").name == "näme 1 (Δ)"


@pytest.mark.parametrize("key", ["seed", "split.seed", "data.synthetic.seed"])
@pytest.mark.parametrize("seed", [-1, 2**32, 1.5])
def test_seeds_are_bounded(key, seed):
    with pytest.raises(
        UserError, match=rf"{key}: got {seed}, expected an integer >= 0 and <= 4294"
    ):
        load_config(None, ["data.source=synthetic", f"{key}={seed}"])


def test_every_seed_of_every_section_has_the_bounds():
    seeds = {key: kind for key, kind in schema_keys().items() if key.split(".")[-1] == "seed"}
    assert len(seeds) >= 3
    assert {expected(kind) for kind in seeds.values()} == {"an integer >= 0 and <= 4294967295"}
