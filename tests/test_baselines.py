"""Promises that every baseline keeps, on strata whose right answer is known."""

import numpy as np
import pytest

from wound_jax.baselines import BASELINES, Baseline, fit_baselines
from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError

pytestmark = pytest.mark.blas

N_GENES = 12
LEARNING = [name for name in BASELINES if name != "identity"]
# All but these two move the control cells, all of them alike or each by its own displacement.
MOVING_ALIKE = [n for n in LEARNING if n not in ("covariate_only", "matched_displacement")]


def shifted_stratum(
    shift: np.ndarray | float,
    cell_type: str = "Fib",
    timepoint: str | None = "day10",
    *,
    perturbation: str = "Burn",
    n: int = 20,
    profile: np.ndarray | float = 5.0,
) -> Stratum:
    """Treated cells are control cells plus a shift, so the mean shift is exact."""
    rng = np.random.default_rng([n, *cell_type.encode()])
    control = rng.normal(size=(n, N_GENES)) + profile
    return Stratum(cell_type, timepoint, control, control + shift, perturbation)


def noisy_strata(
    types: tuple[str, ...] = ("Fib", "Mac", "Ker", "Neu"), *, n: int = 60
) -> list[Stratum]:
    """Skewed non-negative cells that respond much alike in all types, two replicates an arm."""
    rng = np.random.default_rng(5)
    common = np.where(np.arange(N_GENES) % 3 == 0, 1.5, 0.0) - 0.8 * (np.arange(N_GENES) % 4 == 1)
    strata = []
    for cell_type in types:
        profile = rng.gamma(2.0, 1.0, size=N_GENES)
        for timepoint in ("day10", "day14"):
            response = common + 0.2 * rng.normal(size=N_GENES)
            control = np.maximum(profile + rng.normal(size=(n, N_GENES)), 0.0)
            treated = np.maximum(profile + response + rng.normal(size=(n, N_GENES)), 0.0)
            replicates = [np.repeat([f"{arm}1", f"{arm}2"], n // 2) for arm in ("sham", "burn")]
            strata.append(Stratum(cell_type, timepoint, control, treated, "Burn", *replicates))
    return strata


def reversed_stratum(stratum: Stratum) -> Stratum:
    """The same cells, treated and control exchanged."""
    return Stratum(
        stratum.cell_type,
        stratum.timepoint,
        stratum.treated,
        stratum.control,
        stratum.perturbation,
        stratum.treated_replicates,
        stratum.control_replicates,
    )


def fitted(name: str, training: list[Stratum], non_negative: bool = False) -> Baseline:
    return fit_baselines(training, non_negative, [name])[name]


def delta_of(baseline: Baseline, stratum: Stratum) -> np.ndarray:
    """What a baseline adds to the mean control cell."""
    return baseline.predict(stratum).mean(axis=0, dtype=np.float64) - stratum.control_mean


def test_the_names_are_printable_and_the_identity_comes_first() -> None:
    names = list(fit_baselines(noisy_strata(("Fib", "Mac"), n=8), True))
    assert all(name.isidentifier() and name == name.lower() for name in names)
    assert names[0] == "identity"
    assert names[1:] == sorted(LEARNING)
    assert len(names) >= 14


def test_unknown_baselines_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'ridge_pca'"):
        fit_baselines([shifted_stratum(1.0)], False, ["ridge_pcs"])


def test_identity_returns_the_control_cells() -> None:
    stratum = shifted_stratum(1.0)
    predicted = fitted("identity", [stratum]).predict(stratum)
    np.testing.assert_array_equal(predicted, stratum.control.astype(np.float32))


@pytest.mark.parametrize("novelty", ["other cells", "other timepoint", "other type"])
@pytest.mark.parametrize("name", LEARNING)
def test_the_delta_points_the_right_way_and_turns_with_the_data(name: str, novelty: str) -> None:
    strata = noisy_strata()
    held_out = strata[0]
    training = {
        "other cells": strata,
        "other timepoint": strata[1:],
        "other type": strata[2:],
    }[novelty]
    if novelty == "other type" and name == "covariate_only":
        pytest.skip("the mean of other types says nothing of what sets a type apart")
    for turn in (lambda stratum: stratum, reversed_stratum):
        test = turn(held_out)
        delta = delta_of(fitted(name, [turn(s) for s in training], True), test)
        assert np.corrcoef(delta, test.mean_delta)[0, 1] > 0.6


@pytest.mark.parametrize("name", [name for name in LEARNING if name != "covariate_only"])
def test_training_reversed_alone_reverses_the_delta(name: str) -> None:
    strata = noisy_strata()
    delta = delta_of(fitted(name, [reversed_stratum(s) for s in strata[2:]]), strata[0])
    assert np.corrcoef(delta, strata[0].mean_delta)[0, 1] < -0.6


@pytest.mark.parametrize("name", LEARNING)
def test_perturbations_keep_their_own_deltas(name: str) -> None:
    training = [
        shifted_stratum(2.0 * sign, cell_type, perturbation=perturbation)
        for perturbation, sign in (("Burn", 1.0), ("Freeze", -1.0))
        for cell_type in ("Fib", "Mac", "Ker")
    ]
    baseline = fitted(name, training)
    for perturbation, shift in (("Burn", 2.0), ("Freeze", -2.0)):
        test = shifted_stratum(0.0, perturbation=perturbation)
        # A displacement leads to one of several cells that are about as near.
        atol = 0.7 if name == "matched_displacement" else 1e-4
        np.testing.assert_allclose(delta_of(baseline, test), shift, atol=atol)
    with pytest.raises(UserError, match="Did you mean 'Freeze'"):
        baseline.predict(shifted_stratum(0.0, perturbation="Freez"))


@pytest.mark.parametrize("name", MOVING_ALIKE)
def test_cells_are_moved_not_replaced(name: str) -> None:
    training = [shifted_stratum(1.0), shifted_stratum(2.0, "Mac")]
    test = shifted_stratum(0.0, "Neu")
    predicted = fitted(name, training).predict(test)
    assert predicted.dtype == np.float32
    moved_by = predicted - test.control
    np.testing.assert_allclose(moved_by, np.broadcast_to(moved_by[0], moved_by.shape), atol=1e-5)


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_permutation_of_the_control_cells_permutes_the_prediction(name: str) -> None:
    strata = noisy_strata()
    test, order = strata[0], np.random.default_rng(0).permutation(strata[0].n_control)
    permuted = Stratum("Fib", "day10", test.control[order], test.treated, "Burn")
    baseline = fitted(name, strata[1:], True)
    np.testing.assert_allclose(
        baseline.predict(permuted), baseline.predict(test)[order], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("name", list(BASELINES))
def test_a_permutation_of_the_training_cells_changes_nothing(name: str) -> None:
    strata = noisy_strata()
    rng = np.random.default_rng(0)
    permuted = []
    for s in strata[1:]:
        control, treated = rng.permutation(s.n_control), rng.permutation(s.n_treated)
        assert s.control_replicates is not None
        assert s.treated_replicates is not None
        arms = s.control[control], s.treated[treated], s.perturbation
        replicates = s.control_replicates[control], s.treated_replicates[treated]
        permuted.append(Stratum(s.cell_type, s.timepoint, *arms, *replicates))
    predicted = [
        fitted(name, training, True).predict(strata[0]) for training in (strata[1:], permuted)
    ]
    np.testing.assert_allclose(*predicted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", list(BASELINES))
def test_one_training_stratum_and_few_cells_are_enough(name: str) -> None:
    for n in (1, 2, 20):
        training = [shifted_stratum(2.0, n=n)]
        predicted = fitted(name, training).predict(shifted_stratum(0.0, "Neu", "day14", n=3))
        assert predicted.shape == (3, N_GENES)
        assert np.isfinite(predicted).all()
    single = delta_of(fitted(name, [shifted_stratum(2.0)]), shifted_stratum(0.0, "Neu"))
    if name in MOVING_ALIKE:
        np.testing.assert_allclose(single, 2.0, atol=1e-4)


@pytest.mark.parametrize("name", LEARNING)
def test_strata_without_treated_cells_teach_nothing(name: str) -> None:
    full = noisy_strata()
    empty = Stratum("Mac", "day10", 9.0 * full[0].control, full[0].treated[:0], "Burn")
    test = full[0]
    np.testing.assert_array_equal(
        fitted(name, [*full[1:], empty], True).predict(test),
        fitted(name, full[1:], True).predict(test),
    )
    with pytest.raises(UserError, match="none of the 1 training strata has treated cells"):
        fitted(name, [empty])


@pytest.mark.parametrize("name", list(BASELINES))
def test_no_value_is_negative_where_none_can_be(name: str) -> None:
    training = [shifted_stratum(-6.0), shifted_stratum(-7.0, "Mac"), shifted_stratum(-6.5, "Ker")]
    clipped = [
        Stratum(
            s.cell_type, s.timepoint, np.maximum(s.control, 0), np.maximum(s.treated, 0), "Burn"
        )
        for s in training
    ]
    assert fitted(name, clipped, True).predict(clipped[0]).min() >= 0.0
    if name in MOVING_ALIKE:
        assert fitted(name, training).predict(training[0]).min() < 0.0, "a signed space is not cut"
