"""A left-out day on curves whose course is known, and on the simulated wound."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from test_biology_wound import KINDS, cases, collapsed, identity, reversed_, strata

from wound_jax.baselines import BASELINES
from wound_jax.data.strata import Stratum
from wound_jax.evaluation.biology import temporal_coherence

pytestmark = pytest.mark.quick

N_GENES, N_CELLS = 80, 60
DAYS = ("day10", "day14", "day19")
Predict = Callable[[Stratum], np.ndarray]


def course(kind: int, day: float, bend: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean control and treated cell: two effects, one linear in time and one that is not."""
    rng = np.random.default_rng([7, kind])
    base, linear, bent, drift = rng.normal(size=(4, N_GENES))
    since = (day - 10.0) / 9.0
    control = base + 0.5 * since * drift
    return control, control + since * linear + bend * np.sin(np.pi * since) * bent


def curve(bend: float = 1.0, kinds: int = 4, days: Sequence[str] = DAYS) -> list[Stratum]:
    found = []
    for kind in range(kinds):
        for place, day in enumerate(days):
            rng = np.random.default_rng([kind, place])
            control, treated = (
                mean + 0.2 * rng.normal(size=(N_CELLS, N_GENES))
                for mean in course(kind, float(day[3:]), bend)
            )
            found.append(Stratum(f"type{kind}", day, control, treated, "Burn"))
    return found


def judge(
    found: Sequence[Stratum],
    predict: Predict,
    *,
    held_out: str = "day14",
    seed: int = 0,
) -> dict:
    """The verdict on a method that predicts one stratum at a time."""
    test = [s for s in found if s.timepoint == held_out]
    training = [s for s in found if s.timepoint != held_out]
    return temporal_coherence(
        test,
        [predict(s) for s in test],
        training,
        split_kind="timepoint",
        training_predictions=[predict(s) for s in training],
        seed=seed,
    )


def around(mean: np.ndarray, stratum: Stratum) -> np.ndarray:
    """Cells of this mean, with the spread of the control cells."""
    return stratum.control - stratum.control.mean(axis=0) + mean


def told(bend: float = 1.0) -> Predict:
    """Knows the curve."""

    def predict(stratum: Stratum) -> np.ndarray:
        kind, day = int(stratum.cell_type[4:]), float((stratum.timepoint or "")[3:])
        return around(course(kind, day, bend)[1], stratum)

    return predict


def constant(stratum: Stratum) -> np.ndarray:
    """The same on all days: the middle of the course."""
    kind = int(stratum.cell_type[4:])
    mean = np.mean([course(kind, day, 1.0)[1] for day in (10.0, 14.0, 19.0)], axis=0)
    return np.broadcast_to(mean, stratum.control.shape)


def interpolated(stratum: Stratum) -> np.ndarray:
    """The straight line between the first and the last day."""
    kind, day = int(stratum.cell_type[4:]), float((stratum.timepoint or "")[3:])
    first, last = (course(kind, end, 1.0)[1] for end in (10.0, 19.0))
    return around(first + (day - 10) / 9 * (last - first), stratum)


def test_a_method_that_knows_the_course_is_accepted():
    answer = judge(curve(), told())
    assert answer["applicable"]
    assert answer["accepted"]
    assert answer["error"] < 0.1 * answer["interpolation_error"]
    assert answer["step_correlation"] > 0.95
    assert answer["step_p_value"] < 0.01
    assert answer["n_steps"] == 8
    assert json.loads(json.dumps(answer)) == answer
    assert {row["between"][0] for row in answer["strata"]} == {"day10"}


@pytest.mark.parametrize(
    "predict",
    [
        constant,
        interpolated,
        lambda s: s.control,
        lambda s: s.control + 0.5,
        lambda s: s.control - s.mean_delta,
        lambda s: np.zeros_like(s.control),
    ],
    ids=["constant", "interpolated", "identity", "shifted", "reversed", "zero"],
)
def test_smoothness_alone_is_not_accepted(predict):
    answer = judge(curve(), predict)
    assert answer["applicable"]
    assert not answer["accepted"]


def test_a_constant_has_no_step_even_where_its_error_is_small():
    """The left-out day itself, on all days, beats the interpolation and knows no time."""

    def stopped(stratum: Stratum) -> np.ndarray:
        return told()(replace(stratum, timepoint="day14"))

    def frozen(stratum: Stratum) -> np.ndarray:
        return np.broadcast_to(stopped(stratum).mean(axis=0), stratum.control.shape)

    for predict in (stopped, frozen):
        answer = judge(curve(), predict)
        assert answer["error_gain_low"] > 0
        assert answer["step_correlation"] == 0.0
        assert answer["step_p_value"] == 1.0
        assert not answer["accepted"]


def test_what_the_control_cells_tell_is_no_merit():
    """The held-out change on all days: the error is small, the steps are those of the controls."""

    def shifted(stratum: Stratum) -> np.ndarray:
        control, treated = course(int(stratum.cell_type[4:]), 14.0, 1.0)
        return stratum.control + (treated - control)

    answer = judge(curve(), shifted)
    assert answer["error_gain_low"] > 0
    assert answer["step_p_value"] < 0.05
    assert answer["step_correlation"] == pytest.approx(answer["control_step_correlation"])
    assert not answer["accepted"]


def test_steps_that_other_orders_reach_are_not_accepted():
    """The left-out day is known and the others are not: they may as well change places."""

    def predict(stratum: Stratum) -> np.ndarray:
        first = course(int(stratum.cell_type[4:]), 10.0, 1.0)[0]
        return told()(stratum) if stratum.timepoint == "day14" else around(first, stratum)

    answer = judge(curve(kinds=2), predict)
    assert answer["error_gain"] > 0
    assert answer["step_correlation"] > answer["control_step_correlation"] + 0.1
    assert answer["step_p_value"] > 0.05
    assert not answer["accepted"]


