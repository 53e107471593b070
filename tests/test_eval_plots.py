"""Summary and table of an evaluation."""

import math

import pytest

from wound_jax.evaluation.table import results_table, summarise

pytestmark = pytest.mark.quick


def scores(pearson: float, ratio: float | None, mse: float = 0.01) -> dict[str, float | None]:
    return {
        "pearson_delta": pearson,
        "pearson_delta_top100": pearson,
        "mse": mse,
        "e_distance_ratio": ratio,
    }


def make_result(*, leaky: bool = False, missing: float | None = math.nan) -> dict:
    strata = [
        {
            "cell_type": cell_type,
            "timepoint": timepoint,
            "n_control": 50,
            "n_treated": 40,
            "model": scores(pearson, ratio),
            "baselines": {
                "identity": scores(0.0, 1.0, 0.05),
                "global_mean_delta": scores(0.6, 0.2, 0.02),
            },
        }
        for cell_type, timepoint, pearson, ratio in [
            ("Fib", "day10", 0.8, 0.3),
            ("Fib", "day14", 0.6, missing),
            ("Mac", "day10", 0.7, 0.4),
        ]
    ]
    split = {"kind": "replicate", "leaky": leaky, "n_replicates": 2}
    return {"split": split, "strata": strata, "summary": summarise(strata)}


@pytest.mark.parametrize("missing", [math.nan, None])
def test_summary_leaves_undefined_values_out_and_counts(missing: float | None) -> None:
    summary = make_result(missing=missing)["summary"]
    assert summary["model"]["pearson_delta"] == pytest.approx(0.7)
    assert summary["model"]["e_distance_ratio"] == pytest.approx(0.35)
    assert summary["counts"]["model"] == {
        "pearson_delta": 3,
        "pearson_delta_top100": 3,
        "mse": 3,
        "e_distance_ratio": 2,
    }
    assert summary["baselines"]["identity"]["e_distance_ratio"] == 1.0
    assert summary["counts"]["baselines"]["identity"]["e_distance_ratio"] == 3


def test_summary_of_values_that_are_never_defined_is_nan() -> None:
    rows = [{"model": {"e_distance_ratio": math.nan}, "baselines": {}}]
    summary = summarise(rows)
    assert math.isnan(summary["model"]["e_distance_ratio"])
    assert summary["counts"]["model"] == {"e_distance_ratio": 0}


def test_table_marks_the_best_of_each_column() -> None:
    lines = results_table(make_result()).splitlines()
    header, model, identity, shift = lines[2], lines[4], lines[5], lines[6]
    assert lines[0] == "replicate split | 3 strata | 2 held-out replicates"
    assert "pearson_delta ↑" in header
    assert "mse ↓" in header
    assert "e_distance_ratio ↓" in header
    assert model.split() == ["model", "0.700*", "0.700*", "0.01000*", "0.350"]
    assert identity.split() == ["identity", "0.000", "0.000", "0.05000", "1.000"]
    assert shift.split() == ["global_mean_delta", "0.600", "0.600", "0.02000", "0.200*"]
    assert "model: e_distance_ratio is defined in 2 of 3 strata" in lines


def test_methods_that_leave_as_many_strata_out_share_a_note() -> None:
    result = make_result()
    counts = result["summary"]["counts"]
    rows = [counts["model"], *counts["baselines"].values()]
    for row in rows:
        row["e_distance_ratio"] = 2
    assert "all: e_distance_ratio is defined in 2 of 3 strata" in results_table(result).splitlines()
    rows[0]["e_distance_ratio"] = 1
    notes = [line for line in results_table(result).splitlines() if "is defined in" in line]
    assert notes == [
        "model: e_distance_ratio is defined in 1 of 3 strata",
        "identity, global_mean_delta: e_distance_ratio is defined in 2 of 3 strata",
    ]


def test_table_columns_are_aligned() -> None:
    lines = results_table(make_result()).splitlines()
    # The point of every figure of a column stands below the others.
    points = [[i for i, c in enumerate(line) if c == "."] for line in lines[4:7]]
    assert points[0] == points[1] == points[2]
    assert len(points[0]) == 4


def test_best_is_nearest_to_perfect_not_smallest() -> None:
    """An unbiased distance ratio of -0.3 is a worse sign than 0.1."""
    result = make_result()
    result["summary"]["model"]["e_distance_ratio"] = -0.3
    result["summary"]["baselines"]["global_mean_delta"]["e_distance_ratio"] = 0.1
    lines = results_table(result).splitlines()
    assert lines[4].endswith("-0.300")
    assert lines[6].endswith("0.100*")


def test_table_stamps_a_leaky_split_and_shows_undefined_values() -> None:
    result = make_result(leaky=True)
    result["summary"]["model"]["e_distance_ratio"] = math.nan
    lines = results_table(result).splitlines()
    assert "LEAKY" in lines[0]
    assert lines[4].endswith("n/a")
    assert "LEAKY" not in results_table(make_result())
