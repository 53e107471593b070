import re
from collections import Counter
from itertools import combinations
from typing import cast

import numpy as np
import pandas as pd
import pytest
from tiny import tiny_labels, tiny_obs

from wound_jax.data.annotations import Annotations, read_annotations
from wound_jax.data.settings import SPLITS, DataSettings, SyntheticSettings
from wound_jax.data.splits import PARTS, Split, make_split, split_table
from wound_jax.data.synthetic import simulate
from wound_jax.errors import UserError

pytestmark = pytest.mark.quick

LABELS = tiny_labels(tiny_obs(per_mouse=10))
PAIRED = tiny_labels(tiny_obs(paired=True, per_mouse=5))
EVERY_KIND = [
    {"kind": "random"},
    {"kind": "replicate"},
    {"kind": "timepoint"},
    {"kind": "celltype"},
    {"kind": "fewshot", "test": ["B cell"]},
]


@pytest.fixture(scope="module")
def wound() -> Annotations:
    adata = simulate(SyntheticSettings(n_cells=1500, n_genes=300, embedding_dim=8)).adata
    return read_annotations(cast(pd.DataFrame, adata.obs), DataSettings())


def split(labels: Annotations = LABELS, control: str = "sham", **config) -> Split:
    return make_split(labels, control, SPLITS.settings(config["kind"]).model_validate(config))


def values(labels: Annotations, role: str, cells: np.ndarray) -> set[str]:
    return set(labels.column(role)[cells])


@pytest.mark.parametrize("config", EVERY_KIND)
@pytest.mark.parametrize("labels", [LABELS, PAIRED])
def test_parts_are_disjoint_and_hold_every_treated_cell(config, labels):
    found = split(labels, **config)
    parts = [found.treated[part] for part in PARTS]
    assert sorted(np.concatenate(parts)) == list(np.flatnonzero(labels.condition == "burn"))
    assert all(len(part) for part in parts)
    for part in PARTS:
        assert values(labels, "condition", found.controls[part]) == {"sham"}
    union = set(found.treated["train"]) | set(found.controls["train"])
    assert list(found.training_cells) == sorted(union)


@pytest.mark.parametrize("config", EVERY_KIND)
def test_the_seed_decides(config):
    def cells(seed: int) -> list[list[int]]:
        found = split(**config, seed=seed)
        return [list(part) for part in (*found.treated.values(), *found.controls.values())]

    assert cells(3) == cells(3)
    assert len({str(cells(seed)) for seed in range(8)}) > 1


@pytest.mark.parametrize("config", EVERY_KIND)
def test_control_cells_are_held_out_or_shared(config):
    apart = split(PAIRED, **config, controls="held_out")
    shared = split(PAIRED, **config, controls="shared")
    assert list(shared.controls["train"]) == list(np.flatnonzero(PAIRED.condition == "sham"))
    for part in ("val", "test"):
        assert len(shared.controls[part]) == shared.shared_controls(part) > 0
        # Validation cells drawn one by one have no controls of their own.
        borrowed = part == "val" and config["kind"] not in ("random", "replicate")
        assert apart.shared_controls(part) == (len(apart.controls[part]) if borrowed else 0)
    expected = apart if config["kind"] in ("random", "replicate") else shared
    for part in PARTS:
        assert list(split(PAIRED, **config).controls[part]) == list(expected.controls[part])


def test_random_takes_its_share_of_each_stratum_and_is_stamped_leaky():
    found = split(kind="random", test_fraction=0.2, val_fraction=0.1)
    assert found.leaky
    sizes = {"train": 21, "val": 3, "test": 6}
    for part in PARTS:
        cells = np.concatenate([found.treated[part], found.controls[part]])
        strata = LABELS.positions_by(("cell_type", "timepoint", "condition"), cells)
        assert {len(stratum) for stratum in strata.values()} == {sizes[part]}
        assert len(strata) == 8
    assert not any(split(**config).leaky for config in EVERY_KIND[1:])


def test_no_replicate_lies_on_two_sides():
    for labels in (LABELS, PAIRED):
        found = split(labels, kind="replicate")
        replicates = [
            values(labels, "replicate", np.union1d(found.treated[part], found.controls[part]))
            for part in PARTS
        ]
        assert not any(a & b for a, b in combinations(replicates, 2))


