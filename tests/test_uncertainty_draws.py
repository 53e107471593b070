"""Intervals against normal theory and by simulation; differences, averages and files of draws."""

from dataclasses import replace

import numpy as np
import pytest

from wound_jax.errors import UserError
from wound_jax.evaluation.uncertainty import Draws, average, between, bootstrap_units
from wound_jax.evaluation.uncertainty.draws import stretched_interval
from wound_jax.evaluation.uncertainty.weights import draw_weights
from wound_jax.files import write_arrays

pytestmark = pytest.mark.quick

METHODS = ("model", "mean_delta", "ridge")


def table(seed: int = 0, n: int = 12) -> np.ndarray:
    """[units, methods]: units differ much, methods little; the model is best by 0.05."""
    rng = np.random.default_rng(seed)
    offsets = np.array([0.05, 0.0, -0.1])
    return rng.normal(0.5, 0.2, (n, 1)) + offsets + rng.normal(0, 0.01, (n, 3))


def folds(values: dict[str, np.ndarray], seed: int = 0, **options) -> Draws:
    names = [f"fold{i}" for i in range(len(next(iter(values.values()))))]
    return bootstrap_units(values, METHODS, names, units="cell types", seed=seed, **options)


def covered(pools: tuple[int, ...], repeats: int = 400) -> float:
    """Share of 95 % intervals of a mean over normal units that hold the truth."""
    rng = np.random.default_rng(sum(pools))
    n, hits = sum(pools), 0
    for _ in range(repeats):
        units = rng.normal(size=n)
        weights = np.concatenate([draw_weights(size, 500, rng) for size in pools], axis=1)
        low, high = stretched_interval(units.mean(), weights[1:] @ units / n, n - len(pools), 0.95)
        hits += low <= 0 <= high
    return hits / repeats


@pytest.mark.parametrize(("pools", "least"), [((8,), 0.92), ((3,), 0.89), ((2, 2, 2), 0.85)])
def test_coverage_with_few_units(pools, least):
    assert least <= covered(pools) <= 0.98


def test_with_many_units_the_interval_is_the_normal_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, (400, 3))
    found = folds({"mse": values}, draws=4000)
    error = values[:, 0].std(ddof=1) / np.sqrt(400)
    low, high = found.interval("model", "mse")
    assert found.figure("model", "mse") == pytest.approx(values[:, 0].mean())
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.04)
    narrow = found.interval("model", "mse", level=0.68)
    assert low < narrow[0] < narrow[1] < high


def test_draws_that_lie_to_one_side_of_the_figure_are_moved_to_it():
    draws = np.random.default_rng(0).normal(0.4, 0.02, 2000)
    low, high = stretched_interval(0.6, draws, degrees=10_000, level=0.95)
    assert (low, high) == pytest.approx((0.6 - 0.04, 0.6 + 0.04), abs=0.003)


def test_a_ratio_to_next_to_nothing_in_a_few_draws_carries_nothing_away():
    draws = np.random.default_rng(0).normal(0.4, 0.02, 2000)
    draws[:20] = 1e4
    draws[20:30] = np.nan
    low, high = stretched_interval(0.4, draws, degrees=10_000, level=0.95)
    assert (low, high) == pytest.approx((0.36, 0.44), abs=0.01)


def test_intervals_end_where_the_metric_does():
    values = np.array([[0.99, 0.01, 0.0], [0.7, 0.0, 0.0], [1.0, 0.03, 0.0]])
    found = folds({"pearson_delta": values, "mse": values})
    assert found.interval("model", "pearson_delta")[1] == 1.0
    assert found.interval("mean_delta", "mse")[0] == 0.0
    assert found.interval("mean_delta", "pearson_delta")[0] < 0.0


def test_differences_are_paired_and_positive_where_the_first_is_better():
    found = folds({"pearson_delta": table(), "mse": 1 - table()})
    for metric in ("pearson_delta", "mse"):
        value, low, high = found.difference("model", "mean_delta", metric)
        assert value == pytest.approx(np.mean(table()[:, 0] - table()[:, 1]))
        assert 0 < low < value < high
        # What units have in common is in both, and not in the difference.
        ends = found.interval("model", metric)
        assert high - low < 0.2 * (ends[1] - ends[0])
        turned = found.difference("mean_delta", "model", metric)
        assert turned == pytest.approx((-value, -high, -low))


