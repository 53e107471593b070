"""The share of linear rules in a predicted mean: weight, mean, and what stays the network's."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from wound_jax.baselines.profiles import Novelty
from wound_jax.baselines.stacked_linear import StackedLinear
from wound_jax.data.strata import Stratum
from wound_jax.prediction.calibration.across_genes import AcrossGenes
from wound_jax.prediction.calibration.blend import NO_CHOICE, Members, Weights, blend
from wound_jax.prediction.calibration.shrink_controls import ShrunkControls

pytestmark = [pytest.mark.blas, pytest.mark.quick]

N_GENES = 9


class FixedNovelty:
    """Stands for the training strata: "Fib" is known, any other cell type is not."""

    def novelty_of(self, stratum: Stratum) -> Novelty:
        return Novelty.NONE if stratum.cell_type == "Fib" else Novelty.TYPE


def fix(part: object, **values: object) -> None:
    """Sets fields of a frozen part that is not made as others of its kind are."""
    for name, value in values.items():
        object.__setattr__(part, name, value)


class FixedRule(StackedLinear):
    """Stands for the fitted rules: one shift whatever the stratum."""

    of: np.ndarray

    def __init__(self, of: np.ndarray, non_negative: bool = True):
        fix(self, of=of, non_negative=non_negative, training=FixedNovelty())

    def delta(self, stratum: Stratum) -> np.ndarray:
        return self.of


def made_stratum(seed: int, above: float = 3.0) -> Stratum:
    rng = np.random.default_rng(seed)
    control, treated = rng.random((40, N_GENES)) + above, rng.random((30, N_GENES)) + above + 1
    return Stratum("Fib", None, control, treated, "Burn")


def made_cells(seed: int, stratum: Stratum) -> np.ndarray:
    rng = np.random.default_rng(100 + seed)
    shifted = stratum.control + rng.normal(0.8, 0.3, N_GENES)
    return (shifted + 0.1 * rng.normal(size=shifted.shape)).astype(np.float32)


@pytest.fixture
def rule():
    return FixedRule(np.random.default_rng(7).normal(1.1, 0.4, N_GENES))


class FixedGenes(AcrossGenes):
    """Stands for what is learnt across genes: one shift for an unknown type."""

    shift: np.ndarray
    known_types: int

    def __init__(self, shift: np.ndarray | None = None, known_types: int = 5):
        shift = np.linspace(0.5, 1.5, N_GENES) if shift is None else shift
        fix(self, shift=shift, known_types=known_types, weight=0.6)

    def applies(self, stratum: Stratum) -> bool:
        return stratum.cell_type != "Fib" and self.known_types >= 4

    def delta(self, stratum: Stratum) -> np.ndarray:
        return self.shift


def test_the_chosen_share_has_the_least_squared_error(rule):
    strata = [made_stratum(seed) for seed in range(3)]
    predicted = [made_cells(seed, stratum) for seed, stratum in enumerate(strata)]
    share = blend(Members(rule), "auto", strata, predicted)

    def error(weight: float) -> float:
        total = 0.0
        for stratum, cells in zip(strata, predicted, strict=True):
            mean = (1 - weight) * cells.mean(axis=0, dtype=float)
            mean = mean + weight * (stratum.control.mean(axis=0) + rule.of)
            total += np.square(mean - stratum.treated.mean(axis=0)).sum()
        return total

    best: Any = minimize_scalar(error, bounds=(0, 1), method="bounded", options={"xatol": 1e-10})
    assert 0.05 < best.x < 0.95, "the case should not be one of the ends"
    assert share.weight(strata[0]).linear == pytest.approx(best.x, abs=1e-6)


@pytest.mark.parametrize(("better", "expected"), [("network", 0.0), ("rules", 1.0)])
def test_a_share_ends_where_one_of_the_two_is_right(better, expected):
    stratum = made_stratum(0)
    delta = stratum.treated.mean(axis=0) - stratum.control.mean(axis=0)
    right, wrong = stratum.control + delta, stratum.control + 3 * delta
    rule = FixedRule(3 * delta if better == "network" else delta)
    cells = right if better == "network" else wrong
    share = blend(Members(rule), "auto", [stratum], [cells])
    assert share.weight(stratum).linear == pytest.approx(expected, abs=1e-9)


def test_the_mean_is_combined_and_the_cells_about_it_stay_in_a_signed_space(rule):
    rule = FixedRule(rule.of, non_negative=False)
    stratum = made_stratum(1)
    cells = made_cells(1, stratum)
    moved = blend(Members(rule), 0.3).apply(cells, stratum)
    wanted = 0.7 * cells.mean(axis=0) + 0.3 * (stratum.control.mean(axis=0) + rule.of)
    np.testing.assert_allclose(moved.mean(axis=0), wanted, rtol=1e-5)
    np.testing.assert_allclose(moved - moved.mean(axis=0), cells - cells.mean(axis=0), atol=2e-6)


def test_expression_is_scaled_so_that_zeros_stay(rule):
    stratum = made_stratum(6, above=0.0)
    cells = made_cells(6, stratum)
    cells[::3] = 0.0
    moved = blend(Members(rule), 0.4).apply(cells, stratum)
    wanted = 0.6 * cells.mean(axis=0) + 0.4 * (stratum.control.mean(axis=0) + rule.of)
    np.testing.assert_allclose(moved.mean(axis=0), wanted, rtol=1e-5)
    assert not moved[::3].any()


def test_a_gene_that_is_hardly_expressed_is_not_blown_up():
    """Ten times the mean: the one cell that expresses the gene is doubled, the rest is shared."""
    stratum = made_stratum(7)
    cells = np.zeros((40, N_GENES), np.float32)
    cells[0] = 1.0
    rule = FixedRule(-stratum.control.mean(axis=0) + 10 / 40)
    moved = blend(Members(rule), 1.0).apply(cells, stratum)
    np.testing.assert_allclose(moved.mean(axis=0), 10 / 40, rtol=1e-5)
    np.testing.assert_allclose(moved[0], 2.0 + 8 / 40, rtol=1e-5)


def test_cells_near_zero_stay_non_negative_with_the_combined_mean():
    stratum = made_stratum(2, above=0.0)
    cells = np.maximum(made_cells(2, stratum) - 0.9, 0.0)
    rule = FixedRule(np.full(N_GENES, -5.0))
    moved = blend(Members(rule), 0.5).apply(cells, stratum)
    assert moved.min() >= 0
    # The rules would take every gene below 0, which counts as 0.
    np.testing.assert_allclose(moved.mean(axis=0), 0.5 * cells.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_no_share_changes_nothing(rule):
    stratum = made_stratum(3)
    cells = made_cells(3, stratum)
    assert blend(Members(rule), 0.0).apply(cells, stratum) is cells


def test_known_strata_do_not_choose_for_an_unknown_type(rule):
    known = made_stratum(4)
    delta = known.treated.mean(axis=0) - known.control.mean(axis=0)
    share = blend(Members(rule), "auto", [known], [known.control + delta])
    assert share.weight(known).linear == pytest.approx(0.0, abs=1e-9)
    assert share.weight(replace(known, cell_type="Mac")).linear == NO_CHOICE


def test_without_validation_strata_the_two_count_alike(rule):
    assert blend(Members(rule), "auto").weight(made_stratum(5)) == Weights(0.5, linear=0.5)
    regression = FixedRegression()
    regressed = blend(Members(rule, regression), "auto").weight(made_stratum(5))
    assert regressed == Weights(regressed=0.5, linear=0.5)
    unknown = replace(made_stratum(5), cell_type="Mac")
    left_alone = blend(Members(rule, regression), "auto").weight(unknown)
    assert left_alone == Weights(network=0.5, linear=0.5)
    assert NO_CHOICE == 0.5


class FixedRegression(ShrunkControls):
    """Stands for the regression: a fixed part of a gene's mean is kept."""

    kept: np.ndarray

    def __init__(self):
        fix(self, kept=np.linspace(0.6, 1.2, N_GENES))

    def mean(self, predicted: np.ndarray, stratum: Stratum) -> np.ndarray:
        return self.kept * predicted if stratum.cell_type == "Fib" else predicted


