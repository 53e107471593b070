"""The delta rules where the right answer is known."""

import numpy as np
import pytest
from rule_strata import DAYS, N_GENES, additive_strata, random_profiles, stratum
from scipy.optimize import minimize
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import Ridge

from wound_jax.baselines import BASELINES, fit_baselines
from wound_jax.baselines.profiles import Novelty, Profiles, labels_of
from wound_jax.baselines.rules import DeltaRule, FittedDelta, delta_rule, named_rule
from wound_jax.baselines.stacked_linear import MEMBERS, StackedLinear, weights_of_least_error
from wound_jax.baselines.training import Training
from wound_jax.data.strata import Stratum
from wound_jax.prediction.calibration.blend import Members, blend

pytestmark = [pytest.mark.blas, pytest.mark.quick]


def fitted(name: str, training: list[Stratum]) -> FittedDelta:
    baseline = fit_baselines(training, False, [name])[name]
    assert isinstance(baseline, FittedDelta)
    return baseline


def affine_strata(n: int, seed: int, weights: np.ndarray) -> list[Stratum]:
    """Types whose shift is an affine function of their mean control cell."""
    profiles = random_profiles(n, seed)
    return [
        stratum(f"type{seed}-{i}", None, profile, profile @ weights + 0.7)
        for i, profile in enumerate(profiles)
    ]


@pytest.fixture
def three_strata() -> list[Stratum]:
    labels = [("Fib", "day10", 1.0), ("Fib", "day14", 3.0), ("Mac", "day10", 8.0)]
    return [stratum(cell_type, day, 5.0, shift) for cell_type, day, shift in labels]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("global_mean_delta", {("Fib", "day14"): 4.0, ("Neu", "day19"): 4.0}),
        ("type_mean_delta", {("Fib", "day19"): 2.0, ("Mac", "day14"): 8.0, ("Neu", "day10"): 4.0}),
        (
            "type_timepoint_mean_delta",
            {
                ("Fib", "day14"): 3.0,
                ("Fib", "day19"): 2.0,
                ("Mac", "day14"): 8.0,
                ("Neu", "day10"): 4.5,
                ("Neu", "day19"): 4.0,
            },
        ),
    ],
)
def test_mean_shifts_and_what_they_fall_back_on(three_strata, name, expected) -> None:
    baseline = fitted(name, three_strata)
    for (cell_type, day), shift in expected.items():
        np.testing.assert_allclose(baseline.delta(stratum(cell_type, day, 5.0, 0.0)), shift)


def test_strata_count_equally_whatever_their_cells(three_strata) -> None:
    few = three_strata[2]
    training = [three_strata[0], Stratum("Mac", "day10", few.control[:2], few.treated[:2], "Burn")]
    np.testing.assert_allclose(fitted("global_mean_delta", training).delta(few), 4.5)


@pytest.mark.parametrize("name", ["ridge_pca", "pls_pca"])
def test_regressions_on_components_recover_a_linear_shift_of_unseen_types(name) -> None:
    weights = np.random.default_rng(99).normal(size=(N_GENES, N_GENES)) / N_GENES
    if name == "pls_pca":
        weights = 10.0 * np.outer(weights[0], weights[1])
    baseline = fitted(name, affine_strata(40, 1, weights))
    constant = fitted("global_mean_delta", affine_strata(40, 1, weights))
    for test in affine_strata(5, 2, weights):
        np.testing.assert_allclose(baseline.delta(test), test.mean_delta, atol=0.02)
        assert np.abs(constant.delta(test) - test.mean_delta).max() > 0.05


def test_gene_wise_recovers_a_slope_of_each_gene() -> None:
    slopes = np.diag(np.linspace(-1.0, 1.0, N_GENES))
    baseline = fitted("gene_wise", affine_strata(6, 1, slopes))
    for test in affine_strata(3, 2, slopes):
        np.testing.assert_allclose(baseline.delta(test), test.mean_delta, atol=1e-3)


def test_additive_ridge_recovers_unseen_combinations() -> None:
    missing = {("Mac", "day14"), ("Neu", "day19")}
    training, strata = additive_strata(missing)
    baseline = fitted("additive_ridge", training)
    for key in missing:
        np.testing.assert_allclose(baseline.delta(strata[key]), strata[key].mean_delta, atol=0.01)


