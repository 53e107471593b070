"""Deltas of an unknown type learnt across genes: what is learnt, and from which cells."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from wound_jax.baselines.profiles import Profiles
from wound_jax.baselines.stacked_linear import StackedLinear
from wound_jax.baselines.training import Learnt, Training
from wound_jax.data.strata import Stratum
from wound_jax.prediction.calibration import across_genes
from wound_jax.prediction.calibration.across_genes import (
    MIN_TYPES,
    AcrossGenes,
    _context,
    _Likeness,
    fluctuation,
)

N_GENES = 400
TYPES = ["Fib", "Ker", "Mac", "Neu", "Tce", "End"]


def made_types(seed: int = 0, *, n_cells: int = 60) -> list[Stratum]:
    """Types in which a gene that answers does so by what it has room for.

    The shift is the same bent function of the control expression for all genes and types, which no
    average over types and no line through one gene's few types can follow.
    """
    rng = np.random.default_rng(seed)
    answers = rng.random(N_GENES) < 0.3
    level = rng.gamma(1.0, 1.0, N_GENES)
    found = []
    for name in TYPES:
        mean = level * rng.lognormal(0.0, 0.8, N_GENES)
        shift = answers * 2.0 / (1.0 + np.square(mean))
        control = rng.gamma(8.0, mean / 8.0, (n_cells, N_GENES))
        treated = rng.gamma(8.0, (mean + shift) / 8.0, (n_cells, N_GENES))
        found.append(Stratum(name, None, control, treated, "Burn"))
    return found


def test_likeness_is_in_units_of_the_distance_between_two_others() -> None:
    scores = np.array([[0.0], [1.0], [3.0]])
    labels = np.array(["Fib", "Ker", "Mac"], object)
    others = Profiles(labels, labels, labels, scores, scores)
    found = _Likeness.of(others, Profiles(labels[:1], labels[:1], labels[:1], *[scores[1:2]] * 2))
    np.testing.assert_array_equal(found.squared, [1.0, 0.0, 4.0])
    assert found.unit == (1 + 9 + 4) / 3
    raised = np.exp(-found.squared / (2 * 0.5**2 * found.unit))
    np.testing.assert_allclose(found.weights(0.5), raised / raised.sum())
    assert found.nearest(2).tolist() == [1, 0]
    assert found.nearest(5).tolist() == [1, 0, 2, 2, 2]


@pytest.mark.parametrize(("n_now", "narrow"), [(3, True), (2, False)])
def test_a_timepoint_with_three_other_strata_is_a_context_of_its_own(n_now, narrow) -> None:
    kinds = ["Fib", *TYPES[1 : 1 + n_now], "Tce", "Ker"]
    days = ["d1"] * (1 + n_now) + ["d2", "d1"]
    of = ["Burn"] * (2 + n_now) + ["Freeze"]
    labels = [np.array(values, object) for values in (kinds, days, of)]
    known = Profiles(*labels, *np.zeros((2, len(kinds), 1)))
    found = _context(known, known.take([0]))
    now = [False] + [True] * n_now + [False, False]
    assert found.tolist() == (now if narrow else [False] + [True] * (n_now + 1) + [False])


def learnt(strata: Sequence[Stratum]) -> Learnt:
    return Training.of(strata).learnt


def rules(strata: Sequence[Stratum]) -> StackedLinear:
    return StackedLinear.fit(strata, True)


def taught(strata: Sequence[Stratum]) -> AcrossGenes:
    return AcrossGenes.unweighed(learnt(strata), strata)


def weighed(strata: Sequence[Stratum]) -> AcrossGenes:
    return AcrossGenes.of(rules(strata), strata)


def error(shift: np.ndarray, stratum: Stratum) -> float:
    return float(np.square(shift - stratum.mean_delta).sum())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_rule_common_to_all_genes_is_found(seed):
    across_genes, linear = [], []
    for place in range(len(TYPES)):
        strata = made_types(seed)
        unknown = strata.pop(place)
        across_genes.append(error(taught(strata).delta(unknown), unknown))
        linear.append(error(rules(strata).delta(unknown), unknown))
    assert np.all(np.array(across_genes) < linear)
    assert sum(across_genes) < 0.75 * sum(linear)


def test_treated_cells_of_the_unknown_type_are_not_looked_at():
    strata = made_types()
    unknown = strata.pop()
    other = replace(unknown, treated=unknown.treated[:0])
    np.testing.assert_array_equal(taught(strata).delta(unknown), taught(strata).delta(other))


def test_the_order_of_types_and_genes_means_nothing():
    strata = made_types()
    unknown = strata.pop()
    shift = taught(strata).delta(unknown)
    reversed_types = taught(strata[::-1]).delta(unknown)
    # Trees are drawn from rows in another order: alike, not the same.
    assert np.corrcoef(shift, reversed_types)[0, 1] > 0.97
    order = np.random.default_rng(1).permutation(N_GENES)
    mixed = [
        replace(one, control=one.control[:, order], treated=one.treated[:, order])
        for one in (*strata, unknown)
    ]
    again = taught(mixed[:-1]).delta(mixed[-1])
    assert np.corrcoef(shift[order], again)[0, 1] > 0.97


def test_the_same_cells_give_the_same_delta():
    strata = made_types()
    unknown = strata.pop()
    np.testing.assert_array_equal(taught(strata).delta(unknown), weighed(strata).delta(unknown))


def test_a_unit_of_expression_changes_nothing_but_the_unit():
    """Trees split where values lie, and shifts are in units of their own size."""
    strata = made_types()
    scaled = [replace(one, control=4 * one.control, treated=4 * one.treated) for one in strata]
    shift, four = (taught(part[:-1]).delta(part[-1]) for part in (strata, scaled))
    assert np.corrcoef(shift, four)[0, 1] > 0.999
    assert np.linalg.norm(four) == pytest.approx(4 * np.linalg.norm(shift), rel=0.01)


def test_it_applies_to_unknown_types_where_enough_are_known():
    strata = made_types()
    unknown, known = strata[-1], strata[0]
    assert not taught(strata[:-1]).applies(known)
    assert taught(strata[:MIN_TYPES]).applies(unknown)
    assert not taught(strata[: MIN_TYPES - 1]).applies(unknown)


def test_perturbations_are_learnt_apart():
    strata = made_types()
    unknown = strata.pop()
    reverse = [
        replace(one, perturbation="Cold", treated=one.control + (one.control_mean * 0.1))
        for one in strata
    ]
    both, alone = taught([*strata, *reverse]), taught(strata)
    # The components are fitted on other cells, so that likeness is not quite the same.
    assert np.corrcoef(both.delta(unknown), alone.delta(unknown))[0, 1] > 0.98
    cold = both.delta(replace(unknown, perturbation="Cold"))
    assert error(cold, replace(unknown, treated=1.1 * unknown.control)) < 0.1 * error(
        both.delta(unknown), replace(unknown, treated=1.1 * unknown.control)
    )


@pytest.fixture
def small_forests(monkeypatch):
    """For what does not ask how well a forest learns."""
    monkeypatch.setitem(across_genes._TREES, "n_estimators", 20)


@pytest.mark.usefixtures("small_forests")
@pytest.mark.parametrize("n_types", [1, 2, 3])
def test_a_perturbation_of_few_types_is_left_to_the_linear_rules(n_types):
    strata = made_types()
    rare = [replace(one, perturbation="Cold") for one in strata[:n_types]]
    unknown = strata.pop()
    both = weighed([*strata, *rare])
    assert both.applies(unknown)
    assert np.isfinite(both.delta(unknown)).all()
    assert 0.0 < both.weight <= 1.0
    assert not both.applies(replace(unknown, perturbation="Cold"))


def test_days_with_enough_types_stand_by_themselves():
    """The second day answers the other way round; an unknown type is told by its own day."""
    strata = made_types()
    days = [replace(one, timepoint="day10") for one in strata] + [
        replace(one, timepoint="day19", treated=np.maximum(2 * one.control - one.treated, 0.0))
        for one in strata
    ]
    kept = [one for one in days if one.cell_type != "End"]
    genes = taught(kept)
    first, second = (one for one in days if one.cell_type == "End")
    for own, other in ((first, second), (second, first)):
        assert np.corrcoef(genes.delta(own), own.mean_delta)[0, 1] > 0.4
        assert np.corrcoef(genes.delta(own), other.mean_delta)[0, 1] < 0.0


def test_fluctuation_is_the_covariance_with_the_direction():
    strata = made_types(n_cells=30)
    stratum, of = strata[0], learnt(strata[1:])
    shifts = of.examples.deltas
    direction = of.components.axes.T @ (of.components.axes @ shifts.mean(axis=0))
    direction /= np.linalg.norm(direction)
    together = np.cov(stratum.control.T, bias=True)
    np.testing.assert_allclose(fluctuation(of, shifts, stratum), together @ direction, atol=1e-5)


def test_types_that_do_not_answer_at_all_are_no_trouble():
    strata = [replace(one, treated=one.control.copy()) for one in made_types()]
    unknown = strata.pop()
    np.testing.assert_array_equal(taught(strata).delta(unknown), 0.0)


def test_its_weight_is_what_it_is_worth_on_types_left_out():
    """Nearly all where it finds the rule; none where shifts are the same in all types but noise."""
    assert weighed(made_types()).weight > 0.7
    rng = np.random.default_rng(5)
    shift = rng.normal(0.0, 1.0, N_GENES)
    alike = []
    for name in TYPES:
        mean = 5.0 + rng.random(N_GENES)
        control, treated = (
            of + 0.3 * rng.normal(size=(60, N_GENES)) for of in (mean, mean + shift)
        )
        alike.append(Stratum(name, None, control, treated, "Burn"))
    assert weighed(alike).weight < 0.5


def test_too_few_types_have_no_weight():
    assert weighed(made_types()[: MIN_TYPES - 1]).weight == 0.0


@pytest.mark.usefixtures("small_forests")
def test_the_weight_is_measured_on_treated_cells_of_other_types_alone():
    strata = made_types()
    changed = replace(strata[-1], treated=strata[-1].treated + 5.0)
    assert weighed(strata[:-1]).weight == weighed(strata[:-1]).weight
    assert weighed([*strata[:-1], changed]).weight != weighed(strata).weight


@pytest.mark.usefixtures("small_forests")
def test_of_many_perturbations_a_sample_says_what_the_weight_is(monkeypatch):
    """Their number sets what it costs; one of too few types is never all that is looked at."""
    strata = made_types()[:4]
    many = [
        replace(one, perturbation=f"P{place}", treated=one.treated + 0.2 * place)
        for place in range(3)
        for one in strata
    ]
    many += [replace(strata[0], perturbation=f"Rare{place}") for place in range(30)]
    grown = []
    trees_of = AcrossGenes._trees_of

    def counted(self, perturbation):
        grown.append(perturbation)
        return trees_of(self, perturbation)

    monkeypatch.setattr(AcrossGenes, "_trees_of", counted)
    assert 0.0 < weighed(many).weight <= 1.0
    assert sorted(grown) == sorted(["P0", "P1", "P2"] * 4)
    grown.clear()
    monkeypatch.setattr("wound_jax.prediction.calibration.across_genes._MAX_FORESTS", 8)
    assert 0.0 < weighed(many).weight <= 1.0
    assert len(grown) == 8
    assert len(set(grown)) == 2
