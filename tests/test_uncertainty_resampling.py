"""Who is drawn with whom, for every design that a split can leave."""

from dataclasses import replace

import numpy as np
import pytest
from uncertainty_cells import context_of, guesses, replicates, stratum

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.uncertainty import bootstrap
from wound_jax.evaluation.uncertainty.resampling import (
    Resampling,
    make_pools,
    plan_resampling,
    replicate_profiles,
)
from wound_jax.evaluation.uncertainty.weights import draw_weights

pytestmark = [pytest.mark.blas, pytest.mark.quick]

DAYS = ("d10", "d14", "d19")


def mice(arm: str, day: str, n: int) -> list[str]:
    return replicates(*((f"{arm}_{day}_{i}", 12) for i in range(n)))


def burn_mice(per_day: dict[str, int], shams: int = 2) -> list[Stratum]:
    return [
        stratum(cell_type, mice("sham", day, shams), mice("burn", day, n), timepoint=day)
        for day, n in per_day.items()
        for cell_type in ("Fib", "Mac")
    ]


def weight_of(plan: Resampling, strata: list[Stratum], replicate: str) -> np.ndarray:
    return plan.weights[:, list(replicate_profiles(strata)).index(replicate)]


def test_donors_are_drawn_for_both_arms_at_once():
    labels = replicates(("d1", 9), ("d2", 5), ("d3", 7))
    strata = [stratum(name, labels, labels[::-1]) for name in ("A", "B")]
    plan = plan_resampling(strata, 50, seed=0)
    assert (plan.units, plan.n_units, plan.degrees) == ("replicates", 3, 2)
    assert "both arms of a replicate at once" in plan.note
    control, treated = plan.arms(1)
    assert (control.weights == treated.weights).all()
    assert control.counts.tolist() == [9, 5, 7]
    assert (plan.weights[0] == 1).all()
    # Two of three are drawn, and weigh 3/2.
    assert set(plan.weights[1:].ravel()) == {0.0, 1.5, 3.0}
    assert plan.weights.sum(axis=1) == pytest.approx(3)


def test_mice_are_drawn_within_their_arm_and_day_and_no_day_is_lost():
    strata = burn_mice({"d10": 3, "d14": 3, "d19": 2})
    plan = plan_resampling(strata, 200, seed=0)
    assert (plan.units, plan.n_units, plan.degrees) == ("replicates", 8, 5)
    for place in range(len(strata)):
        for arm in plan.arms(place):
            assert arm.weights.mean(axis=1) == pytest.approx(1)
    assert plan.stratum_weights == pytest.approx(1)
    burn, sham = (weight_of(plan, strata, f"{arm}_d19_0") for arm in ("burn", "sham"))
    assert abs(np.corrcoef(burn[1:], sham[1:])[0, 1]) < 0.25


def test_days_with_one_burnt_mouse_are_drawn_along_with_it():
    strata = burn_mice(dict.fromkeys(DAYS, 1), shams=1)
    plan = plan_resampling(strata, 300, seed=0)
    assert (plan.units, plan.n_units, plan.degrees) == ("replicates", 3, 2)
    assert "over timepoints, which come and go with them" in plan.note
    for place, one in enumerate(strata):
        mouse = weight_of(plan, strata, f"burn_{one.timepoint}_0")
        assert (plan.stratum_weights[:, place] == mouse).all()
    # A lone sham mouse has nobody to stand in for it.
    assert (weight_of(plan, strata, "sham_d14_0") == 1).all()
    # The mean over strata is the mean over days, weighted as they were drawn.
    context, predictions = context_of(strata), guesses(strata)
    found = bootstrap(strata, predictions, context, draws=300, seed=0)
    single = [
        bootstrap([s], {"model": [p]}, context, draws=2, seed=0).figure("model", "mse")
        for s, p in zip(strata, predictions["model"], strict=True)
    ]
    expected = plan.stratum_weights[1:] @ np.array(single) / plan.stratum_weights[1:].sum(axis=1)
    assert found.values[0, 2] == pytest.approx(expected, rel=1e-9)


