"""Mixtures of permutations: exactly doubly stochastic, for any logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wound_jax.models.mhc.doubly_stochastic import (
    mix_permutations,
    permutation_count,
    permutation_matrices,
)

mix = jax.jit(mix_permutations, static_argnums=1)


def logits_of_any_size():
    values = st.floats(-1e4, 1e4, width=32)
    return st.sampled_from([2, 3, 4]).flatmap(
        lambda n: hnp.arrays(np.float32, permutation_count(n), elements=values)
    )


def streams_of(logits: np.ndarray) -> int:
    return {2: 2, 6: 3, 24: 4}[logits.size]


@pytest.mark.parametrize(("n", "count"), [(2, 2), (3, 6), (4, 24)])
def test_every_permutation_appears_once_and_the_identity_first(n, count):
    matrices = permutation_matrices(n)
    assert matrices.shape == (count, n, n)
    assert permutation_count(n) == count
    assert len({matrix.tobytes() for matrix in matrices}) == count
    np.testing.assert_array_equal(matrices.sum(-1), 1)
    np.testing.assert_array_equal(matrices.sum(-2), 1)
    np.testing.assert_array_equal(matrices[0], np.eye(n))


@settings(max_examples=40, deadline=None)
@example(logits=np.array([7.0] + 23 * [0.0], np.float32))
@given(logits=logits_of_any_size())
def test_rows_and_columns_sum_to_one_for_any_logits(logits):
    n = streams_of(logits)
    matrix = np.asarray(mix(jnp.asarray(logits), n), dtype=np.float64)
    assert (matrix >= 0).all()
    # Half a unit in the last place for each addition, in the softmax and in an entry, and for two
    # divisions: equal small weights are all rounded to the same side (7, 0, ..., 0 is that case).
    rounding = (logits.size + logits.size // n + 2) * np.finfo(np.float32).eps / 2
    np.testing.assert_allclose(matrix.sum(-1), 1.0, rtol=0, atol=rounding)
    np.testing.assert_allclose(matrix.sum(-2), 1.0, rtol=0, atol=rounding)


@settings(max_examples=20, deadline=None)
@given(logits=logits_of_any_size())
def test_gradients_are_finite_for_any_logits(logits):
    n = streams_of(logits)
    weights = jnp.arange(n * n, dtype=jnp.float32).reshape(n, n) ** 2
    grad = jax.grad(lambda x: jnp.sum(weights * mix(x, n)))(jnp.asarray(logits))
    assert np.isfinite(grad).all()


def test_one_large_logit_selects_its_permutation():
    logits = jnp.zeros(24).at[9].set(1e4)
    np.testing.assert_array_equal(mix_permutations(logits, 4), permutation_matrices(4)[9])


def test_weights_are_the_softmax_and_stay_float32_or_wider():
    logits = np.random.default_rng(0).normal(size=(2, 3, 24))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.einsum("stp,pij->stij", weights, permutation_matrices(4))
    with jax.enable_x64(True):
        exact = mix_permutations(jnp.asarray(logits), 4)
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact, expected, rtol=0, atol=1e-12)
    assert mix_permutations(jnp.asarray(logits, jnp.bfloat16), 4).dtype == jnp.float32
