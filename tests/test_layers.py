"""Attention and norms against float64 and against the layers of JAX and Flax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wound_jax.models.layers import Embedding, LayerNorm, RMSNorm, attend
from wound_jax.models.products import add_offset, narrow_product, product

SETS, CELLS, HEADS, WIDTH = 3, 7, 4, 5


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def heads(kv_heads: int) -> list[np.ndarray]:
    """Query, key, value in float64."""
    return [
        normal(seed, SETS, CELLS, count, WIDTH)
        for seed, count in enumerate((HEADS, kv_heads, kv_heads))
    ]


def some_cells() -> np.ndarray:
    return np.arange(CELLS) < np.array([[7], [4], [1]])


def reference(query, key, value, mask, *, causal: bool) -> np.ndarray:
    """softmax(q k / sqrt(d)) v, one set, head and cell at a time."""
    out = np.zeros((SETS, CELLS, HEADS, WIDTH))
    group = HEADS // key.shape[2]
    for s, i, h in np.ndindex(SETS, CELLS, HEADS):
        seen = mask[s] & (np.arange(CELLS) <= i) if causal else mask[s]
        scores = key[s, seen, h // group] @ query[s, i, h] / np.sqrt(WIDTH)
        weights = np.exp(scores - scores.max())
        out[s, i, h] = weights @ value[s, seen, h // group] / weights.sum()
    return out.reshape(SETS, CELLS, -1)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_computes_the_formula(kv_heads, causal):
    query, key, value = heads(kv_heads)
    expected = reference(query, key, value, some_cells(), causal=causal)
    for dtype, tolerance in ((jnp.float32, 2e-6), (jnp.bfloat16, 3e-2)):
        given = [jnp.asarray(x, dtype) for x in (query, key, value)]
        found = attend(given[0], given[1], given[2], jnp.asarray(some_cells()), causal=causal)
        assert found.dtype == dtype
        assert found.shape == (SETS, CELLS, HEADS * WIDTH)
        np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=tolerance)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_attention_are_those_of_jax(kv_heads, causal):
    query, key, value = (jnp.asarray(x, jnp.float32) for x in heads(kv_heads))
    mask, towards = jnp.asarray(some_cells()), jnp.asarray(normal(9, SETS, CELLS, HEADS * WIDTH))

    def of_jax(query, key, value):
        out = jax.nn.dot_product_attention(
            query, key, value, mask=mask[:, None, None, :], is_causal=causal
        )
        return out.reshape(SETS, CELLS, -1)

    given = (query, key, value)
    found = jax.vjp(lambda q, k, v: attend(q, k, v, mask, causal=causal), *given)[1]
    expected = jax.vjp(of_jax, *given)[1]
    for a, b in zip(found(towards), expected(towards), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("garbage", [1e6, -1e6])
def test_cells_outside_the_mask_have_neither_weight_nor_gradient(garbage):
    query, key, value = (jnp.asarray(x, jnp.float32) for x in heads(2))
    mask = jnp.asarray(some_cells())
    there = mask[:, :, None, None]

    def total(key, value):
        return (attend(query, key, value, mask, causal=False) ** 2).sum()

    grad = jax.value_and_grad(total, argnums=(0, 1))
    plain, _ = grad(key, value)
    dirty, gradients = grad(jnp.where(there, key, garbage), jnp.where(there, value, garbage))
    np.testing.assert_array_equal(dirty, plain)
    for gradient in gradients:
        assert jnp.isfinite(gradient).all()
        assert (jnp.where(there, 0, gradient) == 0).all()


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (LayerNorm, nnx.LayerNorm, {"epsilon": 1e-5, "use_fast_variance": False}),
        (RMSNorm, nnx.RMSNorm, {"epsilon": 1e-6}),
    ],
)
def test_norms_are_those_of_flax(ours, theirs, settings):
    """Values and all gradients, far from the origin too."""
    x, towards = (jnp.asarray(normal(i, 6, 4, 32), jnp.float32) for i in (0, 1))
    modules = [kind(32, rngs=nnx.Rngs(0), **settings) for kind in (ours, theirs)]
    for module in modules:
        for index, (_, value) in enumerate(nnx.to_flat_state(nnx.state(module))):
            value.set_value(jnp.asarray(normal(2 + index, 32), jnp.float32))
    for shifted in (x, 3 * x + 100):
        results = []
        for module in modules:
            graphdef, state = nnx.split(module)
            value, pull = jax.vjp(lambda s, x, g=graphdef: nnx.merge(g, s)(x), state, shifted)
            assert value.dtype == jnp.float32
            results.append([value, *jax.tree.leaves(pull(towards))])
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_norms_of_cells_that_do_not_vary_are_their_offset():
    """The variance is 0: what divides is epsilon alone."""
    x = jnp.full((2, 8), 3.0)
    np.testing.assert_array_equal(LayerNorm(8, epsilon=1e-5, rngs=nnx.Rngs(0))(x), 0.0)
    np.testing.assert_array_equal(RMSNorm(8, epsilon=1e-6, rngs=nnx.Rngs(0))(0 * x), 0.0)
    small = jnp.tile(jnp.array([1e-3, -1e-3]), 4)[None]
    np.testing.assert_allclose(
        LayerNorm(8, epsilon=1e-5, rngs=nnx.Rngs(0))(small), small / np.sqrt(1.1e-5), rtol=1e-4
    )


def test_large_scores_do_not_overflow():
    query, key, value = (jnp.asarray(x, jnp.float32) for x in heads(HEADS))
    mask = some_cells()
    found = attend(100 * query, 100 * key, value, jnp.asarray(mask), causal=False)
    expected = reference(100 * query, 100 * key, value, mask, causal=False)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_code_takes_its_own_vector_and_an_unseen_one_the_mean():
    embedding = Embedding(3, 4, rngs=nnx.Rngs(0))
    table = np.asarray(embedding.table[...])
    found = embedding(jnp.array([[0, 2], [1, -1]]))
    np.testing.assert_allclose(found[0], table[[0, 2]])
    np.testing.assert_allclose(found[1], [table[1], table.mean(axis=0)], rtol=1e-6)


def test_norms_of_half_precision_run_in_float32():
    x = jnp.asarray(normal(0, 5, 64) + 3, jnp.bfloat16)
    for norm in (LayerNorm(64, rngs=nnx.Rngs(0)), RMSNorm(64, rngs=nnx.Rngs(0))):
        found = norm(x)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, norm(x.astype(jnp.float32)))


def test_a_narrow_product_and_its_gradients_are_those_of_float64():
    x, a, g = normal(0, 40, 6), normal(1, 6, 3), normal(2, 40, 3)
    given = (jnp.asarray(x, jnp.float32), jnp.asarray(a, jnp.float32))
    value, pull = jax.vjp(jax.jit(narrow_product), *given)
    np.testing.assert_allclose(value, x @ a, atol=1e-5)
    of_x, of_a = pull(jnp.asarray(g, jnp.float32))
    np.testing.assert_allclose(of_x, g @ a.T, atol=1e-5)
    np.testing.assert_allclose(of_a, x.T @ g, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "fan_in", "fan_out"), [(40, 64, 24), (40, 24, 64), (40, 64, 23), (41, 64, 24)]
)
def test_products_of_half_precision_sum_in_float32(rows, fan_in, fan_out):
    """Against float64 products of the same rounded entries: only the last rounding is left."""
    shapes = [(rows, fan_in), (fan_in, fan_out), (rows, fan_out)]
    x, w, g = (jnp.asarray(normal(s, *shape)) for s, shape in enumerate(shapes))
    x, g, kernel = x.astype(jnp.bfloat16), g.astype(jnp.bfloat16), w.astype(jnp.float32)
    value, pull = jax.vjp(jax.jit(product), x, kernel)
    of_x, of_kernel = pull(g)
    assert (value.dtype, of_x.dtype, of_kernel.dtype) == (x.dtype, x.dtype, kernel.dtype)
    exact_x, exact_g = (np.asarray(array, np.float64) for array in (x, g))
    rounded = np.asarray(kernel.astype(jnp.bfloat16), np.float64)
    for found, exact in ((value, exact_x @ rounded), (of_x, exact_g @ rounded.T)):
        error = np.abs(np.asarray(found, np.float64) - exact)
        assert (error <= 2**-8 * np.abs(exact) + 1e-5).all()
    np.testing.assert_allclose(of_kernel, exact_x.T @ exact_g, atol=2e-5)


def test_the_gradient_of_an_offset_of_half_precision_sums_in_float32():
    """4,096 ones and small parts: a bfloat16 sum stops growing at 256."""
    rows = jnp.asarray(1 + np.abs(normal(0, 4096, 3)), jnp.bfloat16)
    offset = jnp.asarray(normal(1, 3), jnp.float32)
    value, pull = jax.vjp(jax.jit(add_offset), rows, offset)
    of_rows, of_offset = pull(rows)
    assert (value.dtype, of_rows.dtype, of_offset.dtype) == (rows.dtype, rows.dtype, jnp.float32)
    np.testing.assert_array_equal(of_rows, rows)
    np.testing.assert_allclose(of_offset, np.asarray(rows, np.float64).sum(0), rtol=1e-6)
    np.testing.assert_array_equal(value, rows + offset.astype(jnp.bfloat16)[None])


def test_a_narrow_product_of_half_precision_has_its_gradients():
    x, a, g = (
        jnp.asarray(normal(s, *shape), jnp.bfloat16)
        for s, shape in enumerate([(40, 64), (64, 3), (40, 3)])
    )
    of_a = jax.vjp(jax.jit(narrow_product), x, a)[1](g)[1]
    exact = np.asarray(x, np.float64).T @ np.asarray(g, np.float64)
    assert of_a.dtype == jnp.bfloat16
    assert (np.abs(np.asarray(of_a, np.float64) - exact) <= 2**-8 * np.abs(exact) + 1e-5).all()
