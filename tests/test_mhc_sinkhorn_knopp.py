"""Sinkhorn-Knopp against independent tables in float64, its guarantees, and its gradients."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wound_jax.models.mhc.doubly_stochastic import sinkhorn_knopp

ITERATIONS = (1, 5, 10, 20, 100)
quick = settings(max_examples=40, deadline=None)


def square_logits(bound: float):
    """Logits of 2, 4 or 5 streams within [-bound, bound]."""
    values = st.floats(-bound, bound, width=32)
    return st.sampled_from([2, 4, 5]).flatmap(
        lambda n: hnp.arrays(np.float64, (n, n), elements=values)
    )


def float64(logits: np.ndarray, iterations: int) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(sinkhorn_knopp(jnp.asarray(logits, jnp.float64), iterations))


@pytest.fixture(scope="module")
def table(shared):
    with np.load(shared / "fixtures/mhc/sinkhorn_knopp.npz") as file:
        return dict(file)


@pytest.mark.parametrize("iterations", ITERATIONS)
@pytest.mark.parametrize("form", ["paper", "luc", "luclog"])
def test_columns_then_rows_agree_with_every_table_of_that_order(table, form, iterations):
    ours = float64(table["logits"], iterations)
    np.testing.assert_allclose(ours, table[f"{form}_k{iterations}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("iterations", ITERATIONS)
def test_rows_then_columns_is_ours_on_transposed_logits(table, iterations):
    ours = float64(table["logits"].mT, iterations).mT
    np.testing.assert_allclose(ours, table[f"rowfirst_k{iterations}"], rtol=0, atol=1e-9)


def rows_then_columns_with_eps(logits: np.ndarray, iterations: int, eps: float) -> np.ndarray:
    """The order of the `hf` tables, with its regulariser in every division."""
    matrix = np.exp(logits - logits.max(-1, keepdims=True))
    matrix = matrix / matrix.sum(-1, keepdims=True) + eps
    matrix = matrix / (matrix.sum(-2, keepdims=True) + eps)
    for _ in range(iterations - 1):
        matrix = matrix / (matrix.sum(-1, keepdims=True) + eps)
        matrix = matrix / (matrix.sum(-2, keepdims=True) + eps)
    return matrix


@pytest.mark.parametrize("iterations", ITERATIONS)
def test_hf_tables_are_ours_on_transposed_logits_but_for_their_eps(table, iterations):
    logits = table["logits"]
    with_eps = rows_then_columns_with_eps(logits, iterations, 1e-6)
    np.testing.assert_allclose(with_eps, table[f"hf_k{iterations}"], rtol=0, atol=1e-9)
    ours = float64(logits.mT, iterations).mT
    without = rows_then_columns_with_eps(logits, iterations, 0.0)
    np.testing.assert_allclose(ours, without, rtol=0, atol=1e-9)


def test_gradient_agrees_with_the_table(table):
    with jax.enable_x64(True):
        weights = jnp.asarray(table["grad_W"])[None]
        grad = jax.grad(lambda logits: jnp.sum(weights * sinkhorn_knopp(logits, 20)))
        ours = grad(jnp.asarray(table["logits"]))
    np.testing.assert_allclose(ours, table["grad_paper_k20"], rtol=0, atol=1e-9)


@quick
@given(logits=square_logits(1e4), iterations=st.sampled_from([1, 5, 20]))
def test_rows_sum_to_one_whatever_the_logits(logits, iterations):
    matrix = np.asarray(sinkhorn_knopp(jnp.asarray(logits, jnp.float32), iterations))
    assert matrix.dtype == np.float32
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(-1), 1.0, rtol=0, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(-2).mean(), 1.0, rtol=0, atol=1e-6)


@quick
@given(logits=square_logits(1.0))
def test_columns_of_moderate_logits_sum_to_one_after_20_rounds(logits):
    matrix = np.asarray(sinkhorn_knopp(jnp.asarray(logits, jnp.float32), 20))
    np.testing.assert_allclose(matrix.sum(-2), 1.0, rtol=0, atol=1e-4)


@quick
@given(logits=square_logits(5.0), iterations=st.sampled_from([1, 5, 20]))
def test_columns_stay_within_the_proved_bound(logits, iterations):
    columns = float64(logits, iterations).sum(-2)
    rows_apart = logits[:, None, :] - logits[None, :, :]
    cross_ratio = (rows_apart[..., :, None] - rows_apart[..., None, :]).max()
    exponent = np.ptp(logits) * np.tanh(cross_ratio / 4) ** (2 * iterations - 1)
    assert np.log(columns.max() / columns.min()) <= exponent + 1e-9


@quick
@given(logits=square_logits(50.0))
def test_more_rounds_never_widen_the_column_sums(logits):
    sums = [float64(logits, k).sum(-2) for k in (1, 2, 5, 20)]
    ratios = [columns.max() / columns.min() for columns in sums]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(ratios))


def test_columns_of_widely_spread_logits_are_still_off_after_20_rounds():
    logits = np.array([[0.0, 0.0], [0.0, 40.0]])
    assert float64(logits, 20).sum(-2).max() > 1.02
    np.testing.assert_allclose(float64(logits, 20).sum(-1), 1.0, rtol=0, atol=1e-12)


def test_a_row_far_below_the_rest_survives_float32():
    logits = np.array([[0.0, 1.0, -1.0], [2.0, 0.0, 1.0], [-200.0, -201.0, -202.0]])
    matrix = np.exp(logits)
    for _ in range(20):
        matrix = matrix / matrix.sum(-2, keepdims=True)
        matrix = matrix / matrix.sum(-1, keepdims=True)
    assert np.exp(logits.astype(np.float32))[2].sum() == 0  # float32 would divide by this
    ours = np.asarray(sinkhorn_knopp(jnp.asarray(logits, jnp.float32), 20))
    np.testing.assert_allclose(ours, matrix, rtol=0, atol=1e-4)


@quick
@given(logits=square_logits(1e4), seed=st.integers(0, 10))
def test_gradients_are_finite_up_to_logits_of_ten_thousand(logits, seed):
    weights = jnp.asarray(np.random.default_rng(seed).normal(size=logits.shape), jnp.float32)
    grad = jax.grad(lambda x: jnp.sum(weights * sinkhorn_knopp(x, 20)))
    assert np.isfinite(grad(jnp.asarray(logits, jnp.float32))).all()


def test_low_precision_logits_give_float32_and_batches_agree_with_vmap():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 4)), jnp.bfloat16)
    batched = sinkhorn_knopp(logits, 20)
    assert batched.dtype == jnp.float32
    mapped = jax.vmap(jax.vmap(lambda one: sinkhorn_knopp(one, 20)))(logits)
    np.testing.assert_allclose(batched, mapped, rtol=0, atol=1e-6)
