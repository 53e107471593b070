"""Mixing against sets that are alike, apart, collapsed or spread, and on the simulated wound."""

import json

import numpy as np
import pytest
from sklearn.metrics import silhouette_score
from test_biology_wound import cases, collapsed, identity, reversed_, strata, truth

from wound_jax.errors import UserError
from wound_jax.evaluation.context import ScoreContext, fit_context
from wound_jax.evaluation.mixing import NEIGHBOURS, CellSets, in_training_space, mixing, on_map

N, DIMS = 120, 20
FIGURES = ("knn_mixing", "classifier_auc", "silhouette")


def normal(rng: np.random.Generator, n: int = N, *, mean: float = 0.0, sd: float = 1.0):
    return mean + sd * rng.normal(size=(n, DIMS))


def sets(n: int = 8, *, mean: float = 0.0, sd: float = 1.0, control: float = 1.0) -> list[CellSets]:
    """Treated cells are standard normal; controls lie at `control`, predictions as given."""
    rng = np.random.default_rng(0)
    return [
        CellSets(
            f"s{i}",
            normal(rng, mean=control),
            normal(rng, 2 * N),
            normal(rng, mean=mean, sd=sd),
        )
        for i in range(n)
    ]


def test_sets_that_are_alike_have_the_ideal_figures():
    answer = mixing(sets(16))
    assert json.loads(json.dumps(answer)) == answer
    assert answer["knn_mixing_ideal"] == N / (2 * N - 1)
    for ending in ("", "_real"):
        assert answer[f"knn_of_predicted{ending}"] == pytest.approx(0.502, abs=0.03)
        assert answer[f"knn_of_treated{ending}"] == pytest.approx(0.502, abs=0.03)
        assert answer[f"knn_mixing{ending}"] == pytest.approx(0.47, abs=0.05)
        assert answer[f"classifier_auc{ending}"] == pytest.approx(0.5, abs=0.04)
        assert answer[f"silhouette{ending}"] == pytest.approx(0.0, abs=0.01)


def test_sets_that_are_apart_have_the_worst():
    answer = mixing(sets(2, mean=10.0))
    assert answer["knn_mixing"] == 0.0
    assert answer["classifier_auc"] == 1.0
    assert answer["silhouette"] > 0.7


@pytest.mark.parametrize("sd", [0.0, 0.3, 3.0])
def test_the_right_mean_with_the_wrong_spread_does_not_mix(sd):
    """A plane tells neither from treated cells, and one of the two shares is high."""
    answer = mixing(sets(4, sd=sd))
    assert answer["knn_mixing"] < 0.05
    assert answer["classifier_auc"] > 0.95
    shares = (answer["knn_of_predicted"], answer["knn_of_treated"])
    assert max(shares) > 0.5
    assert answer["knn_mixing"] == pytest.approx(min(shares))


def test_the_identity_scores_as_the_identity():
    found = [CellSets(one.label, one.control, one.treated, one.control.copy()) for one in sets(3)]
    answer = mixing(found)
    for name in FIGURES:
        assert answer[name] == answer[f"{name}_identity"]
    assert answer["classifier_auc"] > 0.9


def test_figures_are_their_definitions():
    """With exactly enough cells nothing is drawn but the half of the treated cells."""
    rng = np.random.default_rng(1)
    half = normal(rng, 40)
    one = CellSets("s", normal(rng, 40, mean=0.5), np.concatenate([half, half]), normal(rng, 40))
    # Both halves hold the same points, but not the same half: the target is found again below.
    answer = mixing([one], seed=3)
    order = np.random.default_rng([3, 0]).permutation(80)
    target = one.treated[np.sort(order[:40])]
    cells = np.concatenate([one.predicted, target])
    label = np.repeat([0, 1], 40)
    share: list[list[float]] = [[], []]
    for i, cell in enumerate(cells):
        distance = np.sqrt(((cells - cell) ** 2).sum(axis=1))
        distance[i] = np.inf
        nearest = np.argsort(distance, kind="stable")[:NEIGHBOURS]
        share[label[i]].append(float(np.mean(label[nearest] != label[i])))
    assert answer["knn_mixing"] == pytest.approx(min(map(np.mean, share)))
    assert answer["silhouette"] == pytest.approx(silhouette_score(cells, label))


