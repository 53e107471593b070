import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_labels, tiny_obs

from wound_jax.data.annotations import (
    ONE_TYPE,
    Annotations,
    excluded,
    read_annotations,
    require_control,
)
from wound_jax.data.settings import DataSettings
from wound_jax.errors import UserError

pytestmark = pytest.mark.quick

OBS = tiny_obs()


def test_columns_are_read_under_the_names_of_the_config():
    labels = tiny_labels(OBS)
    assert len(labels) == len(OBS)
    assert list(labels.names) == list(OBS.index)
    columns = {
        "condition": "treatment",
        "cell_type": "type",
        "timepoint": "day",
        "replicate": "mouse",
    }
    for role, column in columns.items():
        assert list(labels.column(role)) == list(OBS[column])


def test_a_label_that_the_data_do_not_have_is_empty():
    labels = tiny_labels(OBS.drop(columns=["day", "mouse"]), timepoint_col=None, replicate_col=None)
    assert set(labels.timepoint) == set(labels.replicate) == {""}


def test_cells_without_a_column_of_types_are_of_one_type():
    labels = tiny_labels(OBS.drop(columns="type"), cell_type_col=None)
    assert set(labels.cell_type) == {ONE_TYPE}


@pytest.mark.parametrize("values", [[1, 2, 3], pd.Categorical([1, 2, 3])])
def test_numbers_become_text(values):
    obs = OBS.iloc[:3].assign(mouse=values)
    assert list(tiny_labels(obs).replicate) == ["1", "2", "3"]


def test_a_missing_column_is_named_with_its_key_and_the_columns_there_are():
    with pytest.raises(
        UserError, match=r"data\.pert_col 'treat'.*mean 'treatment'.*mouse"
    ) as error:
        tiny_labels(OBS, pert_col="treat")
    assert "null" not in str(error.value)
    with pytest.raises(UserError, match=r"'types'.*mean 'type'.*data\.cell_type_col=null"):
        tiny_labels(OBS, cell_type_col="types")
    with pytest.raises(
        UserError, match=r"'timepoint'.*Known: day, mouse.*data\.timepoint_col=null"
    ):
        tiny_labels(OBS, timepoint_col="timepoint")


@pytest.mark.parametrize("empty", [None, np.nan, ""])
def test_unlabelled_cells_are_an_error(empty):
    types = OBS["type"].astype(object)
    types.iloc[[0, 4]] = empty
    with pytest.raises(UserError, match=rf"'type'.*empty for 2 of {len(OBS)} cells"):
        tiny_labels(OBS.assign(type=types))


def test_the_control_label_has_to_occur_beside_another():
    labels = tiny_labels(OBS)
    require_control(labels, "sham")
    with pytest.raises(UserError, match=r"data\.control.*'Sham'.*mean 'sham'.*burn, sham"):
        require_control(labels, "Sham")
    with pytest.raises(UserError, match="all cells are 'sham' cells"):
        require_control(labels.take(labels.condition == "sham"), "sham")


def test_take_keeps_labels_of_a_cell_together():
    labels = tiny_labels(OBS)
    index = np.array([7, 3, 3])
    for role in ("names", "condition", "cell_type", "timepoint", "replicate"):
        assert list(labels.take(index).column(role)) == list(labels.column(role)[index])


def test_excluded_cells_carry_one_of_the_values_of_a_column():
    exclude = {"type": ("B cell",), "mouse": ("burn_d1_m0", "sham_d2_m1")}
    expected = (OBS["type"] == "B cell") | OBS["mouse"].isin(exclude["mouse"])
    assert (excluded(OBS, exclude) == expected).all()
    assert not excluded(OBS, {}).any()


def test_a_filter_that_matches_nothing_lists_what_there_is():
    with pytest.raises(UserError, match=r"data\.exclude 'batch'.*Known: day, mouse"):
        excluded(OBS, {"batch": ("1",)})
    with pytest.raises(UserError, match=r"'type' in data\.exclude 'Tcell'.*Known: B cell, T cell"):
        excluded(OBS, {"type": ("B cell", "Tcell")})
    with pytest.raises(UserError, match=f"leaves none of {len(OBS)} cells"):
        excluded(OBS, {"type": ("B cell", "T cell")})


def test_another_file_need_not_hold_what_the_filter_leaves_out():
    exclude = {"batch": ("1",), "type": ("B cell", "doublet")}
    found = excluded(OBS, exclude, strict=False)
    assert (found == (OBS["type"] == "B cell")).all()


# Labels that a separator would mix up: ("a", "a|a") and ("a|a", "a").
LABEL = st.sampled_from(["a", "a\x1fa", "a|a", "b", "10", "2"])


@given(st.lists(st.tuples(LABEL, LABEL, LABEL), max_size=30), st.data())
def test_positions_by_are_those_of_a_plain_search(rows, data):
    table = np.array(rows, dtype=object).reshape(-1, 3)
    labels = Annotations(np.arange(len(rows)), *table.T, replicate=np.full(len(rows), "", object))
    roles = data.draw(st.permutations(("condition", "cell_type", "timepoint")))
    roles = roles[: data.draw(st.integers(0, 3))]
    cells = np.array(data.draw(st.permutations(range(len(rows)))), dtype=int)
    cells = cells[: data.draw(st.integers(0, len(rows)))]
    expected: dict[tuple, list] = {}
    for cell in cells:
        expected.setdefault(tuple(labels.column(r)[cell] for r in roles), []).append(cell)
    found = labels.positions_by(roles, cells)
    assert {key: list(part) for key, part in found.items()} == expected


def test_the_defaults_of_the_config_read_the_columns_of_the_wound_set():
    obs = pd.DataFrame(
        {
            "condition": ["Burn"],
            "cell_types_simple_short": ["Ker"],
            "timepoint": ["day10"],
            "mouse_id": ["m1"],
        }
    )
    labels = read_annotations(obs, DataSettings())
    found = labels.condition, labels.cell_type, labels.timepoint, labels.replicate
    assert [str(column[0]) for column in found] == ["Burn", "Ker", "day10", "m1"]