def test_three_shares_have_the_least_squared_error_together(rule):
    strata = [made_stratum(seed) for seed in range(3)]
    predicted = [made_cells(seed, stratum) for seed, stratum in enumerate(strata)]
    regression = FixedRegression()
    weights = blend(Members(rule, regression), "auto", strata, predicted).weight(strata[0])

    def error(given: tuple[float, ...]) -> float:
        total = 0.0
        for stratum, cells in zip(strata, predicted, strict=True):
            network = cells.mean(axis=0, dtype=np.float64)
            linear = stratum.control.mean(axis=0) + rule.of
            combined = np.array(given[:3]) @ [network, regression.mean(network, stratum), linear]
            total += np.sum((combined - stratum.treated.mean(axis=0)) ** 2)
        return total

    assert sum(weights) == pytest.approx(1.0)
    assert sorted(weights)[-2] > 0.05, "at least two should count"
    steps = np.linspace(0, 1, 101)
    grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1]
    assert error(weights) <= min(map(error, grid)) * (1 + 1e-9)


def test_a_given_share_leaves_the_rest_to_the_regressed_network(rule):
    stratum = made_stratum(2)
    cells = made_cells(2, stratum)
    regression = FixedRegression()
    share = blend(Members(rule, regression), 0.25)
    network = cells.mean(axis=0, dtype=np.float64)
    wanted = 0.75 * regression.mean(network, stratum) + 0.25 * (
        stratum.control.mean(axis=0) + rule.of
    )
    np.testing.assert_allclose(share.apply(cells, stratum).mean(axis=0), wanted, rtol=1e-5)
    assert share.weight(stratum) == Weights(regressed=0.75, linear=0.25)