def test_replicates_are_not_taken_for_the_set():
    """Replicates differ and sets do not: folds of cells would learn the replicates.

    The area of one stratum has a standard deviation of .2, that of the mean over 24 of .04.
    """
    rng = np.random.default_rng(0)

    def arm(name: str, n_replicates: int) -> tuple[np.ndarray, np.ndarray]:
        own = 3.0 * rng.normal(size=(n_replicates, DIMS))
        cells = np.repeat(own, 30, axis=0) + rng.normal(size=(30 * n_replicates, DIMS))
        return cells, np.repeat([f"{name}{i}" for i in range(n_replicates)], 30)

    with_replicates, without = [], []
    for i in range(24):
        (control, c), (treated, t) = arm("c", 4), arm("t", 8)
        with_replicates.append(CellSets(f"s{i}", control, treated, control, c, t))
        without.append(CellSets(f"s{i}", control, treated, control))
    by_replicate, by_cell = mixing(with_replicates), mixing(without)
    assert by_replicate["auc_by"] == {"replicates": 24, "cells": 0}
    assert by_cell["auc_by"] == {"replicates": 0, "cells": 24}
    assert by_cell["classifier_auc"] > 0.99
    assert by_replicate["classifier_auc"] == pytest.approx(0.5, abs=0.12)


def test_one_replicate_an_arm_is_cut_by_cells():
    one = sets(1)[0]
    lonely = CellSets(
        "s", one.control, one.treated, one.predicted, np.full(N, "a"), np.full(2 * N, "b")
    )
    assert mixing([lonely])["auc_by"] == {"replicates": 0, "cells": 1}


def test_small_strata_are_listed():
    rng = np.random.default_rng(0)
    small = CellSets("few", normal(rng, 40), normal(rng, 20), normal(rng, 40))
    answer = mixing([*sets(1), small])
    assert answer["skipped"] == ["few"]
    assert answer["n_strata"] == 1
    alone = mixing([small])
    assert not alone["applicable"]
    assert "15 predicted and 30 treated cells" in alone["reason"]


def test_a_map_is_compared_type_by_type():
    """Types lie apart on a map; predictions mix inside theirs."""
    rng = np.random.default_rng(0)
    types = np.repeat(["A", "B"], 200)
    place = np.where(types == "A", 0.0, 50.0)[:, None]

    def arm(shift: float) -> np.ndarray:
        return place + shift + rng.normal(size=(400, 2))

    names = {f"{name}_type": types for name in ("control", "treated", "predicted")}
    cells = {"control": arm(6.0), "treated": arm(0.0), "predicted": arm(0.0)}
    answer = mixing(on_map({**cells, **names}))
    assert answer["n_strata"] == 2
    assert answer["knn_mixing"] > 0.45
    assert answer["knn_mixing_identity"] < 0.02
    assert answer["classifier_auc_identity"] > 0.99


def test_rows_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match="one prediction for each control cell"):
        CellSets("s", normal(rng, 40), normal(rng, 40), normal(rng, 39))
    with pytest.raises(UserError, match="the same coordinates"):
        CellSets("s", normal(rng, 40), normal(rng, 40)[:, 1:], normal(rng, 40))


@pytest.fixture(scope="module")
def training() -> ScoreContext:
    """Components of other replicates than those that are compared, as in a run."""
    found = strata(cases("training"))
    cells = np.concatenate([arm for s in found for arm in (s.control, s.treated)])
    return fit_context(found, cells, n_pcs=50, n_top_genes=50, seed=0)


def test_burnt_cells_mix_and_wrong_ones_do_not(training):
    found = cases("test")
    truly, same, one_cell, wrong = (
        mixing(in_training_space(strata(found), predict(found), training))
        for predict in (truth, identity, collapsed, reversed_)
    )
    assert truly["knn_mixing"] > 0.4
    assert truly["classifier_auc"] < 0.65
    assert abs(truly["silhouette"]) < 0.03
    for answer in (same, one_cell, wrong):
        assert answer["knn_mixing"] < 0.35
        assert answer["classifier_auc"] > 0.8
        assert answer["silhouette"] > 2 * truly["silhouette"]
        # What they are compared with does not depend on the prediction.
        for name in FIGURES:
            assert answer[f"{name}_real"] == truly[f"{name}_real"]
            assert answer[f"{name}_identity"] == truly[f"{name}_identity"]
    assert same["knn_mixing"] == same["knn_mixing_identity"]
    assert one_cell["knn_mixing"] == 0.0
