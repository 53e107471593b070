"""The bootstrap against the metrics, and against cells that are written out again and again."""

from dataclasses import replace

import numpy as np
import pytest
from uncertainty_cells import context_of, guesses, replicates, slow_figures, stratum

from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.evaluation.metrics import Comparison, RealStratum, score_all
from wound_jax.evaluation.uncertainty import BOOTSTRAPPED, bootstrap
from wound_jax.evaluation.uncertainty.drawn_metrics import sampled_cells
from wound_jax.evaluation.uncertainty.resampling import plan_resampling, replicate_profiles

pytestmark = pytest.mark.blas

DRAWS = 40


@pytest.fixture(scope="module")
def paired() -> list[Stratum]:
    """Donors with both arms; d4 has no T cells, and B cells of d3 are few."""
    return [
        stratum(
            "T", replicates(("d1", 30), ("d2", 14), ("d3", 9)), replicates(("d1", 8), ("d2", 31))
        ),
        stratum(
            "B",
            replicates(("d1", 12), ("d2", 20), ("d3", 2), ("d4", 15)),
            replicates(("d1", 25), ("d2", 9), ("d3", 3), ("d4", 11)),
        ),
    ]


@pytest.fixture(scope="module")
def nested() -> list[Stratum]:
    """Mice of their own in each arm and on each day."""
    days = {
        "d10": ({"s1": 20, "s2": 11}, {"b1": 15, "b2": 24, "b3": 8}),
        "d14": ({"s3": 25, "s4": 9}, {"b4": 18, "b5": 14}),
    }
    return [
        stratum(cell_type, replicates(*sham.items()), replicates(*burn.items()), timepoint=day)
        for day, (sham, burn) in days.items()
        for cell_type in ("Fib", "Mac")
    ]


@pytest.mark.parametrize("design", ["paired", "nested"])
@pytest.mark.parametrize("max_cells", [1024, 25])
def test_the_draws_are_the_figures_of_repeated_cells(design, max_cells, request):
    strata = request.getfixturevalue(design)
    context, predictions = context_of(strata, max_cells), guesses(strata)
    found = bootstrap(strata, predictions, context, draws=DRAWS, seed=5)
    plan = plan_resampling(strata, DRAWS, seed=5)
    names = list(replicate_profiles(strata))
    chosen = [sampled_cells(s, context) for s in strata]
    # The weight of a replicate drawn once; figures do not depend on it.
    once = np.where(plan.weights > 0, plan.weights, np.inf)[1:].min(axis=0)
    lost = 0
    for draw in range(DRAWS):
        weights = plan.weights[draw + 1]
        copies = {name: round(weights[i] / once[i]) for i, name in enumerate(names)}
        for row, (method, cells) in enumerate(predictions.items()):
            rows = [
                slow_figures(s, p, context, copies, c)
                for s, p, c in zip(strata, cells, chosen, strict=True)
            ]
            lost += np.isnan(rows).any()
            expected = np.nanmean(rows, axis=0)
            assert found.values[row, :3, draw] == pytest.approx(expected[:3], rel=1e-9, abs=1e-12)
            # Distances are float32, and E^2 is a difference of them.
            assert found.values[row, 3, draw] == pytest.approx(expected[3], rel=1e-4), method
    assert design == "nested" or lost, "a draw without d1 and d2 has no treated T cell"


@pytest.mark.parametrize("design", ["paired", "nested"])
def test_without_a_draw_the_figures_are_those_of_the_metrics(design, request):
    strata = request.getfixturevalue(design)
    context, predictions = context_of(strata, max_cells=30), guesses(strata)
    found = bootstrap(strata, predictions, context, draws=2, seed=0)
    for method, cells in predictions.items():
        scores = score_all(strata, cells, context)
        for metric in BOOTSTRAPPED:
            expected = np.mean([one[metric] for one in scores])
            rel = 1e-5 if metric == "e_distance_ratio" else 1e-10
            assert found.figure(method, metric) == pytest.approx(expected, rel=rel, abs=1e-12)