def test_nested_mice_each_day_is_tested_and_trained_in_both_conditions(wound):
    """3 + 3, 3 + 3 and 2 + 2 mice; those of validation are of the first day that can spare some."""
    shares = {0.0: (0, 0, 0), 0.1: (1, 0, 0), 0.25: (1, 1, 0), 0.89: (1, 1, 0)}
    for fraction, val in shares.items():
        found = split(wound, "Sham", kind="replicate", seed=3, val_fraction=fraction)
        train = tuple(n - 1 - v for n, v in zip((3, 3, 2), val, strict=True))
        for part, n_mice in (("test", (1, 1, 1)), ("train", train), ("val", val)):
            for cells in (found.treated[part], found.controls[part]):
                mice = wound.take(cells).positions_by(("timepoint", "replicate"))
                days = [day for day, _ in mice]
                assert tuple(days.count(f"day{day}") for day in (10, 14, 19)) == n_mice


def test_validation_mice_come_from_a_day_with_both_conditions(wound):
    test = [f"Burn_day10_m{i}" for i in (1, 2, 3)]
    found = split(wound, "Sham", kind="replicate", test=test)
    assert values(wound, "timepoint", found.treated["val"]) == {"day14"}
    assert values(wound, "timepoint", found.controls["val"]) == {"day14"}


def test_paired_donors_are_held_out_with_both_arms():
    found = split(PAIRED, kind="replicate", test_fraction=0.34, val_fraction=0.34)
    for part, n in (("train", 2), ("val", 2), ("test", 2)):
        replicates = values(PAIRED, "replicate", found.treated[part])
        assert len(replicates) == n
        assert replicates == values(PAIRED, "replicate", found.controls[part])


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_a_fraction_of_replicates_takes_one_at_least_and_leaves_one(fraction):
    found = split(PAIRED, kind="replicate", test_fraction=fraction, val=[])
    counts = {part: len(values(PAIRED, "replicate", found.treated[part])) for part in PARTS}
    assert counts == {"train": 6 - max(1, min(5, round(6 * fraction))), "val": 0,
                      "test": max(1, min(5, round(6 * fraction)))}  # fmt: skip


def test_named_replicates_are_the_ones_held_out():
    test, val = {"burn_d1_m0", "sham_d1_m2"}, {"burn_d2_m1"}
    found = split(kind="replicate", test=sorted(test), val=sorted(val))
    cells = {part: found.treated[part] for part in PARTS}
    assert values(LABELS, "replicate", cells["test"]) == {"burn_d1_m0"}
    assert values(LABELS, "replicate", found.controls["test"]) == {"sham_d1_m2"}
    assert values(LABELS, "replicate", cells["val"]) == val
    # Without a control mouse of its own, validation borrows those of training.
    assert list(found.controls["val"]) == list(found.controls["train"])
    chosen = split(kind="replicate", val=sorted(val), seed=5)
    assert values(LABELS, "replicate", chosen.treated["val"]) == val
    assert not values(LABELS, "replicate", chosen.treated["test"]) & val
    assert values(LABELS, "timepoint", chosen.treated["test"]) == {"d1", "d2"}


@pytest.mark.parametrize(
    ("kind", "role", "test"),
    [("timepoint", "timepoint", "d2"), ("celltype", "cell_type", "T cell")],
)
def test_a_held_out_label_is_not_trained_on_and_its_controls_are_shared(kind, role, test):
    found = split(kind=kind, test=[test])
    assert values(LABELS, role, found.treated["test"]) == {test}
    assert values(LABELS, role, found.controls["test"]) == {test}
    for part in ("train", "val"):
        assert test not in values(LABELS, role, found.treated[part])
    assert test in values(LABELS, role, found.controls["train"])
    assert test not in values(
        LABELS, role, split(kind=kind, test=[test], controls="held_out").controls["train"]
    )


def test_without_named_validation_labels_cells_of_the_others_are_drawn(wound):
    found = split(wound, "Sham", kind="celltype", test=["Mac"], val_fraction=0.2)
    kept = np.flatnonzero((wound.condition == "Burn") & (wound.cell_type != "Mac"))
    for cell_type in sorted(set(wound.cell_type) - {"Mac"}):
        drawn = (wound.cell_type[found.treated["val"]] == cell_type).sum()
        assert drawn == round(0.2 * (wound.cell_type[kept] == cell_type).sum())
    assert len(split(wound, "Sham", kind="celltype", test=["Mac"], val=[]).treated["val"]) == 0
    named = split(wound, "Sham", kind="celltype", test=["Mac"], val=["Fib"])
    assert values(wound, "cell_type", named.treated["val"]) == {"Fib"}
    assert values(wound, "cell_type", named.controls["val"]) == {"Fib"}


