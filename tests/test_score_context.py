"""The training-only part of the metrics: genes, components, shifts, the classifier of types."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_ind

from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.evaluation.context import _welch_terms, fit_context
from wound_jax.evaluation.metrics import RealStratum, score_all

pytestmark = pytest.mark.blas

N_GENES = 30


def make_stratum(
    name: str,
    response: np.ndarray,
    *,
    n: tuple[int, int] = (60, 80),
    profile: float | np.ndarray = 0.0,
    perturbation: str = "Burn",
    seed: int = 0,
) -> Stratum:
    rng = np.random.default_rng([seed, *name.encode()])
    control = rng.normal(size=(n[0], N_GENES)) + profile
    treated = 1.3 * rng.normal(size=(n[1], N_GENES)) + profile + response
    return Stratum(name, None, control, treated, perturbation)


def responding(*genes: int, size: float = 3.0) -> np.ndarray:
    response = np.zeros(N_GENES)
    response[list(genes)] = size
    return response


def fit(*training: Stratum, n_top: int = 3, n_pcs: int = 4, seed: int = 0):
    cells = np.concatenate([arm for s in training for arm in (s.control, s.treated)])
    return fit_context(training, cells, n_pcs=n_pcs, n_top_genes=n_top, seed=seed)


def test_one_stratum_is_ranked_by_welchs_t() -> None:
    stratum = make_stratum("Fib", np.linspace(-1.0, 1.0, N_GENES))
    t, _ = np.asarray(ttest_ind(stratum.treated, stratum.control, equal_var=False))
    top = fit(stratum, n_top=N_GENES).top_genes_of(stratum)
    np.testing.assert_array_equal(top, np.argsort(-np.abs(t)))


def test_ties_go_to_the_lower_index() -> None:
    column = np.array([0.0, 1.0] * 10)
    control = np.repeat(column[:, None], N_GENES, axis=1)
    control[:, 5] = 2.0
    treated = control + 1.0
    treated[:, [0, 7]] -= 1.0
    top = fit(Stratum("Fib", None, control, treated, "Burn"), n_top=N_GENES).top_genes[
        "Fib", "Burn"
    ]
    middle = [g for g in range(N_GENES) if g not in (0, 5, 7)]
    assert top.tolist() == [5, *middle, 0, 7]


def test_own_genes_where_trained_and_pooled_genes_otherwise() -> None:
    fib = make_stratum("Fib", responding(1, 2, 3))
    mac = make_stratum("Mac", responding(2, 3, 4))
    unseen = make_stratum("Neu", responding(20, 21, 22))
    context = fit(fib, mac, n_top=2)
    assert set(fit(fib, mac, n_top=3).top_genes_of(fib)) == {1, 2, 3}
    assert set(context.top_genes_of(unseen)) == {2, 3}
    other = make_stratum("Neu", responding(9), perturbation="Freeze")
    np.testing.assert_array_equal(context.top_genes_of(other), context.top_genes_of(unseen))


def test_genes_are_chosen_for_each_perturbation() -> None:
    burn = make_stratum("Fib", responding(1, 2))
    freeze = make_stratum("Fib", responding(8, 9), perturbation="Freeze")
    context = fit(burn, freeze, n_top=2)
    assert set(context.top_genes_of(burn)) == {1, 2}
    assert set(context.top_genes_of(freeze)) == {8, 9}
    new_type = make_stratum("Mac", responding(5), perturbation="Freeze")
    assert set(context.top_genes_of(new_type)) == {8, 9}


def test_held_out_cells_choose_nothing() -> None:
    training = [make_stratum("Fib", responding(1, 2, 3)), make_stratum("Mac", responding(1, 5, 6))]
    context = fit(*training)
    scored = [make_stratum("Fib", responding(g), seed=g) for g in (20, 25)]
    for stratum in scored:
        assert set(context.top_genes_of(stratum)) == {1, 2, 3}
    # A type whose treated cells are all held out may be listed with its controls.
    with_controls = make_stratum("Neu", responding(28), n=(60, 0))
    again = fit_context(
        [*training, with_controls],
        np.concatenate([arm for s in training for arm in (s.control, s.treated)]),
        n_pcs=4,
        n_top_genes=3,
        seed=0,
    )
    np.testing.assert_array_equal(
        again.top_genes_of(with_controls), context.top_genes_of(with_controls)
    )


def test_a_shift_in_the_mixture_of_types_ranks_no_gene() -> None:
    """Markers of a type that is frequent among treated cells do not respond."""
    marker = responding(15, 16, 17, size=8.0)
    fib = make_stratum("Fib", responding(1, 2, size=1.0), n=(400, 40))
    mac = make_stratum("Mac", responding(1, 2, size=1.0), n=(40, 400), profile=marker)
    treated, control = (
        np.concatenate([getattr(s, a) for s in (fib, mac)]) for a in ("treated", "control")
    )
    pooled, _ = np.asarray(ttest_ind(treated, control, equal_var=False))
    assert set(np.argsort(-np.abs(pooled))[:3]) == {15, 16, 17}
    context = fit(fib, mac, n_top=2)
    assert set(context.pooled_top_genes[None]) == {1, 2}


def test_components_are_orthonormal_reproducible_and_find_the_axes() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(N_GENES, 3)))[0].T
    cells = (rng.normal(size=(500, 3)) * [9.0, 6.0, 4.0]) @ axes + 5.0
    cells = cells + 0.1 * rng.normal(size=cells.shape)
    training = [make_stratum("Fib", responding(1))]
    one, two = (fit_context(training, cells, n_pcs=3, n_top_genes=3, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.pca_components, two.pca_components)
    np.testing.assert_allclose(one.pca_components @ one.pca_components.T, np.eye(3), atol=1e-6)
    overlap = np.linalg.svd(one.pca_components @ axes.T, compute_uv=False)
    np.testing.assert_allclose(overlap, 1.0, atol=1e-3)
    np.testing.assert_allclose(one.project(cells).mean(axis=0), 0.0, atol=1e-6)


def test_fewer_components_where_cells_are_few() -> None:
    stratum = make_stratum("Fib", responding(1), n=(10, 10))
    assert fit(stratum, n_pcs=50).pca_components.shape == (19, N_GENES)


def test_mean_shifts_weigh_strata_alike_and_fall_back_on_all_perturbations() -> None:
    fib = make_stratum("Fib", responding(1), n=(300, 300))
    mac = make_stratum("Mac", responding(2), n=(30, 30))
    freeze = make_stratum("Fib", responding(3), perturbation="Freeze")
    no_treated = make_stratum("Neu", responding(4), n=(60, 0))
    context = fit(fib, mac, freeze, no_treated)
    burn = (fib.mean_delta + mac.mean_delta) / 2
    np.testing.assert_allclose(context.mean_delta_of(fib), burn, rtol=1e-12)
    np.testing.assert_allclose(context.mean_delta_of(freeze), freeze.mean_delta, rtol=1e-12)
    every = (2 * burn + freeze.mean_delta) / 3
    other = make_stratum("Fib", responding(1), perturbation="Sunburn")
    np.testing.assert_allclose(context.mean_delta_of(other), every, rtol=1e-12)


def test_the_classifier_tells_types_apart_on_new_cells_treated_or_not() -> None:
    profiles = {"Fib": responding(10, 11), "Mac": responding(12, 13), "Neu": responding(14, 15)}
    # Types of very different numbers count alike.
    sizes = {"Fib": (400, 400), "Mac": (30, 30), "Neu": (30, 0)}
    context = fit(
        *(make_stratum(n, responding(1), n=sizes[n], profile=p) for n, p in profiles.items()),
        n_pcs=6,
    )
    for name, profile in profiles.items():
        new = make_stratum(name, responding(1), profile=profile, seed=1)
        for cells in (new.control, new.treated):
            assert context.share_of_type(context.project(cells), name) > 0.9
    fib = context.project(make_stratum("Fib", responding(1), profile=profiles["Fib"]).control)
    assert context.share_of_type(fib, "Mac") < 0.1
    assert np.isnan(context.share_of_type(fib, "Dendritic"))


def test_the_classifier_learns_from_as_many_cells_of_both_arms() -> None:
    """At most 200 of each: of more its means would be those of all."""
    types = [
        make_stratum("Fib", responding(1), n=(150, 60)),
        make_stratum("Mac", responding(2), n=(40, 90), profile=responding(5)),
        make_stratum("Fib", responding(1), n=(10, 20), seed=1),
    ]
    context = fit(*types)
    assert context.classifier is not None
    assert list(context.classifier.classes_) == ["Fib", "Mac"]
    for name, mean in zip(("Fib", "Mac"), context.classifier.means_, strict=True):
        cells = [arm for s in types if s.cell_type == name for arm in (s.control, s.treated)]
        np.testing.assert_allclose(mean, context.project(np.concatenate(cells)).mean(axis=0))
    np.testing.assert_array_equal(context.classifier.priors_, 0.5)


def test_differences_are_measured_by_the_variance_of_few_cells() -> None:
    stratum = make_stratum("Fib", responding(1), n=(3, 4))
    variance = stratum.control.var(axis=0, ddof=1) / 3 + stratum.treated.var(axis=0, ddof=1) / 4
    np.testing.assert_allclose(_welch_terms(stratum), [stratum.mean_delta, variance])


def test_no_classifier_without_two_types_to_tell_apart() -> None:
    fib, rare = make_stratum("Fib", responding(1)), make_stratum("Mac", responding(1), n=(4, 4))
    context = fit(fib, rare)
    assert context.classifier is None
    assert np.isnan(context.share_of_type(context.project(fib.control), "Fib"))


def test_what_is_known_of_a_stratum_goes_with_it() -> None:
    context = fit(make_stratum("Fib", responding(1)))
    """It is handed on with the stratum, and nothing else holds on to it."""
    stratum = make_stratum("Fib", responding(1), seed=1)
    gone = weakref.ref(stratum)
    known = {stratum: RealStratum(stratum, context)}
    one, other = (score_all([stratum], [c], context, known=known) for c in [stratum.control] * 2)
    np.testing.assert_equal(one, other)
    assert known[stratum].memory
    few = RealStratum(stratum, replace(context, max_cells=5))
    assert not few.memory, "another context, other samples"
    assert len(few.projected[0]) == 5 < len(known[stratum].projected[0])
    del known, few, stratum
    gc.collect()
    assert gone() is None


def test_errors_name_the_fault() -> None:
    small = make_stratum("Fib", responding(1), n=(5, 5))
    with pytest.raises(UserError, match="none of the 1 training strata has 10"):
        fit(small)
    with pytest.raises(UserError, match="expected at least 2"):
        fit_context([small], small.control[:1], n_pcs=2, n_top_genes=2, seed=0)