def test_the_identity_is_exactly_no_better_than_itself(nested):
    found = bootstrap(nested, guesses(nested), context_of(nested), draws=DRAWS, seed=0)
    place = found.methods.index("identity")
    assert (found.values[place, :2] == 0).all()
    assert (found.values[place, 3] == 1).all()


def test_without_an_effect_there_is_nothing_to_correlate_with(paired):
    one = paired[1]
    still = replace(one, treated=one.control, treated_replicates=one.control_replicates)
    predictions = {"model": [still.control + 1], "identity": [still.control]}
    found = bootstrap([still], predictions, context_of(paired), draws=DRAWS, seed=0)
    assert np.isnan(found.values[:, [0, 1, 3]]).all()
    assert found.values[0, 2] == pytest.approx(1)
    assert np.isnan(found.interval("model", "pearson_delta")).all()
    assert list(found.summary()["differences"]) == ["mse"]


def test_methods_strata_and_draws_do_not_disturb_each_other(nested):
    """Same draws whoever is scored, in whatever order: this is what makes differences paired."""
    context, predictions = context_of(nested), guesses(nested)
    found = bootstrap(nested, predictions, context, draws=DRAWS, seed=0)
    alone = bootstrap(nested, {"model": predictions["model"]}, context, draws=DRAWS, seed=0)
    assert (alone.values[0] == found.values[0]).all()
    assert alone.fingerprint == found.fingerprint
    turned = bootstrap(
        nested[::-1], {"model": predictions["model"][::-1]}, context, draws=DRAWS, seed=0
    )
    assert turned.values[0] == pytest.approx(found.values[0], rel=1e-12)
    other = bootstrap(nested, {"model": predictions["model"]}, context, draws=DRAWS, seed=1)
    assert other.fingerprint != found.fingerprint
    assert not np.allclose(other.values[0], found.values[0])


def test_predictions_may_be_made_on_demand(nested):
    asked: list[int] = []

    class Lazy(list):
        def __getitem__(self, place):
            asked.append(place)
            return super().__getitem__(place)

    model = Lazy(guesses(nested)["model"])
    bootstrap(nested, {"model": model}, context_of(nested), draws=2, seed=0)
    assert asked == [0, 1, 2, 3]


def test_the_interval_of_a_mean_difference_is_as_wide_as_the_replicates_differ():
    """Many cells, donors that differ: mean squared errors vary with donors, not with cells."""
    names = [f"d{i}" for i in range(10)]
    labels = replicates(*((name, 60) for name in names))
    strata = [stratum(cell_type, labels, labels) for cell_type in ("A", "B", "C")]
    found = bootstrap(strata, guesses(strata), context_of(strata), draws=400, seed=0)
    jackknife = []
    for name in names:
        kept = np.array(labels) != name
        less = [
            replace(
                s,
                control=s.control[kept],
                treated=s.treated[kept],
                control_replicates=np.array(labels)[kept],
                treated_replicates=np.array(labels)[kept],
            )
            for s in strata
        ]
        jackknife.append(np.mean([np.square(s.mean_delta).mean() for s in less]))
    expected = np.sqrt(9 / 10 * np.square(np.array(jackknife) - np.mean(jackknife)).sum())
    spread = found.values[found.methods.index("identity"), 2].std()
    assert spread == pytest.approx(expected, rel=0.15)


def test_the_sample_is_that_of_the_metrics(nested):
    context = context_of(nested, max_cells=20)
    for one in nested:
        control, treated = sampled_cells(one, context)
        samples = Comparison(RealStratum(one, context), one.control).samples
        assert len(control) == len(treated) == 20
        assert (one.control[control] == samples[0]).all()
        assert (one.treated[treated] == samples[1]).all()


def test_errors_name_the_fault(nested):
    context, predictions = context_of(nested), guesses(nested)
    with pytest.raises(UserError, match="no stratum"):
        bootstrap([], {}, context, seed=0)
    with pytest.raises(UserError, match="3 predictions of model for 4 strata"):
        bootstrap(nested, {"model": predictions["model"][1:]}, context, seed=0)
    short = [cells[1:] for cells in predictions["model"]]
    with pytest.raises(UserError, match="one row for each control cell"):
        bootstrap(nested, {"model": short}, context, draws=2, seed=0)