def test_additive_ridge_drops_the_term_of_an_unseen_type() -> None:
    training, strata = additive_strata({("Mac", day) for day in DAYS})
    baseline = fitted("additive_ridge", training)
    shifts = [baseline.delta(strata["Mac", day]) for day in DAYS]
    steps = [strata["Fib", day].mean_delta - strata["Fib", "day10"].mean_delta for day in DAYS]
    for shift, step in zip(shifts, steps, strict=True):
        np.testing.assert_allclose(shift - shifts[0], step, atol=0.02)


def test_kernel_mean_follows_the_nearest_types() -> None:
    near, far = random_profiles(2, 7)
    training = [
        *(stratum(f"near{i}", None, near + 0.05 * i, 1.0) for i in range(3)),
        *(stratum(f"far{i}", None, far + 0.05 * i, -1.0) for i in range(3)),
    ]
    baseline = fitted("kernel_mean_delta", training)
    for profile, shift in ((near, 1.0), (far, -1.0)):
        test = stratum("new", None, profile, 0.0)
        np.testing.assert_allclose(baseline.delta(test), shift, atol=1e-3)


def test_regressed_mean_takes_out_what_sets_the_control_cells_of_new_replicates_apart() -> None:
    """Control means of replicates scatter, their treated means do not: the slope is 0."""
    rng = np.random.default_rng(8)
    training = []
    for i, profile in enumerate(random_profiles(4, 8)):
        replicates = np.repeat([f"m{k}" for k in range(4)], 20)
        scatter = np.repeat(rng.normal(size=(4, N_GENES)), 20, axis=0)
        control = profile + scatter + 0.01 * rng.normal(size=(80, N_GENES))
        treated = profile + 2.0 + 0.01 * rng.normal(size=(80, N_GENES))
        training.append(Stratum(f"type{i}", None, control, treated, "Burn", replicates, replicates))
    baseline = fitted("regressed_mean_delta", training)
    assert baseline.settings[Novelty.NONE] == pytest.approx(0.0)
    test = Stratum("type1", None, training[1].control[:20], training[1].treated[:20], "Burn")
    predicted = test.control_mean + baseline.delta(test)
    np.testing.assert_allclose(predicted, training[1].treated.mean(axis=0), atol=1e-6)


def test_a_rule_shrinks_to_the_mean_shift_where_the_control_says_nothing() -> None:
    rng = np.random.default_rng(0)
    training = [
        stratum(f"type{i}", None, profile, 1.0 + 0.5 * rng.normal(size=N_GENES))
        for i, profile in enumerate(random_profiles(30, 1))
    ]
    test = stratum("new", None, random_profiles(1, 2)[0], 0.0)
    constant = fitted("global_mean_delta", training).delta(test)
    for name in ("ridge_pca", "pls_pca", "gene_wise", "kernel_mean_delta", "additive_ridge"):
        np.testing.assert_allclose(fitted(name, training).delta(test), constant, atol=0.25)


def test_ridge_is_that_of_scikit_learn_and_its_penalty_has_the_least_left_out_error() -> None:
    weights = np.random.default_rng(9).normal(size=(N_GENES, N_GENES)) / N_GENES
    training = affine_strata(8, 3, weights)
    (test,) = affine_strata(1, 4, weights)
    baseline = fitted("ridge_pca", training)
    scores, shifts = baseline.training.examples.profiles.scores, baseline.training.examples.deltas

    def model(rows: np.ndarray, penalty: float) -> Ridge:
        scale = np.square(scores[rows] - scores[rows].mean(axis=0)).sum()
        return Ridge(penalty * scale).fit(scores[rows], shifts[rows])

    errors = []
    for penalty in baseline.rule.settings:
        kept = [np.arange(8) != i for i in range(8)]
        predicted = [model(k, penalty).predict(scores[[i]])[0] for i, k in enumerate(kept)]
        errors.append(np.square(np.array(predicted) - shifts).sum())
    chosen = baseline.settings[Novelty.TYPE]
    assert chosen == baseline.rule.settings[int(np.argmin(errors))]
    new = baseline.training.profiles([test]).scores
    expected = model(np.ones(8, dtype=bool), chosen).predict(new)[0]
    np.testing.assert_allclose(baseline.delta(test), expected, rtol=1e-6)


