"""A network's mean, drawn back to its response to training controls: formula, slopes, novelty."""

from dataclasses import replace

import numpy as np
import pytest

from wound_jax.baselines.profiles import Novelty
from wound_jax.baselines.stacked_linear import StackedLinear
from wound_jax.data.strata import Stratum
from wound_jax.prediction.calibration.shrink_controls import ShrunkControls

pytestmark = [pytest.mark.blas, pytest.mark.quick]

N_GENES = 12
TYPES, DAYS = ("Fib", "Ker", "Mac"), ("day10", "day14", "day19")
# How far noise in the controls of a stratum reaches its treated cells.
SHARED, CONTROL_ONLY = 1.0, 0.0


def made_strata(reach: float, *, perturbation: str = "Burn") -> list[Stratum]:
    """Every type on every day; the treated mean is the type's, whatever the controls' noise."""
    rng = np.random.default_rng(5)
    strata = []
    for cell_type in TYPES:
        profile, shift = rng.normal(5.0, 1.0, N_GENES), rng.normal(0.0, 1.0, N_GENES)
        for day in DAYS:
            noise = rng.normal(0.0, 0.5, N_GENES)
            cells = rng.normal(0.0, 0.1, (20, N_GENES))
            about = cells - cells.mean(axis=0)
            control = profile + noise + about
            treated = profile + shift + reach * noise + about
            strata.append(Stratum(cell_type, day, control, treated, perturbation))
    return strata


def responses(n: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(4.0, 1.0, (n, N_GENES))


@pytest.fixture(scope="module")
def training():
    """All strata but those of Mac on day 14 and of day 19."""
    return [
        stratum
        for stratum in made_strata(CONTROL_ONLY)
        if stratum.timepoint != "day19"
        and (stratum.cell_type, stratum.timepoint) != ("Mac", "day14")
    ]


@pytest.fixture(scope="module")
def rule(training):
    return StackedLinear.fit(training, False)


def wanted(cell_type: str, day: str) -> Stratum:
    control = np.random.default_rng(9).normal(5.0, 1.0, (20, N_GENES))
    return Stratum(cell_type, day, control, control[:0], "Burn")


@pytest.mark.parametrize(
    ("labels", "novelty", "alike"),
    [
        (("Fib", "day10"), Novelty.NONE, [("Fib", "day10")]),
        (("Mac", "day14"), Novelty.PAIR, [("Mac", "day10")]),
        (("Fib", "day19"), Novelty.TIMEPOINT, [("Fib", "day10"), ("Fib", "day14")]),
    ],
)
def test_a_difference_is_kept_in_part(rule, training, labels, novelty, alike):
    made, predicted = responses(len(training)), responses(1, seed=4)[0]
    slopes = dict.fromkeys(Novelty, 1.0) | {novelty: 0.3}
    regression = ShrunkControls(rule.training, made, slopes)
    rows = [row for row, s in enumerate(training) if (s.cell_type, s.timepoint) in alike]
    of_training = made[rows].mean(axis=0)
    np.testing.assert_allclose(
        regression.mean(predicted, wanted(*labels)),
        0.7 * of_training + 0.3 * predicted,
        rtol=1e-12,
    )


def test_an_unknown_type_is_left_as_it_is(rule, training):
    """Also where held-out training types have chosen a slope below 1."""
    half = dict.fromkeys(Novelty, 0.5)
    chosen = replace(rule, members=[replace(member, settings=half) for member in rule.members])
    regression = ShrunkControls.of(chosen, responses(len(training)))
    predicted = responses(1, seed=4)[0]
    np.testing.assert_allclose(regression.mean(predicted, wanted("Neu", "day10")), predicted)
    assert not np.allclose(regression.mean(predicted, wanted("Fib", "day10")), predicted)


@pytest.mark.parametrize(("reach", "slope"), [(CONTROL_ONLY, 0.0), (SHARED, 1.0)])
def test_training_strata_say_what_is_noise(reach, slope):
    strata = made_strata(reach)
    regression = ShrunkControls.of(StackedLinear.fit(strata, False), responses(len(strata)))
    assert regression.slopes[Novelty.TIMEPOINT] == pytest.approx(slope, abs=0.05)


def test_a_network_that_adds_the_mean_shift_becomes_the_regressed_mean_delta(rule, training):
    """The linear rule is the independent truth: its formula is that of this network."""
    (regressed,) = (m for m in rule.members if m.rule.name == "regressed_mean_delta")
    (mean_delta,) = (m for m in rule.members if m.rule.name == "type_timepoint_mean_delta")

    def network(stratum: Stratum) -> np.ndarray:
        return stratum.control_mean + mean_delta.delta(stratum)

    regression = ShrunkControls.of(rule, [network(stratum) for stratum in training])
    for stratum in (wanted("Fib", "day19"), wanted("Mac", "day14"), wanted("Ker", "day10")):
        np.testing.assert_allclose(
            regression.mean(network(stratum), stratum),
            stratum.control_mean + regressed.delta(stratum),
            atol=1e-12,
        )


def test_another_perturbation_does_not_count(training):
    """Its responses may be anything."""
    others = made_strata(SHARED, perturbation="Infection")
    rule = StackedLinear.fit([*training, *others], False)
    made = responses(len(training) + len(others))
    changed = made.copy()
    changed[len(training) :] += 100.0
    predicted, stratum = responses(1, seed=4)[0], wanted("Fib", "day19")
    slopes = dict.fromkeys(Novelty, 0.5)
    first, second = (ShrunkControls(rule.training, m, slopes) for m in (made, changed))
    np.testing.assert_array_equal(first.mean(predicted, stratum), second.mean(predicted, stratum))