def test_a_mouse_alone_on_its_day_joins_the_day_with_the_fewest():
    pools = make_pools(replicate_profiles(burn_mice({"d10": 3, "d14": 2, "d19": 1})))
    treated = [sorted({name.split("_")[1] for name in pool}) for pool in pools.treated]
    assert treated == [["d10"], ["d14", "d19"]]
    assert pools.collapsed
    assert [len(pool) for pool in pools.control] == [2, 2, 2]


def test_perturbations_on_one_day_keep_their_own_mice():
    shams = mice("sham", "d1", 2)
    strata = [
        stratum("Fib", shams, mice(name, "d1", 2), timepoint="d1", perturbation=name)
        for name in ("burn", "cut")
    ]
    pools = make_pools(replicate_profiles(strata))
    assert pools.treated == [["burn_d1_0", "burn_d1_1"], ["cut_d1_0", "cut_d1_1"]]
    # Control mice that answer to both are one pool.
    assert pools.control == [["sham_d1_0", "sham_d1_1"]]


def test_with_one_treated_replicate_strata_are_drawn():
    strata = [stratum(name, replicates(("c1", 9), ("c2", 9)), ["t1"] * 12) for name in "ABCD"]
    plan = plan_resampling(strata, 500, seed=0)
    assert (plan.units, plan.n_units, plan.degrees) == ("strata", 4, 3)
    assert "single treated replicate" in plan.note
    found = bootstrap(strata, guesses(strata), context_of(strata), draws=500, seed=0)
    single = [
        bootstrap([s], {"identity": [s.control]}, context_of(strata), draws=2, seed=0).point[0, 2]
        for s in strata
    ]
    place = found.methods.index("identity")
    assert found.values[place, 2] == pytest.approx(plan.stratum_weights[1:] @ single / 4)
    assert found.values[place, 2].std() == pytest.approx(np.std(single, ddof=1) / 2, rel=0.1)


def test_replicates_that_are_not_known_are_one_replicate():
    strata = [
        replace(
            stratum(name, ["x"] * 9, ["x"] * 9), control_replicates=None, treated_replicates=None
        )
        for name in "AB"
    ]
    assert plan_resampling(strata, 5, seed=0).units == "strata"


def test_a_single_stratum_of_one_replicate_leaves_cells_to_draw():
    one = stratum("A", ["c"] * 400, ["t"] * 70)
    plan = plan_resampling([one], 800, seed=0)
    assert (plan.units, plan.n_units, plan.degrees) == ("cells", 70, 49)
    control, treated = plan.arms(0)
    assert (control.n, treated.n) == (50, 50)
    assert set(control.counts) == {8}
    assert set(treated.counts) == {1, 2}
    # A gene's mean over treated cells varies as that of so many independent cells.
    gene = one.treated[:, 5].astype(np.float64)
    means = treated.shares[1:] @ treated.holder_means(gene[:, None])[:, 0]
    assert means.std() == pytest.approx(gene.std(ddof=1) / np.sqrt(70), rel=0.15)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_spread_of_a_drawn_mean_is_its_standard_error(n):
    values = np.random.default_rng(n).normal(size=n)
    weights = draw_weights(n, 40_000, np.random.default_rng(0))
    assert (weights[0] == 1).all()
    drawn = weights[1:] @ values / n
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.02)
    assert drawn.std() == pytest.approx(values.std(ddof=1) / np.sqrt(n), rel=0.02)


def test_draws_depend_on_the_seed_and_the_names_alone():
    strata = burn_mice({"d10": 3, "d14": 2})
    plan, again, turned, other = (
        plan_resampling(s, 30, seed)
        for s, seed in ((strata, 4), (strata, 4), (strata[::-1], 4), (strata, 5))
    )
    assert (plan.weights == again.weights).all()
    assert (plan.weights == turned.weights).all()
    assert not (plan.weights == other.weights).all()