def test_pls_is_that_of_scikit_learn_on_the_shifts_themselves() -> None:
    weights = np.random.default_rng(9).normal(size=(N_GENES, N_GENES)) / N_GENES
    training = Training(affine_strata(8, 3, weights))
    known, shifts = training.examples.profiles, training.examples.deltas
    wanted = training.learnt.profiles(affine_strata(3, 4, weights))
    rule = BASELINES.get("pls_pca")
    assert isinstance(rule, DeltaRule)
    for n in (1, 2, 3):
        model = PLSRegression(n, scale=False, tol=1e-14, max_iter=10_000)
        expected = model.fit(known.scores, shifts).predict(wanted.scores)
        np.testing.assert_allclose(
            rule.compute(known, shifts, wanted, n), expected, rtol=1e-5, atol=1e-5
        )


def profiles_of(n: int, seed: int, labels: list[tuple[str, str]] | None = None) -> Profiles:
    control, scores = np.random.default_rng(seed).normal(size=(2, n, N_GENES))
    kinds = labels or [("Fib", "day10")] * n
    strata = [stratum(kind, day, 0.0, 0.0) for kind, day in kinds]
    return Profiles(*labels_of(strata), control, scores)


def test_rules_are_their_formulas_at_a_given_setting() -> None:
    known, wanted = profiles_of(5, 0), profiles_of(2, 1)
    deltas = np.random.default_rng(2).normal(size=(5, N_GENES))
    x, y = known.control - known.control.mean(axis=0), deltas - deltas.mean(axis=0)
    s_xx, s_xy = (x**2).sum(axis=0), (x * y).sum(axis=0)
    slopes = s_xy / (s_xx + 0.3 * s_xx.mean())
    expected = deltas.mean(axis=0) + slopes * (wanted.control - known.control.mean(axis=0))
    found = named_rule("gene_wise").compute(known, deltas, wanted, 0.3)
    np.testing.assert_allclose(found, expected)

    def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.array([[((p - q) ** 2).sum() for q in b] for p in a])

    unit = squared(known.scores, known.scores).mean()
    weights = np.exp(-squared(wanted.scores, known.scores) / (2 * 0.7**2 * unit))
    expected = weights @ deltas / weights.sum(axis=1, keepdims=True)
    found = named_rule("kernel_mean_delta").compute(known, deltas, wanted, 0.7)
    np.testing.assert_allclose(found, expected)


def test_the_terms_of_the_additive_rule_have_a_ratio_each() -> None:
    labels = [(kind, day) for kind in ("Fib", "Mac") for day in DAYS]
    known, deltas = profiles_of(6, 0, labels), np.random.default_rng(1).normal(size=(6, N_GENES))
    rule = named_rule("additive_ridge")
    of_type, of_day = (
        rule.compute(known, deltas, known, ratios) for ratios in ((1e9, 0.0), (0.0, 1e9))
    )
    by_type = np.repeat([deltas[:3].mean(axis=0), deltas[3:].mean(axis=0)], 3, axis=0)
    np.testing.assert_allclose(of_type, by_type, atol=1e-5)
    np.testing.assert_allclose(of_day, np.tile((deltas[:3] + deltas[3:]) / 2, (2, 1)), atol=1e-5)


def test_the_terms_of_the_additive_rule_add_up() -> None:
    training, strata = additive_strata({("Mac", "day14")})
    learnt, rule = Training(training).learnt, named_rule("additive_ridge")
    wanted = learnt.profiles([strata["Mac", "day14"]])
    found = rule.compute(learnt.examples.profiles, learnt.examples.deltas, wanted, (1e6, 1e6))
    np.testing.assert_allclose(found[0], strata["Mac", "day14"].mean_delta, atol=1e-4)