def test_what_the_regression_leaves_alone_is_weighed_once(rule):
    """An unknown type has the network's mean twice; its share is all the network's."""
    stratum = replace(made_stratum(6), cell_type="Mac")
    cells = made_cells(6, stratum)
    regression = FixedRegression()
    share = blend(Members(rule, regression), "auto", [stratum], [cells])
    plain = blend(Members(rule), "auto", [stratum], [cells])
    assert share.weight(stratum) == plain.weight(stratum)
    assert share.weight(stratum).regressed == 0.0


@pytest.mark.parametrize("weight", ["auto", 0.5])
def test_of_an_unknown_type_the_rules_are_also_those_across_genes(rule, weight):
    genes = FixedGenes()
    share = blend(Members(rule, genes=genes), weight)
    known, unknown = made_stratum(3), replace(made_stratum(3), cell_type="Mac")
    assert share.weight(known) == Weights(0.5, linear=0.5)
    assert share.weight(unknown) == pytest.approx(Weights(0.5, linear=0.2, genes=0.3))
    cells = made_cells(3, unknown)
    rules = unknown.control.mean(axis=0) + 0.4 * rule.of + 0.6 * genes.shift
    wanted = 0.5 * cells.mean(axis=0) + 0.5 * rules
    np.testing.assert_allclose(share.apply(cells, unknown).mean(axis=0), wanted, rtol=1e-5)
    assert share.figures(unknown)["genes"] == pytest.approx(0.3)


def test_where_too_few_types_are_known_the_linear_rules_stand_in(rule):
    genes = FixedGenes(known_types=2)
    unknown = replace(made_stratum(3), cell_type="Mac")
    share = blend(Members(rule, genes=genes), "auto")
    assert share.weight(unknown) == Weights(0.5, linear=0.5)
    cells = made_cells(3, unknown)
    alone = blend(Members(rule), "auto").apply(cells, unknown)
    np.testing.assert_array_equal(share.apply(cells, unknown), alone)


def test_validation_types_weigh_what_is_learnt_across_genes(rule):
    """It is right and all else is wrong, so that it takes all."""
    unknown = replace(made_stratum(4), cell_type="Mac")
    genes = FixedGenes(unknown.treated.mean(axis=0) - unknown.control.mean(axis=0))
    cells = made_cells(4, unknown) + 1.0
    share = blend(Members(rule, genes=genes), "auto", [unknown], [cells])
    assert share.weight(unknown).genes == pytest.approx(1.0, abs=1e-9)
