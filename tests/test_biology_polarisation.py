"""Scores against scanpy's own, intervals against closed forms, and who is accepted."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import stats
from test_biology_wound import (
    cases,
    collapsed,
    genes,
    human,
    identity,
    reversed_,
    strata,
    truth,
)

from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.evaluation.biology import polarisation
from wound_jax.evaluation.biology.differential import (
    ReplicateChanges,
    cell_interval,
    replicate_changes,
    replicate_intervals,
)
from wound_jax.evaluation.biology.gene_sets import POLARISATION, find_genes
from wound_jax.evaluation.biology.polarisation import fit_gene_score

pytestmark = pytest.mark.quick

WRONG = {"identity": identity, "collapsed": collapsed, "reversed": reversed_}


def macrophage_score(seed: int = 5):
    cells = np.concatenate([c.stratum.control for c in cases() if c.stratum.cell_type == "Mac"])
    listed = find_genes(POLARISATION["pro_inflammatory"].genes, genes())
    return list(listed), cells, fit_gene_score(list(listed.values()), cells, seed)


def scanpy_score(
    cells: np.ndarray, listed: list[str], names: list[str] | None = None, **options
) -> np.ndarray:
    """Scores of `scanpy.tl.score_genes`."""
    var = pd.DataFrame(index=pd.Index(names or genes()))
    adata = ad.AnnData(cells.astype(np.float64), var=var)
    sc.tl.score_genes(adata, listed, ctrl_as_ref=True, **options)
    return adata.obs["score"].to_numpy()


def test_scores_of_the_reference_cells_are_scanpys():
    listed, cells, score = macrophage_score()
    np.testing.assert_allclose(score(cells), scanpy_score(cells, listed, random_state=5), atol=1e-6)


@pytest.mark.parametrize("seed", [0, 5])
def test_a_seed_draws_the_control_genes_that_scanpy_draws(seed):
    """Bins larger than the draw, and many genes that tie at zero."""
    rng = np.random.default_rng(0)
    cells = rng.poisson(rng.gamma(0.3, 1.0, 2500), size=(60, 2500)).astype(np.float32)
    assert (cells.sum(axis=0) == 0).sum() > 100
    names = [f"g{i}" for i in range(2500)]
    place = list(range(0, 2500, 250))
    score = fit_gene_score(place, cells, seed)
    theirs = scanpy_score(cells, [names[i] for i in place], names, random_state=seed)
    np.testing.assert_allclose(score(cells), theirs, atol=1e-9)
    assert len(score.controls) <= 50 * len(place)


def test_scores_of_other_cells_are_scanpys_on_the_same_control_genes():
    """One bin that holds the list and the control genes alone leaves scanpy no choice."""
    listed, _, score = macrophage_score()
    treated = cases()[-1].stratum.treated
    pool = [*listed, *(genes()[place] for place in score.controls)]
    theirs = scanpy_score(treated, listed, gene_pool=pool, ctrl_size=10_000, n_bins=1.5)
    np.testing.assert_allclose(score(treated), theirs, atol=1e-6)


def test_a_shift_of_all_genes_is_no_score():
    _, cells, score = macrophage_score()
    assert not set(score.genes) & set(score.controls)
    np.testing.assert_allclose(score(cells + 3), score(cells), atol=1e-5)


def test_intervals_pool_the_spread_of_the_days():
    days = [{"a": 1.0, "b": 1.4, "c": 0.9}, {"d": -0.2, "e": 0.1}]
    found = replicate_intervals(
        [ReplicateChanges(day, frozenset("xy")) for day in days], 0.05, "replicates"
    )
    assert found is not None
    spread = np.sqrt((0.14 + 0.045) / 3)
    for interval, mean, n, sign in zip(found, (1.1, -0.05), (3, 2), (1, 0), strict=True):
        reach = stats.t.ppf(0.975, 3) * spread * np.sqrt(1 + 1 / n)
        assert (interval.low, interval.high) == pytest.approx((mean - reach, mean + reach))
        assert (interval.sign, interval.n_replicates) == (sign, n)


def test_a_further_replicate_falls_outside_as_often_as_stated():
    rng = np.random.default_rng(0)
    outside = []
    for _ in range(2000):
        days = [rng.normal(day, 0.3, 4) for day in range(3)]
        seen = [
            ReplicateChanges(dict(zip("abc", day[:3], strict=True)), frozenset("x")) for day in days
        ]
        found = replicate_intervals(seen, 0.1, "replicates")
        assert found is not None
        outside += [not i.low <= day[3] <= i.high for i, day in zip(found, days, strict=True)]
    assert np.mean(outside) == pytest.approx(0.1, abs=0.015)


def test_too_few_replicates_have_no_interval():
    lonely = [ReplicateChanges({"a": 1.0}, frozenset("x"))] * 3
    assert replicate_intervals(lonely, 0.05, "replicates") is None
    absent = [ReplicateChanges({"a": 1.0, "b": 2.0, "c": 3.0, "d": 3.5}, frozenset("x"))]
    assert replicate_intervals(absent, 0.05, "replicates") is not None
    assert (
        replicate_intervals([*absent, ReplicateChanges({}, frozenset())], 0.05, "replicates")
        is None
    )


def test_replicates_with_both_arms_are_their_own_controls():
    replicates = np.repeat(["m1", "m2", "m3"], [20, 20, 4])
    zeros = np.zeros((44, 1))
    stratum = Stratum("Mac", None, zeros, zeros, "Burn", replicates, replicates)
    control = np.repeat([1.0, 5.0, 9.0], [20, 20, 4])
    changes = replicate_changes(stratum, control, control + 2)
    assert changes.by_replicate == {"m1": 2.0, "m2": 2.0}
    assert not changes.controls


def test_cell_interval_covers_the_change_of_another_sample():
    rng = np.random.default_rng(1)
    outside = 0
    for _ in range(1000):
        control, treated = rng.normal(0, 1, 40), rng.normal(0.5, 2, 60)
        interval = cell_interval(control, treated, 0.05)
        outside += not interval.low <= 0.5 <= interval.high
    assert outside / 1000 == pytest.approx(0.05, abs=0.025)


@pytest.mark.parametrize(
    ("mice", "training", "source"),
    [
        ("all", False, "held-out replicates"),
        ("test", True, "held-out and training replicates"),
        ("test", False, "cells"),
    ],
)
def test_burnt_cells_are_accepted_and_wrong_ones_are_not(mice, training, source):
    found = cases(mice)
    trained = strata(cases("training")) if training else ()
    answers = {
        name: polarisation(strata(found), predict(found), genes(), training=trained)
        for name, predict in {"truth": truth, **WRONG}.items()
    }
    assert {name for name, answer in answers.items() if answer["accepted"]} == {"truth"}
    assert {row["interval_from"] for row in answers["truth"]["values"]} == {source}
    assert answers["truth"]["signs_judged"] >= 3
    assert answers["identity"]["signs_right"] == answers["reversed"]["signs_right"] == 0
    assert json.loads(json.dumps(answers["truth"])) == answers["truth"]
    said = " ".join(answers["truth"]["notes"])
    assert ("training replicates were added" in said) == (
        source == "held-out and training replicates"
    )
    assert ("made of cells" in said) == (source == "cells")


def test_intervals_hold_jointly():
    """Six changes, so that each leaves out a sixth of 5 %, half of it on either side."""
    found = cases()
    values = polarisation(strata(found), truth(found), genes())["values"]
    own = [c.stratum for c in found if c.stratum.cell_type == "Mac"]
    _, _, score = macrophage_score(seed=0)
    squares, means = 0.0, []
    for stratum in own:
        replicates = stratum.treated_replicates
        assert replicates is not None
        cells = score(stratum.treated)
        each = np.array([cells[replicates == name].mean() for name in np.unique(replicates)])
        squares += np.square(each - each.mean()).sum()
        means.append((each.mean() - score(stratum.control).mean(), len(each)))
    spread = np.sqrt(squares / 5)
    for row, (mean, n) in zip(values[:3], means, strict=True):
        reach = stats.t.ppf(1 - 0.05 / 12, 5) * spread * np.sqrt(1 + 1 / n)
        assert (row["low"], row["high"]) == pytest.approx((mean - reach, mean + reach))


def test_a_small_change_the_wrong_way_is_not_accepted_though_it_is_inside():
    found = cases()
    place = list(find_genes(POLARISATION["repair"].genes, genes()).values())
    cells = truth(found)
    for case, own in zip(found, cells, strict=True):
        if (case.stratum.cell_type, case.stratum.timepoint) == ("Mac", "day14"):
            own[:, place] = case.stratum.control[:, place] - 0.05
    answer = polarisation(strata(found), cells, genes())
    assert answer["inside"] == answer["n_values"]
    assert answer["signs_right"] == answer["signs_judged"] - 1
    assert not answer["accepted"]


def test_half_the_change_on_the_first_day_is_too_little():
    found = cases()
    half = [0.5 * (c.stratum.control + c.truth) for c in found]
    answer = polarisation(strata(found), half, genes())
    assert answer["signs_right"] == answer["signs_judged"] == 4
    assert not answer["accepted"]


def test_macrophages_go_from_inflammation_to_repair():
    found = cases()
    values = polarisation(strata(found), truth(found), genes())["values"]
    assert [row["timepoint"] for row in values] == ["day10", "day14", "day19"] * 2
    change = np.array([row["true_change"] for row in values]).reshape(2, 3)
    assert (np.diff(change[0]) < -0.2).all()
    assert (np.diff(change[1]) > 0.2).all()


def test_labels_by_hand_and_human_symbols_give_the_same():
    found = cases()
    plain = polarisation(strata(found), truth(found), genes())
    renamed = [
        Stratum(
            "c7" if s.cell_type == "Mac" else s.cell_type,
            s.timepoint,
            s.control,
            s.treated,
            s.perturbation,
            s.control_replicates,
            s.treated_replicates,
        )
        for s in strata(found)
    ]
    missing = polarisation(renamed, truth(found), genes())
    assert not missing["applicable"]
    assert "c7" in missing["reason"]
    by_hand = polarisation(renamed, truth(found), human(genes()), cell_types=["c7"])
    assert by_hand["scores"] == plain["scores"]
    assert [row["high"] for row in by_hand["values"]] == [row["high"] for row in plain["values"]]


def test_too_few_genes_say_so():
    found = cases()
    repair = set(POLARISATION["repair"].genes) - {"Arg1", "Mrc1"}
    short = [gene if gene not in repair else f"x{gene}" for gene in genes()]
    answer = polarisation(strata(found), truth(found), short)
    assert answer["applicable"]
    assert {row["score"] for row in answer["values"]} == {"pro_inflammatory"}
    assert any(note.startswith("repair: 2 of 16 genes") for note in answer["notes"])
    none = polarisation(strata(found), truth(found), [f"x{gene}" for gene in genes()])
    assert not none["applicable"]
    assert "pro_inflammatory 0, repair 0" in none["reason"]


def test_without_an_effect_no_sign_is_decided():
    cells = cases()[-1].stratum.control
    even, odd = cells[::2], cells[1::2]
    answer = polarisation([Stratum("Mac", None, even, odd, "Burn")], [even], genes())
    assert not answer["applicable"]
    assert "no sign is decided" in answer["reason"]


def test_a_prediction_of_the_wrong_shape_is_refused():
    found = cases()
    with pytest.raises(UserError, match="one row for each control cell"):
        polarisation(strata(found), [cells[1:] for cells in truth(found)], genes())
    with pytest.raises(UserError, match="expected one name for each column"):
        polarisation(strata(found), truth(found), genes()[1:])
    with pytest.raises(UserError, match="11 predictions for 12 strata"):
        polarisation(strata(found), truth(found)[1:], genes())