def test_each_wanted_stratum_falls_back_by_itself(three_strata) -> None:
    learnt = Training(three_strata).learnt
    kinds = [("Fib", "day10"), ("Neu", "day10"), ("Neu", "day19"), ("Mac", "day14")]
    wanted = learnt.profiles([stratum(kind, day, 5.0, 0.0) for kind, day in kinds])
    of_name = {
        "type_timepoint_mean_delta": [1.0, 4.5, 4.0, 8.0],
        "type_mean_delta": [2.0, 4.0, 4.0, 8.0],
    }
    for name, expected in of_name.items():
        found = named_rule(name).deltas(learnt.examples, wanted, None)
        np.testing.assert_allclose(found, np.repeat(np.array(expected)[:, None], N_GENES, axis=1))


def test_a_further_rule_changes_neither_the_stack_nor_the_blend() -> None:
    training = affine_strata(6, 1, np.diag(np.linspace(-1.0, 1.0, N_GENES)))
    (test,) = affine_strata(1, 2, np.diag(np.linspace(-1.0, 1.0, N_GENES)))
    cells = test.control + 0.3

    def fit() -> tuple[list[str], dict, np.ndarray, np.ndarray]:
        stack = StackedLinear.fit(training, False)
        blended = blend(Members(stack), 0.5).apply(cells, test)
        names = [member.rule.name for member in stack.members]
        return names, dict(stack.weights), stack.delta(test), blended

    before = fit()
    try:
        delta_rule("the_truth")(lambda training, deltas, wanted, _: wanted.control * 0.0 + 9.0)
        assert "the_truth" in fit_baselines(training, False)
        after = fit()
    finally:
        BASELINES._parts.pop("the_truth", None)
    assert after[0] == before[0]
    for novelty in Novelty:
        np.testing.assert_array_equal(after[1][novelty], before[1][novelty])
    np.testing.assert_array_equal(after[2], before[2])
    np.testing.assert_array_equal(after[3], before[3])


def test_stack_weights_solve_the_constrained_problem() -> None:
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(4, 3, 5)) + np.array([0.2, 0.5, 1.0, 3.0])[:, None, None]
    flat = errors.reshape(4, -1)
    expected = minimize(
        lambda w: np.square(w @ flat).sum(),
        np.full(4, 0.25),
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-12},
    ).x
    np.testing.assert_allclose(weights_of_least_error(errors), expected, atol=1e-4)
    # The unit of the errors is of no matter, and where there are none the rules count alike.
    for unit in (1e-9, 1e9):
        np.testing.assert_allclose(weights_of_least_error(unit * errors), expected, atol=1e-4)
    np.testing.assert_array_equal(weights_of_least_error(0 * errors), 0.25)


def test_cells_move_by_the_expected_delta_and_not_below_zero_where_nothing_is() -> None:
    training = [stratum(name, None, 5.0, -4.0) for name in ("Fib", "Mac")]
    low = stratum("Fib", None, 4.5, 0.0)
    assert low.control.min() > 0.0
    for rule in (named_rule("global_mean_delta"), StackedLinear):
        fits = [rule.fit(training, non_negative) for non_negative in (False, True)]
        signed, clipped = (fit.predict(low) for fit in fits)
        np.testing.assert_allclose(signed, low.control + fits[0].delta(low), atol=2e-6)
        assert signed.dtype == clipped.dtype == np.float32
        assert signed.min() < 0.0 == clipped.min()
        mean = np.maximum(signed.mean(axis=0), 0.0)
        np.testing.assert_allclose(clipped.mean(axis=0), mean, atol=2e-6)


def test_the_stack_goes_with_the_rule_that_is_right() -> None:
    slopes = np.diag(np.linspace(-1.0, 1.0, N_GENES))
    stack = StackedLinear.fit(affine_strata(6, 1, slopes), False)
    names = [member.rule.name for member in stack.members]
    assert names == list(MEMBERS)
    assert [member.rule for member in stack.members] == [named_rule(name) for name in MEMBERS]
    for novelty, weights in stack.weights.items():
        assert weights.sum() == pytest.approx(1.0), novelty
        assert (weights >= 0.0).all(), novelty
    assert stack.weights[Novelty.TYPE][names.index("gene_wise")] > 0.9
    (test,) = affine_strata(1, 2, slopes)
    np.testing.assert_allclose(stack.delta(test), test.mean_delta, atol=0.2)
