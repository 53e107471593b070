"""The legacy mixing over features: plain at first, doubly stochastic, and the variance it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wound_jax.models.mhc.doubly_stochastic import sinkhorn_knopp
from wound_jax.models.mhc.features import FeatureMixing

WIDTH = 12


@pytest.fixture
def x():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, WIDTH)), jnp.float32)


def branch(h):
    return jnp.tanh(h) * 0.5


def mixing(g: float) -> FeatureMixing:
    module = FeatureMixing(WIDTH, 20, rngs=nnx.Rngs(0))
    logits = np.random.default_rng(1).normal(size=(WIDTH, WIDTH))
    module.logits[...] = jnp.asarray(logits, jnp.float32)
    module.g[...] = jnp.asarray(g, jnp.float32)
    return module


def test_starts_as_the_plain_residual(x):
    module = FeatureMixing(WIDTH, 20, rngs=nnx.Rngs(0))
    new, maps = module(x, branch)
    np.testing.assert_array_equal(new, x + branch(x))
    np.testing.assert_array_equal(maps.h_res[0, 0], np.eye(WIDTH))


def test_off_diagonal_mass_is_the_same_at_every_width():
    for hidden in (16, 256):
        logits = FeatureMixing(hidden, 20, rngs=nnx.Rngs(0)).logits[...]
        off_diagonal = 1 - np.diag(np.asarray(sinkhorn_knopp(logits, 20)))
        expected = np.exp(-6) * (hidden - 1) / hidden
        np.testing.assert_allclose(off_diagonal, expected / (1 + expected), rtol=1e-3)


@pytest.mark.parametrize("g", [0.0, 0.3, 1.0])
def test_output_is_the_reported_mixing_and_the_branch(x, g):
    new, maps = mixing(g)(x, branch)
    matrix = np.asarray(maps.h_res[0, 0], np.float64)
    np.testing.assert_allclose(new, x @ matrix.T + branch(x), rtol=0, atol=1e-5)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(0), 1, rtol=0, atol=1e-4)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=0, atol=1e-5)


def test_sums_stay_one_where_g_leaves_the_unit_interval(x):
    _, maps = mixing(-0.5)(x, branch)
    matrix = np.asarray(maps.h_res[0, 0])
    np.testing.assert_allclose(matrix.sum(0), 1, rtol=0, atol=1e-4)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("g", "logits_move"), [(0.0, False), (0.1, True)])
def test_g_moves_first_and_the_logits_follow(x, g, logits_move):
    graphdef, state = nnx.split(mixing(g))

    def objective(state):
        return jnp.sum(nnx.merge(graphdef, state)(x, branch)[0] ** 3)

    grads = nnx.to_pure_dict(jax.grad(objective)(state))
    assert abs(grads["g"]) > 1e-3
    assert bool(np.abs(grads["logits"]).max() > 0) == logits_move
    assert np.isfinite(grads["logits"]).all()


def test_variance_left_by_the_fixed_logit_that_this_form_replaces():
    d, layers = 328, 8
    matrix = np.asarray(sinkhorn_knopp(-8.0 * (1 - jnp.eye(d)), 20), np.float64)
    x = np.random.default_rng(0).normal(size=(64, d))
    left = (x @ np.linalg.matrix_power(matrix, layers).T).var(-1).sum() / x.var(-1).sum()
    q = np.exp(-8)
    assert left == pytest.approx(((1 - q) / (1 + (d - 1) * q)) ** (2 * layers), rel=1e-3)
    assert left == pytest.approx(0.19, abs=0.005)


def test_dtype_of_the_stream_is_kept(x):
    new, maps = mixing(0.5)(x.astype(jnp.bfloat16), branch)
    assert new.dtype == jnp.bfloat16
    assert maps.h_res.dtype == jnp.float32
