"""The passes over residual streams: their written-out gradients against automatic ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wound_jax.models.mhc.streams import project_streams, read_streams, write_streams

SETS, CELLS, N, HIDDEN, MAPS = 2, 3, 4, 6, 24


def plain_read(x, h_pre):
    return jnp.einsum("scn,scnh->sch", h_pre, x)


def plain_write(x, branch, h_post, h_res):
    mixed = jnp.einsum("scij,scjh->scih", h_res, x)
    return mixed + jnp.einsum("sci,sch->scih", h_post, branch)


def plain_project(x, phi):
    flat = x.reshape(*x.shape[:-2], -1)
    return flat @ phi / jnp.sqrt(jnp.mean(flat**2, axis=-1, keepdims=True))


STREAMS = (SETS, CELLS, N, HIDDEN)
CASES = {
    "read": (read_streams, plain_read, [STREAMS, STREAMS[:3]]),
    "write": (
        write_streams,
        plain_write,
        [STREAMS, (SETS, CELLS, HIDDEN), STREAMS[:3], (*STREAMS[:3], N)],
    ),
    "project": (project_streams, plain_project, [STREAMS, (N * HIDDEN, MAPS)]),
}
# What has the dtype of the streams; weights and maps are float32.
HALF = {"read": 1, "write": 2, "project": 1}


def drawn(shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def value_and_gradients(function, arguments, cotangent_of):
    value, pull = jax.vjp(function, *arguments)
    return value, pull(cotangent_of(value))


def cotangent_like(value):
    return jnp.cos(jnp.arange(value.size)).reshape(value.shape).astype(value.dtype)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_the_plain_formula_in_float64(name):
    function, plain, shapes = CASES[name]
    with jax.enable_x64(True):
        arguments = drawn(shapes)
        expected = value_and_gradients(plain, arguments, cotangent_like)
        actual = value_and_gradients(function, arguments, cotangent_like)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), actual, expected
        )


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_rounds_once(name):
    """Values and gradients are those of the rounded inputs in float32, up to one rounding."""
    function, plain, shapes = CASES[name]
    rounded = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in drawn(shapes)]
    half = [x.astype(jnp.bfloat16) for x in rounded[: HALF[name]]] + rounded[HALF[name] :]
    value, gradients = value_and_gradients(function, half, cotangent_like)
    # The cotangent of a bfloat16 value is bfloat16.
    given = cotangent_like(value).astype(jnp.float32)
    expected, expected_gradients = value_and_gradients(plain, rounded, lambda _: given)
    assert [g.dtype for g in gradients] == [x.dtype for x in half]
    for actual, wanted in zip((value, *gradients), (expected, *expected_gradients), strict=True):
        wanted = np.asarray(wanted)
        error = np.abs(np.asarray(actual, np.float32) - wanted).max() / np.abs(wanted).max()
        # Half a unit in the last of 8 bits; the gradient of phi sums products of rounded
        # cotangents.
        assert error <= 2**-8


def test_a_zero_stream_projects_to_zero_with_finite_gradients():
    x, phi = jnp.zeros(STREAMS), jnp.ones((N * HIDDEN, MAPS))
    value, gradients = value_and_gradients(project_streams, (x, phi), cotangent_like)
    assert not value.any()
    assert all(jnp.isfinite(g).all() for g in gradients)
