"""Figures over seeds, differences between variants, and what is written of them."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from wound_jax.config import load_config
from wound_jax.errors import UserError
from wound_jax.evaluation.uncertainty import Draws
from wound_jax.experiments.figures import VariantFigures
from wound_jax.experiments.finished import FinishedRun, group_runs
from wound_jax.experiments.rows import VariantTable
from wound_jax.experiments.tables import render_comparison, write_comparison

pytestmark = pytest.mark.quick

METRICS = ("pearson_delta", "mse")
BASELINES = {
    "shift": {"pearson_delta": 0.5, "mse": 0.03},
    "ridge": {"pearson_delta": 0.4, "mse": 0.02},
}
PARAMETERS = {"trainable": {"backbone": 10, "heads": 5}, "total": {"backbone": 20, "heads": 5}}
N_DRAWS = 100


def made_draws(pearson: float, mse: float, fingerprint: str) -> Draws:
    """Draws in which every method moves alike, but for the model's own small share."""
    rows = [{"pearson_delta": pearson, "mse": mse}, *BASELINES.values()]
    point = np.array([[row[m] for m in METRICS] for row in rows])
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.1, (1, 2, N_DRAWS))
    own = np.zeros((3, 2, N_DRAWS))
    own[0] = rng.normal(0, 0.001, (2, N_DRAWS))
    return Draws(
        methods=("model", *BASELINES), metrics=METRICS, units="replicates", n_units=4, degrees=30,
        note="4 treated replicates, drawn in one group", fingerprint=fingerprint,
        values=point[..., None] + shared + own, point=point,
    )  # fmt: skip


def made_run(
    pearson: float, seed: int, *changes: str, fingerprint: str = "same", draws: bool = True
) -> FinishedRun:
    """A run with that figure; its mse is a tenth of what is missing to 1."""
    scores = {"pearson_delta": pearson, "mse": 0.1 * (1 - pearson), "hits": 3.0}
    stratum = {
        "cell_type": "Mac", "timepoint": None, "perturbation": "Burn", "n_control": 40,
        "n_treated": 30, "model": scores, "baselines": BASELINES, "ceiling": {"mse": 0.01},
    }  # fmt: skip
    return FinishedRun(
        folder=Path(f"runs/{seed}"),
        config=load_config(None, ["data.source=synthetic", f"seed={seed}", *changes]),
        result={
            "split": {"leaky": False},
            "strata": [stratum],
            "summary": {"model": scores, "baselines": BASELINES, "ceiling": {"mse": 0.01}},
            "training": {"loss_cv": 0.1 * seed, "clip_rate": None},
        },
        draws=made_draws(pearson, 0.1 * (1 - pearson), fingerprint) if draws else None,
        parameters=PARAMETERS,
        provenance={"training_seconds": 10.0 * seed, "commit": "abc", "versions": {"jax": "0.10"}},
        split_table="",
    )  # fmt: skip


def variant(name: str, pearsons, *changes: str, **options) -> VariantFigures:
    runs = [made_run(p, seed, *changes, **options) for seed, p in enumerate(pearsons, 1)]
    return VariantFigures(name, runs)


@pytest.fixture
def pair() -> VariantTable:
    """Two variants of three seeds; the second is better by 0.1, 0.2 and 0.3."""
    first = variant("first", [0.5, 0.6, 0.7])
    second = variant("second", [0.6, 0.8, 1.0], "model.layers=2")
    return VariantTable("made", (first, second))


def test_mean_and_sd_over_seeds(pair):
    model = pair.variants[0].model("pearson_delta")
    np.testing.assert_allclose(model, (0.6, 0.1))
    assert math.isnan(pair.variants[0].model("no_such_metric").mean)
    single = variant("single", [0.5]).model("pearson_delta")
    assert single.mean == 0.5
    assert math.isnan(single.sd)


def test_the_best_baseline_and_the_difference_follow_the_metric(pair):
    """The higher correlation, the lower error; positive is better for both."""
    one = pair.variants[0]
    assert one.best_baseline("pearson_delta") == "shift"
    assert one.best_baseline("mse") == "ridge"
    assert one.best_baseline("hits") is None
    gap = one.over_baseline("pearson_delta")
    np.testing.assert_allclose(gap.value, 0.1)
    # Replicates move model and baseline alike, so the paired interval is a hundredth of the
    # model's.
    assert 0 < gap.high - gap.low < 0.01
    low, high = one.interval("pearson_delta")
    assert high - low > 0.3
    np.testing.assert_allclose(one.over_baseline("mse").value, 0.02 - 0.04)
    assert math.isnan(one.over_baseline("hits").value)


def test_differences_between_variants_are_paired_by_seed_and_by_draw(pair):
    first, second = pair.variants
    gap = second.over(first, "pearson_delta")
    np.testing.assert_allclose((gap.value, gap.sd, gap.seeds), (0.2, 0.1, 3))
    assert gap.low <= gap.value <= gap.high
    assert gap.high - gap.low < 0.01
    back = first.over(second, "mse")
    np.testing.assert_allclose((back.value, back.sd), (-0.02, 0.01))


