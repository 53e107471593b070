"""Degenerate designs: no rule explodes unseen, none enters the model, and what can be scored is."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_run

from wound_jax.baselines import BASELINES, fit_baselines
from wound_jax.baselines.moving import moved
from wound_jax.baselines.plausible import LARGEST, beyond, implausible
from wound_jax.baselines.profiles import Novelty
from wound_jax.baselines.regressions import without_rounding
from wound_jax.baselines.rules import DeltaRule, FittedDelta, tune
from wound_jax.baselines.stacked_linear import MEMBERS, StackedLinear
from wound_jax.baselines.training import Training
from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError, warn_once
from wound_jax.evaluation.reference import fit_reference
from wound_jax.evaluation.result import evaluate
from wound_jax.evaluation.table import results_table
from wound_jax.experiments.figures import FoldFigures, FoldScores
from wound_jax.experiments.scores import METRICS, VariantScores
from wound_jax.experiments.tables import render_folds

pytestmark = pytest.mark.quick

N_GENES = 30


def cells(seed: int, n: int = 40, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.gamma(2.0, 0.5, (n, N_GENES)) + shift).astype(np.float32)


def design(name: str) -> list[Stratum]:
    """Training strata of a design that leaves a regression little or nothing to learn from."""
    one, treated = cells(0), cells(1, shift=0.7)
    days = [f"d{i}" for i in range(11)]
    shuffled = [np.random.default_rng(i).permutation(one) for i in range(11)]
    if name == "one stratum":
        return [Stratum("A", "d1", one, treated, "burn")]
    if name == "the same controls":
        # As where controls are matched on the cell type alone: their means differ by rounding.
        return [
            Stratum("A", day, own, cells(5 + i, shift=0.5 * i), "burn")
            for i, (day, own) in enumerate(zip(days, shuffled, strict=True))
        ]
    if name == "duplicated replicates":
        return [Stratum(t, "d1", one, treated, "burn") for t in "ABC"]
    if name == "two cells each":
        return [Stratum(t, "d1", cells(i, 2), cells(9 + i, 2), "burn") for i, t in enumerate("ABC")]
    if name == "constant genes":
        flat = [np.full((40, N_GENES), 0.1, np.float32) for _ in "AB"]
        return [
            Stratum(t, "d1", f, f + np.float32(0.3), "burn")
            for t, f in zip("AB", flat, strict=True)
        ]
    assert name == "nearly the same controls"
    return [
        Stratum(t, "d1", one + np.float32(1e-6 * i), cells(5 + i, shift=0.5 * i), "burn")
        for i, t in enumerate("ABC")
    ]


DESIGNS = [
    "one stratum", "the same controls", "duplicated replicates", "two cells each",
    "constant genes", "nearly the same controls",
]  # fmt: skip
WANTED = [
    Stratum("A", "d1", cells(20), cells(21), "burn"),
    Stratum("A", "d9", cells(22), cells(23), "burn"),
    Stratum("Q", "d1", cells(24, shift=3.0), cells(25), "burn"),
]


@pytest.mark.parametrize("non_negative", [True, False])
@pytest.mark.parametrize("name", DESIGNS)
def test_the_stack_stays_plausible_whatever_the_design(name, non_negative):
    training = design(name)
    rule = StackedLinear.fit(training, non_negative)
    for stratum in WANTED:
        delta = rule.delta(stratum)
        assert np.isfinite(delta).all()
        assert not implausible(rule.training.examples, stratum.control_mean, [delta])[0]
        # It is of the size of what is measured: no more than a few times the farthest known cell.
        assert np.abs(delta).max() < 20.0


@pytest.mark.parametrize("baseline", sorted(BASELINES))
@pytest.mark.parametrize("name", [d for d in DESIGNS if d != "nearly the same controls"])
def test_rounding_between_strata_teaches_nothing(name, baseline):
    (fitted,) = fit_baselines(design(name), True, [baseline]).values()
    for stratum in WANTED:
        predicted = fitted.predict(stratum)
        assert np.isfinite(predicted).all()
        assert np.abs(predicted).max() < 50.0


def test_differences_that_are_none_go_and_others_stay_to_the_last_digit():
    values = np.array([[1.0, 2.0, -3.0], [1e-3, 1e-17, 0.0]])
    kept = without_rounding(values, 2.0)
    assert kept[1, 1] == 0.0
    kept[1, 1] = values[1, 1]
    np.testing.assert_array_equal(kept, values)


def test_the_bound_is_far_from_what_mean_rules_say_and_below_an_explosion():
    training = Training(design("two cells each"))
    examples, stratum = training.examples, WANTED[2]
    for name in ("global_mean_delta", "regressed_mean_delta", "type_timepoint_mean_delta"):
        fitted = BASELINES.get(name).fit(training, True)
        assert isinstance(fitted, FittedDelta)
        assert not implausible(examples, stratum.control_mean, [fitted.delta(stratum) * 3])[0]
    center, radius = examples.ball
    away = np.sqrt(np.square(stratum.control_mean - center).mean())
    assert LARGEST == 10.0
    size = 10.0 * (radius + away)
    every = np.ones(N_GENES)
    deltas = [
        0.99 * size * every,
        1.01 * size * every,
        np.nan * every,
        np.inf * every,
        1e300 * every,
    ]
    found = implausible(examples, stratum.control_mean, deltas)
    assert list(found) == [False, True, True, True, True]


def test_an_exploding_member_has_no_part_in_the_stack():
    training = design("two cells each")
    sound = StackedLinear.fit(training, True)
    place = MEMBERS.index("ridge_pca")
    broken = DeltaRule(
        "broken", (None,), lambda t, d, wanted, _: np.full_like(wanted.control, 1e20)
    )
    members = list(sound.members)
    members[place] = replace(members[place], rule=broken, settings=dict.fromkeys(Novelty))
    equal = dict.fromkeys(Novelty, np.full(len(MEMBERS), 1.0 / len(MEMBERS)))
    stack = replace(sound, members=members, weights=equal)
    expected = [m.delta(WANTED[0]) for i, m in enumerate(sound.members) if i != place]
    np.testing.assert_allclose(stack.delta(WANTED[0]), np.mean(expected, axis=0))
    alone = dict.fromkeys(Novelty, np.eye(len(MEMBERS))[place])
    np.testing.assert_allclose(
        replace(stack, weights=alone).delta(WANTED[0]), np.mean(expected, axis=0)
    )


def test_a_setting_that_explodes_is_not_chosen():
    def compute(training, deltas, wanted, setting):
        return np.full_like(wanted.control, np.nan if setting == 0 else setting)

    training = Training(
        [Stratum(t, "d1", cells(i), cells(9 + i), "burn") for i, t in enumerate("ABCD")]
    )
    tuned = tune(DeltaRule("made", (0, 1, 100), compute), training, Novelty.TYPE)
    assert tuned is not None
    assert tuned.setting == 1


class Exploding:
    """A baseline of a plug-in that says more than numbers hold."""

    def __init__(self, value: float):
        self.value = value

    def predict(self, stratum: Stratum) -> np.ndarray:
        return moved(stratum.control, np.full(stratum.control.shape[1], self.value), False)


@pytest.mark.parametrize("value", [1e15, np.nan, np.inf])
def test_an_implausible_baseline_is_left_out_with_its_reason(value, capsys):
    warn_once.cache_clear()
    config = tiny_run.config("evaluation.min_cells=4", "evaluation.bootstrap=100")
    data = tiny_run.data()
    sound = fit_reference(data, config.evaluation, 42)
    broken = replace(sound, baselines={**sound.baselines, "ridge_pca": Exploding(value)})

    def identity(data, planned):
        return [one.cells(data.cells).control for one in planned]

    result = evaluate(identity, broken.held_out())
    expected = evaluate(identity, sound.held_out())
    why = result.figures["left_out"]["ridge_pca"]
    assert "implausible in" in why
    assert "left_out" not in expected.figures
    assert "baseline ridge_pca is left out: implausible" in capsys.readouterr().err
    table = results_table(result.figures)
    assert f"left out: ridge_pca, {why}" in table
    found = result.figures["summary"]["baselines"]
    others = dict(expected.figures["summary"]["baselines"])
    del others["ridge_pca"]
    assert json.dumps(found) == json.dumps(others)
    assert "ridge_pca" not in result.draws.methods
    best = {d["best_baseline"] for d in result.figures["uncertainty"]["differences"].values()}
    assert "ridge_pca" not in best


def test_a_fold_that_leaves_a_baseline_out_leaves_it_out_of_the_table():
    def table(value: float) -> dict[str, float]:
        return dict.fromkeys(METRICS, value)

    scores = VariantScores(({"network": table(0.5)},), {}, None)
    folds = [
        FoldScores("A", {"one": table(0.4), "two": table(0.9)}, {"full": scores}),
        FoldScores("B, C", {"one": table(0.4)}, {"full": scores}),
    ]
    for order in (folds, folds[::-1]):
        figures = FoldFigures("cell_type", order)
        assert figures.baselines == ("one",)
        assert figures.best_baseline("pearson_delta") == "one"
        assert "left out: two, whose predictions are implausible with 'B, C'" in render_folds(
            figures
        )


@pytest.mark.parametrize("times", [1e3, 1e20, np.nan])
def test_a_model_that_exploded_is_not_scored(times):
    """However wrong a model is, it is scored; where its cells are of no cell's size, it is not."""
    config = tiny_run.config("evaluation.min_cells=4", "evaluation.bootstrap=100")
    held_out = fit_reference(tiny_run.data(), config.evaluation, 42).held_out()

    def exploded(data, planned):
        return [one.cells(data.cells).control * np.float64(times) for one in planned]

    said = r"times as large .* its training diverged.*learning_rate"
    with pytest.raises(UserError, match=said):
        evaluate(exploded, held_out)
    # As a leave-one-out scores it.
    with pytest.raises(UserError, match=said):
        held_out.score_model(exploded(held_out.data, held_out.planned), ["mse"])
    wrong = [8.0 * stratum.control for stratum in held_out.strata]
    assert all(scores["mse"] > 1.0 for scores in held_out.score_model(wrong, ["mse"]))


def test_cells_without_any_value_have_a_size_to_compare_with():
    nothing = np.zeros((40, N_GENES), np.float32)
    examples = Training([Stratum("A", "d1", nothing, nothing, "burn")]).learnt.examples
    assert beyond(examples, nothing) is None
    assert beyond(examples, nothing + 1.0) == np.inf
