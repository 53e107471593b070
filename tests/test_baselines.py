"""Baselines on strata whose right answer is known, and their order on real cells."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from wound_jax.errors import UserError
from wound_jax.evaluation.baselines import (
    BASELINES,
    GlobalMeanShift,
    RidgePca,
    TypeMeanShift,
    TypeTimepointMeanShift,
    fit_baselines,
)
from wound_jax.evaluation.context import fit_context
from wound_jax.evaluation.metrics import score
from wound_jax.evaluation.strata import Stratum

N_GENES = 12


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


def shift_of(baseline, stratum: Stratum) -> np.ndarray:
    """What a baseline adds to the mean control cell."""
    return (baseline.predict(stratum) - stratum.control).mean(axis=0)


def close(actual: np.ndarray, expected: np.ndarray | float) -> bool:
    return bool(np.allclose(actual, expected, atol=1e-4))


def test_identity_returns_the_control_cells() -> None:
    stratum = shifted_stratum(1.0)
    predicted = fit_baselines([stratum], False, ["identity"])["identity"].predict(stratum)
    np.testing.assert_array_equal(predicted, stratum.control.astype(np.float32))


def test_strata_count_equally_whatever_their_cells() -> None:
    training = [shifted_stratum(1.0, n=300), shifted_stratum(4.0, "Mac", n=10)]
    test = shifted_stratum(0.0, "Neu")
    assert close(shift_of(GlobalMeanShift.fit(training, False), test), 2.5)


def test_type_shift_and_its_fallback() -> None:
    training = [
        shifted_stratum(1.0, "Fib", "day10"),
        shifted_stratum(3.0, "Fib", "day14"),
        shifted_stratum(8.0, "Mac", "day10"),
    ]
    baseline = TypeMeanShift.fit(training, False)
    assert close(shift_of(baseline, shifted_stratum(0.0, "Fib", "day19")), 2.0)
    assert close(shift_of(baseline, shifted_stratum(0.0, "Mac", "day14")), 8.0)
    assert close(shift_of(baseline, shifted_stratum(0.0, "Neu", "day14")), 4.0)


def test_type_timepoint_shift_and_its_fallbacks() -> None:
    training = [
        shifted_stratum(1.0, "Fib", "day10"),
        shifted_stratum(3.0, "Fib", "day14"),
        shifted_stratum(8.0, "Mac", "day10"),
    ]
    baseline = TypeTimepointMeanShift.fit(training, False)
    assert close(shift_of(baseline, shifted_stratum(0.0, "Fib", "day14")), 3.0)
    assert close(shift_of(baseline, shifted_stratum(0.0, "Fib", "day19")), 2.0)
    assert close(shift_of(baseline, shifted_stratum(0.0, "Mac", "day14")), 8.0)
    assert close(shift_of(baseline, shifted_stratum(0.0, "Neu", "day10")), 4.5)
    assert close(shift_of(baseline, shifted_stratum(0.0, "Neu", "day19")), 4.0)


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "identity"])
def test_perturbations_keep_their_own_shifts(name: str) -> None:
    training = [
        shifted_stratum(sign * size, cell_type, perturbation=perturbation)
        for perturbation, sign in (("Burn", 1.0), ("Freeze", -1.0))
        for cell_type, size in (("Fib", 2.0), ("Mac", 2.0), ("Ker", 2.0))
    ]
    baseline = fit_baselines(training, False, [name])[name]
    assert close(shift_of(baseline, shifted_stratum(0.0)), 2.0)
    assert close(shift_of(baseline, shifted_stratum(0.0, perturbation="Freeze")), -2.0)
    with pytest.raises(UserError, match="Did you mean 'Freeze'"):
        baseline.predict(shifted_stratum(0.0, perturbation="Freez"))


@pytest.mark.parametrize("name", list(BASELINES))
def test_cells_are_moved_not_replaced(name: str) -> None:
    training = [shifted_stratum(1.0), shifted_stratum(2.0, "Mac")]
    test = shifted_stratum(0.0, "Neu")
    predicted = fit_baselines(training, False, [name])[name].predict(test)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted.std(axis=0), test.control.std(axis=0), rtol=1e-4)


def test_predictions_are_clipped_only_in_a_non_negative_space() -> None:
    training = [shifted_stratum(-6.0), shifted_stratum(-6.0, "Mac")]
    for name, baseline in fit_baselines(training, True).items():
        assert baseline.predict(training[0]).min() >= 0.0, name
    assert GlobalMeanShift.fit(training, False).predict(training[0]).min() < 0.0


def linear_strata(n: int, seed: int) -> list[Stratum]:
    """Types whose shift is an affine function of their mean control cell."""
    rng = np.random.default_rng(seed)
    weights = np.random.default_rng(99).normal(size=(N_GENES, N_GENES)) / N_GENES
    strata = []
    for i in range(n):
        profile = 3.0 * rng.normal(size=N_GENES)
        base = shifted_stratum(0.0, f"type{seed}-{i}", profile=profile)
        shift = base.control.mean(axis=0) @ weights + 0.7
        strata.append(shifted_stratum(shift, f"type{seed}-{i}", profile=profile))
    return strata


def test_ridge_recovers_a_linear_shift_on_unseen_types() -> None:
    training, test = linear_strata(40, 1), linear_strata(5, 2)
    ridge, constant = RidgePca.fit(training, False), GlobalMeanShift.fit(training, False)
    for stratum in test:
        np.testing.assert_allclose(shift_of(ridge, stratum), stratum.mean_delta, atol=0.02)
        assert np.abs(shift_of(constant, stratum) - stratum.mean_delta).max() > 0.1


def test_ridge_takes_the_penalty_of_the_smallest_leave_one_out_error() -> None:
    training = linear_strata(8, 3)
    ridge = RidgePca.fit(training, False)
    model = ridge.models["Burn"]
    regressors = ridge.pca.transform(np.stack([s.control_mean for s in training]))
    shifts = np.stack([s.mean_delta for s in training])

    def left_out_error(alpha: float) -> float:
        kept = [np.arange(8) != i for i in range(8)]
        predicted = [
            Ridge(alpha).fit(regressors[k], shifts[k]).predict(regressors[[i]])[0]
            for i, k in enumerate(kept)
        ]
        return float(np.square(np.array(predicted) - shifts).mean())

    errors = [left_out_error(alpha) for alpha in model.alphas]
    assert model.alpha_ == pytest.approx(model.alphas[int(np.argmin(errors))])


def test_ridge_shrinks_to_the_mean_shift_where_the_control_says_nothing() -> None:
    rng = np.random.default_rng(0)
    training = [
        shifted_stratum(1.0 + 0.5 * rng.normal(size=N_GENES), f"type{i}", profile=profile)
        for i, profile in enumerate(3.0 * rng.normal(size=(30, N_GENES)))
    ]
    test = shifted_stratum(0.0, "new", profile=3.0 * rng.normal(size=N_GENES))
    ridge = shift_of(RidgePca.fit(training, False), test)
    np.testing.assert_allclose(
        ridge, shift_of(GlobalMeanShift.fit(training, False), test), atol=0.15
    )


def test_ridge_with_one_stratum_is_the_mean_shift() -> None:
    training = [shifted_stratum(2.0), shifted_stratum(0.0, "Mac", perturbation="Freeze")]
    assert close(shift_of(RidgePca.fit(training, False), shifted_stratum(0.0, "Neu")), 2.0)


def test_strata_without_treated_cells_teach_no_shift() -> None:
    full = shifted_stratum(2.0)
    empty = Stratum("Mac", "day10", full.control, full.treated[:0], "Burn")
    for name, baseline in fit_baselines([full, empty], False, list(BASELINES)[1:]).items():
        assert close(shift_of(baseline, shifted_stratum(0.0, "Neu")), 2.0), name
    with pytest.raises(UserError, match="none of the 1 training strata has treated cells"):
        GlobalMeanShift.fit([empty], False)


def test_unknown_baselines_are_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'ridge_pca'"):
        fit_baselines([shifted_stratum(1.0)], False, ["ridge_pcs"])


def test_order_on_real_cells_with_a_type_held_out(shared) -> None:
    """Interferon-beta in blood: the ridge beats the mean shift, which beats the identity."""
    held_out_types = ("CD14+ Monocytes", "CD4 T cells", "B cells")
    others = ("FCGR3A+ Monocytes", "CD8 T cells", "NK cells")
    strata = _interferon_strata(shared, (*held_out_types, *others))
    rows: dict[str, list[dict[str, float]]] = {}
    for held_out in held_out_types:
        stratum = strata[held_out]
        training = [other for name, other in strata.items() if name != held_out]
        cells = np.concatenate([arm for s in training for arm in (s.control, s.treated)])
        context = fit_context(training, cells, n_pcs=50, n_top_genes=100, seed=0)
        names = ["identity", "global_mean_shift", "ridge_pca"]
        for name, baseline in fit_baselines(training, True, names).items():
            rows.setdefault(name, []).append(score(stratum, baseline.predict(stratum), context))

    def mean(name: str, metric: str) -> float:
        return float(np.mean([row[metric] for row in rows[name]]))

    assert mean("identity", "e_distance_ratio") == 1.0
    assert mean("global_mean_shift", "pearson_delta") > 0.75
    assert mean("global_mean_shift", "e_distance_ratio") < 0.5
    assert mean("ridge_pca", "pearson_delta") > mean("global_mean_shift", "pearson_delta") + 0.04
    assert mean("ridge_pca", "e_distance_ratio") < 0.5 * mean(
        "global_mean_shift", "e_distance_ratio"
    )


def _interferon_strata(shared, types: tuple[str, ...]) -> dict[str, Stratum]:
    """Control and stimulated cells of each type, log1p of counts per 10,000.

    At most 250 cells of each, and the 400 genes that vary most, to be quick.
    """
    anndata = pytest.importorskip("anndata")
    data = anndata.read_h5ad(shared / "data" / "kang_ifnb.h5ad")
    data = data[(data.obs.label_source != "predicted") & data.obs.cell_type.isin(types)]
    counts = data.X.tocsr().astype(np.float64)
    scale = 1e4 / np.asarray(counts.sum(axis=1))
    logged = np.log1p(counts.multiply(scale).tocsr())
    square = logged.multiply(logged).mean(axis=0)
    variance = np.asarray(square).ravel() - np.asarray(logged.mean(axis=0)).ravel() ** 2
    expression = logged[:, np.argsort(-variance)[:400]].toarray().astype(np.float32)

    def cells(name: str, condition: str) -> np.ndarray:
        return expression[(data.obs.cell_type == name) & (data.obs.condition == condition)][:250]

    return {n: Stratum(n, None, cells(n, "ctrl"), cells(n, "stim"), "stim") for n in types}