def test_one_type_told_well_is_not_enough():
    """A gain on the mean whose interval over types holds zero."""

    def predict(stratum: Stratum) -> np.ndarray:
        known = stratum.cell_type == "type0" or stratum.timepoint != "day14"
        return told()(stratum) if known else interpolated(stratum) + 0.2

    answer = judge(curve(), predict)
    assert answer["error_gain"] > 0 > answer["error_gain_low"]
    assert answer["step_p_value"] < 0.05
    assert answer["step_correlation"] > answer["control_step_correlation"]
    assert not answer["accepted"]


def test_on_a_straight_course_nothing_beats_the_line():
    """Interpolated means carry the sampling noise of two days, but no less than the truth's."""
    answer = judge(curve(bend=0.0), told(bend=0.0))
    assert answer["interpolation_error"] < 0.005
    assert answer["step_p_value"] < 0.01


def test_the_line_is_weighted_by_the_days():
    found = [s for s in curve() if s.cell_type == "type0"]
    first, middle, last = (s.treated.mean(axis=0) for s in found)
    line = first + 4 / 9 * (last - first)
    changes = [s.mean_delta for s in found]
    change = found[1].control.mean(axis=0) + changes[0] + 4 / 9 * (changes[2] - changes[0])
    answer = judge(found, told())
    assert answer["interpolation_error"] == pytest.approx(np.square(line - middle).mean())
    assert answer["interpolated_change_error"] == pytest.approx(np.square(change - middle).mean())
    told_mean = told()(found[1]).mean(axis=0)
    assert answer["error"] == pytest.approx(np.square(told_mean - middle).mean())


def test_the_p_value_is_that_of_all_permutations():
    """Two types have 36 joint orders of three days, which can be counted."""
    found = curve(kinds=2)
    predicted = [told()(s).mean(axis=0) + 2.0 * s.control[0] for s in found]
    true = [s.treated.mean(axis=0) for s in found]

    def correlation(orders: tuple[tuple[int, ...], ...]) -> float:
        total = 0.0
        for kind, order in enumerate(orders):
            p = [predicted[3 * kind + place] for place in order]
            t = true[3 * kind : 3 * kind + 3]
            total += sum(np.corrcoef(p[i + 1] - p[i], t[i + 1] - t[i])[0, 1] for i in range(2))
        return total / 4

    values = np.array([correlation(o) for o in product(permutations(range(3)), repeat=2)])
    answer = judge(found, lambda s: around(predicted[_place(found, s)], s))
    assert answer["step_correlation"] == pytest.approx(values[0])
    exact = np.mean(values >= values[0] - 1e-9)
    assert answer["step_p_value"] == pytest.approx(exact, abs=0.03)
    assert answer["step_null_mean"] == pytest.approx(values.mean(), abs=0.03)


def _place(found: Sequence[Stratum], stratum: Stratum) -> int:
    return next(i for i, one in enumerate(found) if one is stratum)


def test_steps_between_training_days_do_not_count():
    found = curve(days=("day7", "day10", "day14", "day19"))
    answer = judge(found, told())
    assert {(row["from_day"], row["to_day"]) for row in answer["steps"]} == {(10, 14), (14, 19)}
    assert answer["n_steps"] == 8


def test_where_it_does_not_apply_it_says_why():
    found = curve()
    test = [s for s in found if s.timepoint == "day14"]
    training = [s for s in found if s.timepoint != "day14"]
    cells = [told()(s) for s in test]
    other = temporal_coherence(test, cells, training, split_kind="replicate")
    assert not other["applicable"]
    assert "split.kind=replicate" in other["reason"]
    ends = judge(found, told(), held_out="day19")
    assert "no held-out day lies between" in ends["reason"]
    half = temporal_coherence(test, cells, training, split_kind="timepoint")
    assert not half["applicable"]
    assert "predictions of the training days" in half["reason"]
    assert half["error"] < half["interpolation_error"]
    single = judge(curve(kinds=1), told())
    assert not single["applicable"]
    assert "no permutation test" in single["reason"]


def test_two_types_have_no_interval_and_it_is_said():
    answer = judge(curve(kinds=2), told())
    assert np.isnan(answer["error_gain_low"])
    assert "2 held-out strata" in answer["notes"][0]
    assert answer["accepted"]


@pytest.fixture(scope="module")
def wound_days() -> list[Stratum]:
    return strata(cases())


def test_burnt_cells_of_the_day_are_accepted(wound_days):
    def measured(stratum: Stratum) -> np.ndarray:
        rng = np.random.default_rng(0)
        return stratum.treated[rng.choice(stratum.n_treated, stratum.n_control)]

    answer = judge(wound_days, measured)
    assert answer["accepted"]
    assert len(answer["strata"]) == len(KINDS)


@pytest.mark.parametrize("predict", [identity, collapsed, reversed_])
def test_wrong_cells_are_not(wound_days, predict):
    cells = {id(s): p for s, p in zip(wound_days, predict(cases()), strict=True)}
    assert not judge(wound_days, lambda s: cells[id(s)])["accepted"]


@pytest.mark.parametrize("name", ["type_mean_delta", "type_timepoint_mean_delta"])
def test_the_mean_shift_of_the_other_days_is_not_accepted(wound_days, name):
    training = [s for s in wound_days if s.timepoint != "day14"]
    fitted = BASELINES.get(name).fit(training, True)
    assert not judge(wound_days, fitted.predict)["accepted"]
