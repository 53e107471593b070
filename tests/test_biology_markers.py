"""Wound markers: the test of genes against known distributions, and who is accepted."""

import json

import numpy as np
import pytest
from scipy import stats
from test_biology_wound import (
    cases,
    collapsed,
    dense,
    genes,
    human,
    identity,
    reversed_,
    strata,
    truth,
    wound,
)

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.biology import wound_markers
from wound_jax.evaluation.biology.differential import differential, fit_prior
from wound_jax.evaluation.biology.gene_sets import WOUND_MARKERS

pytestmark = pytest.mark.quick

N_GENES = 3000


def replicates_stratum(
    rng: np.random.Generator, n_replicates: int, *, paired: bool = False, shift: float = 0.0
) -> Stratum:
    """Ten cells a replicate; replicates differ by gene, by a spread that differs between genes."""
    spread = np.sqrt(0.04 * 6 / rng.chisquare(6, N_GENES))

    def arm(name: str, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = base + spread * rng.normal(size=(n_replicates, N_GENES))
        cells = np.repeat(mean, 10, axis=0) + 0.1 * rng.normal(size=(10 * n_replicates, N_GENES))
        return cells, np.repeat([f"{name}{i}" for i in range(n_replicates)], 10)

    own = 2 * rng.normal(size=(n_replicates, N_GENES)) if paired else np.zeros(N_GENES)
    control, c = arm("m" if paired else "c", own)
    treated, t = arm("m" if paired else "t", own + shift)
    return Stratum("Ker", None, control, treated, "Burn", c, t)


@pytest.mark.parametrize(("degrees", "prior_degrees"), [(2, 4.0), (4, 10.0)])
def test_the_prior_of_the_variances_is_recovered(degrees, prior_degrees):
    rng = np.random.default_rng(0)
    variance = 0.3 * stats.f(degrees, prior_degrees).rvs(60_000, random_state=rng)
    found, scale = fit_prior(variance, degrees)
    assert found == pytest.approx(prior_degrees, rel=0.1)
    assert scale == pytest.approx(0.3, rel=0.03)


def test_variances_that_differ_by_sampling_alone_are_taken_as_one():
    # The quantiles of chi-square, whose log varies a little less than that of a sample.
    variance = stats.chi2(4).ppf((np.arange(2000) + 0.5) / 2000) / 4
    found, scale = fit_prior(variance, 4)
    assert np.isinf(found)
    assert scale == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("n_replicates", [3, 5])
def test_p_values_are_uniform_without_an_effect(n_replicates, paired):
    found = differential(replicates_stratum(np.random.default_rng(1), n_replicates, paired=paired))
    assert found.unit == "replicates"
    assert stats.kstest(found.p_value, "uniform").pvalue > 0.01
    assert np.mean(found.p_value < 0.01) == pytest.approx(0.01, abs=0.005)


def test_moderation_finds_more_than_students_t_on_the_same_replicates():
    stratum = replicates_stratum(np.random.default_rng(2), 3, shift=0.6)
    found = differential(stratum).p_value < 0.001
    means = [arm.reshape(3, 10, -1).mean(axis=1) for arm in (stratum.treated, stratum.control)]
    students = np.asarray(stats.ttest_ind(*means)[1]) < 0.001
    assert found.mean() > 2 * students.mean()


def test_one_replicate_an_arm_is_tested_by_cells():
    rng = np.random.default_rng(3)
    control, treated = rng.normal(size=(30, 50)), rng.normal(0.5, 2.0, size=(20, 50))
    control[:, 0] = treated[:, 0] = 1.0
    stratum = Stratum("Ker", None, control, treated, "Burn", np.full(30, "a"), np.full(20, "b"))
    found = differential(stratum)
    assert found.unit == "cells"
    _, theirs = stats.ttest_ind(treated[:, 1:], control[:, 1:], equal_var=False)
    np.testing.assert_allclose(found.p_value[1:], np.asarray(theirs), rtol=1e-9)
    assert found.p_value[0] == 1.0


@pytest.mark.parametrize(("mice", "unit"), [("all", "replicates"), ("test", "cells")])
def test_burnt_cells_are_accepted_and_wrong_ones_are_not(mice, unit):
    found = cases(mice)
    predictions = {
        "truth": truth(found),
        "identity": identity(found),
        "collapsed": collapsed(found),
        "reversed": reversed_(found),
    }
    answers = {
        name: wound_markers(strata(found), cells, genes()) for name, cells in predictions.items()
    }
    assert {name for name, answer in answers.items() if answer["accepted"]} == {"truth"}
    assert answers["truth"]["accuracy"] > 0.97
    assert answers["truth"]["size_ratio"] == pytest.approx(1.0, abs=0.25)
    assert answers["truth"]["p_value"] == 1 / 1001
    assert answers["identity"]["accuracy"] == answers["reversed"]["accuracy"] == 0.0
    assert answers["truth"]["strata_by"][unit] == len(found)
    assert bool(answers["truth"]["notes"]) == (unit == "cells")
    assert json.loads(json.dumps(answers["truth"])) == answers["truth"]


def test_genes_that_qualify_move_the_registered_way_in_truth():
    """The noise-free effect on the control cells has the registered sign in what qualifies."""
    found = cases()
    told = wound().truth.adata
    effect = []
    for case in found:
        replicates = case.stratum.control_replicates
        assert replicates is not None
        rows = np.isin(told.obs["mouse_id"].astype(str), replicates)
        rows &= (told.obs["cell_types_simple_short"] == case.stratum.cell_type).to_numpy()
        layers = (dense(told.layers[name])[rows] for name in ("mean", "control_mean"))
        mean, control = (cells.mean(axis=0) for cells in layers)
        effect.append(case.stratum.control + (mean - control))
    answer = wound_markers(strata(found), effect, genes())
    assert answer["accuracy"] > 0.98
    assert answer["n_contradicting"] <= 0.05 * answer["n_qualifying"]


def test_lifting_every_gene_earns_nothing():
    found = cases()
    lifted = [case.stratum.control + 0.5 for case in found]
    answer = wound_markers(strata(found), lifted, genes())
    assert answer["accuracy"] > 0.9
    assert answer["null_mean"] == pytest.approx(answer["accuracy"])
    assert answer["p_value"] == 1.0
    assert not answer["accepted"]


def test_random_sets_are_of_like_expression():
    """A model that lifts what is little expressed is right as often on random genes."""
    found = cases()
    predictions = []
    for stratum in strata(found):
        low = stratum.control_mean < np.median(stratum.control_mean)
        predictions.append(stratum.control + np.where(low, 0.5, -0.5))
    answer = wound_markers(strata(found), predictions, genes())
    assert answer["null_mean"] == pytest.approx(answer["accuracy"], abs=0.1)
    assert not answer["accepted"]


def test_no_registered_gene_stands_for_another():
    """Where nothing but registered genes moves, random sets are never right."""
    found = cases()
    registered = np.isin(genes(), [marker.gene for marker in WOUND_MARKERS])
    predictions = [c.stratum.control + np.where(registered, c.stratum.mean_delta, 0) for c in found]
    answer = wound_markers(strata(found), predictions, genes())
    assert answer["accuracy"] == 1.0
    assert answer["null_mean"] == 0.0


def test_a_wound_the_other_way_round_contradicts():
    swapped = [
        Stratum(s.cell_type, s.timepoint, s.treated, s.control, "Burn", s.treated_replicates,
                s.control_replicates)
        for s in strata(cases())
    ]  # fmt: skip
    plain = wound_markers(strata(cases()), truth(cases()), genes())
    answer = wound_markers(swapped, [s.control for s in swapped], genes())
    assert answer["n_contradicting"] == plain["n_qualifying"]
    assert answer["n_qualifying"] == plain["n_contradicting"]


def test_human_symbols_give_the_same():
    found = cases()
    plain = wound_markers(strata(found), truth(found), genes())
    other = wound_markers(strata(found), truth(found), human(genes()))
    assert set(other.pop("markers")) == {gene.upper() for gene in plain.pop("markers")}
    assert other == plain


def test_few_markers_give_figures_and_no_verdict():
    found = cases()
    kept = {"Krt16", "Krt17", "Postn", "Acta2"}
    registered = {marker.gene for marker in WOUND_MARKERS} - kept
    few = [f"x{gene}" if gene in registered else gene for gene in genes()]
    answer = wound_markers(strata(found), truth(found), few)
    assert not answer["applicable"]
    assert "accepted" not in answer
    assert 0 < answer["n_genes"] <= 4
    assert f"{answer['n_genes']} markers qualify" in answer["reason"]
    assert answer["accuracy"] == 1.0
    none = wound_markers(strata(found), truth(found), [f"x{gene}" for gene in genes()])
    assert "0 registered wound markers" in none["reason"]


def test_without_an_effect_nothing_qualifies():
    halves = [
        Stratum(s.cell_type, s.timepoint, s.control[::2], s.control[1::2], "Burn")
        for s in strata(cases())
    ]
    answer = wound_markers(halves, [s.control for s in halves], genes())
    assert not answer["applicable"]
    assert answer["n_qualifying"] <= 2


def test_the_answer_depends_on_the_seed_of_the_random_sets_alone():
    found = cases()
    first, again, other = (
        wound_markers(strata(found), collapsed(found), genes(), seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first["accuracy"] == other["accuracy"]
    assert first["null_mean"] == pytest.approx(other["null_mean"], abs=0.02)
    assert first["null_mean"] != other["null_mean"]