def test_test_labels_are_chosen_among_those_not_named_for_validation(wound):
    for seed in range(12):
        found = split(wound, "Sham", kind="timepoint", val=["day14"], seed=seed)
        assert values(wound, "timepoint", found.treated["val"]) == {"day14"}
        assert len(values(wound, "timepoint", found.treated["test"])) == 1


@pytest.mark.parametrize(("fraction", "kept"), [(0.0, 0), (0.001, 1), (0.1, 6), (0.5, 30)])
def test_few_shot_keeps_a_fraction_of_the_type_in_training(fraction, kept):
    found = split(kind="fewshot", test=["B cell"], fewshot_fraction=fraction, controls="held_out")
    for cells in (found.treated, found.controls):
        assert (LABELS.cell_type[cells["train"]] == "B cell").sum() == kept
        assert (LABELS.cell_type[cells["test"]] == "B cell").all()
        assert len(cells["test"]) == 60 - kept
    assert "B cell" not in values(LABELS, "cell_type", found.treated["val"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"kind": "replicate", "test": ["m9"]}, r"'m9'.*Known: burn_d1_m0, burn_d1_m1.*sham_d2_m2"),
        ({"kind": "timepoint", "test": ["d3"]}, r"'d3'.*Known: d1, d2"),
        ({"kind": "celltype", "test": ["Bcell"]}, r"'Bcell'.*mean 'B cell'.*Known: B cell, T cell"),
        ({"kind": "celltype", "test": ["B cell"], "val": ["NK"]}, r"'NK'.*Known: B cell, T cell"),
        ({"kind": "fewshot", "test": ["NK"]}, r"'NK'.*Known: B cell, T cell"),
        (
            {"kind": "celltype", "test": ["B cell"], "val": ["B cell"]},
            "B cell: named in split.test",
        ),
        ({"kind": "celltype", "test": ["B cell", "T cell"]}, "no treated cell for train"),
        ({"kind": "replicate", "test": ["sham_d1_m0"]}, "no treated cell for test"),
        ({"kind": "replicate", "test": sorted(set(LABELS.replicate))}, "no treated cell for train"),
        ({"kind": "random", "test_fraction": 0.0}, "no treated cell for test"),
        ({"kind": "timepoint", "test_fraction": 0.0}, "no treated cell for test"),
        ({"kind": "replicate", "test_fraction": 0.0}, "no treated cell for test"),
    ],
)
def test_what_cannot_be_held_out_is_an_error(config, message):
    with pytest.raises(UserError, match=message):
        split(**config)


@pytest.mark.parametrize("kind", ["random", "replicate", "timepoint", "celltype"])
def test_no_validation_where_none_is_asked_for(kind):
    found = split(kind=kind, val_fraction=0.0)
    assert len(found.treated["val"]) == len(found.controls["val"]) == 0


@pytest.mark.parametrize("kind", ["timepoint", "celltype"])
def test_the_seed_chooses_the_test_label_and_the_cells_that_validate(kind):
    role = {"timepoint": "timepoint", "celltype": "cell_type"}[kind]
    tested = {str(values(LABELS, role, split(kind=kind, seed=s).treated["test"])) for s in range(8)}
    assert len(tested) == 2
    label = LABELS.column(role)[0]
    validates = {str(split(kind=kind, test=[label], seed=s).treated["val"]) for s in range(3)}
    assert len(validates) == 3


def test_the_seed_chooses_which_cells_few_shot_keeps():
    config = {"kind": "fewshot", "test": ["B cell"], "val": [], "fewshot_fraction": 0.2}
    kept = {str(split(**config, seed=seed).treated["test"]) for seed in range(3)}
    assert len(kept) == 3


def test_a_fraction_of_replicates_is_rounded():
    """0.3 of six donors are two, of 1.8; one at least validates."""
    found = split(PAIRED, kind="replicate", test_fraction=0.3, val_fraction=0.01)
    assert len(values(PAIRED, "replicate", found.treated["test"])) == 2
    assert len(values(PAIRED, "replicate", found.treated["val"])) == 1