def test_draws_of_other_cells_give_no_interval(pair):
    first = pair.variants[0]
    other = variant("other", [0.6, 0.8, 1.0], fingerprint="of other cells")
    gap = other.over(first, "pearson_delta")
    np.testing.assert_allclose(gap.value, 0.2)
    assert math.isnan(gap.low)
    assert math.isnan(gap.high)
    # And runs without draws, or with draws of different cells, have none of their own.
    for runs in (
        (made_run(0.5, 1), made_run(0.5, 2, draws=False)),
        (made_run(0.5, 1), made_run(0.5, 2, fingerprint="of other cells")),
    ):
        mixed = VariantFigures("mixed", runs)
        assert mixed.draws is None
        np.testing.assert_allclose(mixed.over_baseline("pearson_delta").value, 0.0, atol=1e-12)
        assert math.isnan(mixed.interval("pearson_delta")[0])
        assert any("mixed: no intervals" in line for line in VariantTable("x", (mixed,)).warnings)


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_files(pair, tmp_path):
    text = write_comparison(pair, tmp_path)
    assert (tmp_path / "table.txt").read_text() == text + "\n"
    rows = read(tmp_path / "comparison.csv")
    assert [(r["metric"], r["variant"]) for r in rows] == [
        (m, v) for m in (*METRICS, "hits") for v in ("first", "second")
    ]
    row = rows[3]
    assert (row["best_baseline"], row["units"], row["n_units"]) == ("ridge", "replicates", "4")
    found = [float(row[key]) for key in ("model", "model_sd", "baseline", "difference", "ceiling")]
    np.testing.assert_allclose(found, [0.02, 0.02, 0.02, 0.0, 0.01], atol=1e-12)
    assert rows[1]["ceiling"] == rows[5]["best_baseline"] == ""
    rows = read(tmp_path / "differences.csv")
    assert [(r["variant"], r["kind"], r["against"]) for r in rows[:3]] == [
        ("first", "baseline", "shift"),
        ("second", "baseline", "shift"),
        ("second", "variant", "first"),
    ]
    np.testing.assert_allclose([float(rows[2]["value"]), float(rows[2]["seed_sd"])], [0.2, 0.1])
    (row,) = (
        r for r in read(tmp_path / "strata.csv") if (r["variant"], r["metric"]) == ("first", "mse")
    )
    assert (row["cell_type"], row["timepoint"], row["n_treated"]) == ("Mac", "", "30")
    np.testing.assert_allclose([float(row["model"]), float(row["difference"])], [0.04, -0.02])


def test_the_json_is_strict_and_names_runs_and_differences(pair, tmp_path):
    write_comparison(pair, tmp_path)

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} in comparison.json")

    content = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=refuse)
    assert set(content) == {"name", "variants", "warnings", "table"}
    first, second = content["variants"]
    assert first["diff"] == {}
    assert second["diff"] == {"model.layers": ["8", "2"]}
    assert first["seeds"] == [1, 2, 3]
    assert first["runs"] == [str(Path(f"runs/{seed}").resolve()) for seed in (1, 2, 3)]
    assert first["parameters"] == {"trainable": 15, "total": 25}
    np.testing.assert_allclose(first["training_seconds"], 20.0)
    assert first["training"] == {"loss_cv": pytest.approx(0.2)}
    assert content["table"] == [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in pair.summary_rows()
    ]


def test_runs_inside_the_folder_are_named_from_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_comparison(VariantTable("x", (variant("a", [0.5]),)), tmp_path)
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["variants"][0]["runs"] == ["runs/1"]


def test_the_table_for_people(pair):
    block = render_comparison(pair).split("\n\n")[0].splitlines()
    assert block[0] == "pearson_delta ↑"
    assert block[1].split("  ")[0] == ""
    assert "0.600 ± 0.1" in block[2]
    assert "0.500 shift" in block[2]
    assert "+0.200 [" in block[3]
    assert "60.0 %" in render_comparison(pair)
    single = render_comparison(VariantTable("x", (variant("only", [0.5]),)))
    assert "±" not in single.splitlines()[2]
    assert "difference to" not in single


def test_warnings():
    runs = [made_run(0.5, seed) for seed in (1, 2, 3)]
    assert VariantTable("x", (VariantFigures("a", runs),)).warnings == []
    runs[2].provenance.update(commit="def", versions={"jax": "0.11"})
    runs[1].result["split"]["leaky"] = True
    found = VariantTable("x", (VariantFigures("a", runs[1:]),), notes=("a note",)).warnings
    assert found[0] == "a note"
    assert found[1].startswith("LEAKY")
    assert found[2] == ("a: 2 of at least 3 seeds, so the spread between seeds is hardly known.")
    assert found[3:] == [
        "the runs were made with different commit: abc, def.",
        "the runs were made with different jax: 0.10, 0.11.",
    ]


def test_runs_that_differ_in_their_seed_alone_are_one_variant():
    runs = [
        made_run(0.5, 1, "name=plain"), made_run(0.5, 2, "name=deep", "model.layers=2"),
        made_run(0.5, 3, "name=again"), made_run(0.5, 4, "model.layers=2"),
    ]  # fmt: skip
    plain, deep = (VariantFigures(name, of) for name, of in group_runs(runs).items())
    assert (plain.name, plain.seeds) == ("plain", (1, 3))
    assert (deep.name, deep.seeds) == ("deep", (2, 4))
    names = group_runs([made_run(0.5, 1), made_run(0.5, 2, "model.layers=2")])
    assert list(names) == ["1", "2"]
    with pytest.raises(UserError, match="runs/1 and runs/1 are one run twice"):
        group_runs([made_run(0.5, 1), made_run(0.6, 1)])