def test_the_best_baseline_is_never_the_model():
    found = folds({"pearson_delta": table(), "mse": 1 - table()})
    assert found.best_baseline("pearson_delta") == "mean_delta"
    assert found.best_baseline("mse") == "mean_delta"
    point = found.point.copy()
    point[METHODS.index("mean_delta")] = np.nan
    assert replace(found, point=point).best_baseline("mse") == "ridge"


def test_the_summary_is_what_the_results_hold():
    found = folds({"pearson_delta": table()}, draws=50)
    summary = found.summary()
    assert (summary["units"], summary["n_units"], summary["draws"]) == ("cell types", 12, 50)
    interval = found.interval("ridge", "pearson_delta")
    assert summary["intervals"]["ridge"]["pearson_delta"] == list(interval)
    difference = summary["differences"]["pearson_delta"]
    assert difference.pop("best_baseline") == "mean_delta"
    assert (*difference.values(),) == found.difference("model", "mean_delta", "pearson_delta")
    assert list(difference) == ["value", "low", "high"]


def test_units_without_a_value_are_left_out_for_all():
    values = table()
    values[3, 2] = np.nan
    found = folds({"pearson_delta": values})
    rest = np.delete(values, 3, axis=0)
    assert found.point[:, 0] == pytest.approx(rest.mean(axis=0))
    assert np.isfinite(found.values).all()


def test_a_single_unit_has_a_figure_and_no_interval():
    found = folds({"mse": np.array([[0.2, 0.3, 0.4]])})
    assert found.figure("model", "mse") == pytest.approx(0.2)
    assert np.isnan(found.interval("model", "mse")).all()


def test_seeds_are_averaged_draw_by_draw():
    seeds = [folds({"mse": table(seed)}) for seed in (0, 1, 2)]
    mean = average(seeds)
    expected = folds({"mse": np.mean([table(seed) for seed in (0, 1, 2)], axis=0)})
    assert mean.values == pytest.approx(expected.values)
    assert mean.point == pytest.approx(expected.point)
    assert mean.interval("model", "mse") == pytest.approx(expected.interval("model", "mse"))


def test_variants_are_compared_on_the_same_units():
    better, worse = folds({"pearson_delta": table() + 0.03}), folds({"pearson_delta": table()})
    assert between(better, worse, "pearson_delta") == pytest.approx((0.03, 0.03, 0.03))
    assert between(worse, better, "pearson_delta", method="ridge").value == pytest.approx(-0.03)


def test_other_units_or_another_seed_cannot_be_paired():
    one = folds({"mse": table()})
    others = (
        folds({"mse": table()}, seed=1),
        folds({"mse": table(n=11)}),
        folds({"mse": table()}, draws=10),
    )
    for other in others:
        with pytest.raises(UserError, match="cannot be paired"):
            between(one, other, "mse")
        with pytest.raises(UserError, match="cannot be paired"):
            average([one, other])
    with pytest.raises(UserError, match="same baselines"):
        average([one, replace(one, methods=("model", "a", "b"))])
    with pytest.raises(UserError, match="no draws"):
        average([])


def test_a_file_gives_back_what_it_was_given(tmp_path):
    found = folds({"mse": table(), "pearson_delta": table()}, draws=20)
    found.save(tmp_path / "bootstrap.npz")
    again = Draws.load(tmp_path / "bootstrap.npz")
    for name in ("methods", "metrics", "units", "n_units", "degrees", "note", "fingerprint"):
        assert getattr(again, name) == getattr(found, name), name
        assert type(getattr(again, name)) is type(getattr(found, name)), name
    assert (again.values == found.values).all()
    assert again.summary() == found.summary()
    assert between(again, found, "mse").value == 0


def test_files_of_something_else_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Draws.load(tmp_path / "none.npz")
    write_arrays(tmp_path / "other.npz", {"values": np.zeros(3)})
    with pytest.raises(UserError, match="lacks methods"):
        Draws.load(tmp_path / "other.npz")


def test_errors_name_the_fault():
    found = folds({"mse": table()})
    with pytest.raises(UserError, match="Did you mean 'ridge'"):
        found.interval("rige", "mse")
    with pytest.raises(UserError, match="unknown metric of the bootstrap 'mae'"):
        found.interval("model", "mae")
    with pytest.raises(UserError, match="no baseline has mse"):
        replace(found, methods=("model",), point=found.point[:1]).best_baseline("mse")
    with pytest.raises(UserError, match=r"shape \(12, 2\)"):
        folds({"mse": table()[:, :2]})