def test_validation_days_are_those_of_most_conditions_and_of_these_of_most_replicates():
    """Day 1 has five mice of one condition, day 2 two of each, day 3 three of each."""
    mice = {("burn", "d1"): 5, ("burn", "d2"): 2, ("sham", "d2"): 2, ("burn", "d3"): 3}
    mice |= {("sham", "d3"): 3}
    rows = [
        (condition, "B cell", day, f"{condition}-{day}-{i}")
        for (condition, day), n in mice.items()
        for i in range(n)
        for _ in range(2)
    ]
    columns = ["treatment", "type", "day", "mouse"]
    labels = tiny_labels(pd.DataFrame(rows, columns=pd.Index(columns)))

    def days(fraction: float) -> Counter:
        found = split(labels, kind="replicate", test=["burn-d1-0"], val_fraction=fraction)
        cells = np.union1d(found.treated["val"], found.controls["val"])
        return Counter(name[:-2] for name in values(labels, "replicate", cells))

    # Of fourteen left: two of the fullest day, four of both full days, then the other day.
    assert days(0.1) == {"burn-d3": 1, "sham-d3": 1}
    assert days(0.3) == {"burn-d3": 1, "sham-d3": 1, "burn-d2": 1, "sham-d2": 1}
    assert days(0.4)["burn-d1"] == 1


def rows_of(text: str) -> dict[str, tuple[str, ...]]:
    """Stratum -> what the table says of it for training, validation and test."""
    found = re.findall(r"^(.+?) +([\d*-]+) +([\d*-]+) +([\d*-]+)$", text, re.MULTILINE)
    return {name: tuple(counts) for name, *counts in found}


def test_the_table_counts_cells_by_part_and_marks_shared_controls():
    found = split(kind="timepoint", test=["d2"], val_fraction=0.1)
    text = split_table(found, LABELS)
    lines, rows = text.splitlines(), rows_of(text)
    assert len(rows) == 8
    assert lines[0] == "split: timepoint"
    assert lines[1].split() == ["cell", "type,", "timepoint,", "condition", "train", "val", "test"]
    assert rows["B cell, d2, burn"] == ("-", "-", "30")
    assert rows["B cell, d2, sham"] == ("30", "30*", "30*")
    assert rows["B cell, d1, sham"] == ("30", "30*", "-")
    train, val, test = rows["T cell, d1, burn"]
    assert (int(train) + int(val), test) == (30, "-")
    assert lines[-4] == "* control cells that training may use as well"
    # Columns end below each other, behind the longest name or the heading.
    end = len("cell type, timepoint, condition") + 8
    assert all(line[end - 1] != " " == line[end] for line in lines[1:10])
    assert lines[-3].startswith(
        "train: 54 treated, 120 control cells; treated replicates: burn_d1_m0"
    )
    assert lines[-1].startswith("test: 60 treated, 60 control cells, 60 of them shared with train")


def test_the_table_explains_a_star_that_validation_alone_has():
    config = {"kind": "fewshot", "test": ["B cell"], "fewshot_fraction": 0.0}
    text = split_table(split(**config, controls="held_out"), LABELS)
    assert rows_of(text)["T cell, d1, sham"] == ("30", "30*", "-")
    assert rows_of(text)["B cell, d1, sham"] == ("-", "-", "30")
    assert "\n* control cells that training may use as well\n" in text


def test_the_table_says_leaky_and_marks_nothing_where_nothing_is_shared():
    text = split_table(split(kind="random"), LABELS)
    assert text.startswith("split: random (LEAKY: cells of one replicate on both sides)")
    assert "*" not in text
    assert "LEAKY" not in split_table(split(kind="replicate"), LABELS)


def test_the_table_of_data_without_timepoints_and_replicates():
    obs = tiny_obs().drop(columns=["day", "mouse"])
    labels = tiny_labels(obs, timepoint_col=None, replicate_col=None)
    text = split_table(split(labels, kind="random", val_fraction=0.0), labels)
    assert "\nB cell, burn " in text
    assert "replicates" not in text.splitlines()[-1]
    assert "val: 0 treated, 0 control cells" in text
