"""Hyper-connections: the plain residual at first, how the streams part, dtypes, and options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from wound_jax.errors import UserError
from wound_jax.models.mhc import (
    HyperConnection,
    HyperConnectionConfig,
    PlainStreams,
    expand_streams,
    reduce_streams,
)
from wound_jax.models.mhc.hyper_connection import hyper_maps

WIDTH, N = 8, 4
KINDS = ("sinkhorn", "birkhoff", "identity")
RESIDUAL = {"sinkhorn": (N, N), "birkhoff": (24,)}


def connection(h_res="sinkhorn", index=0, width=WIDTH, **options) -> HyperConnection:
    config = HyperConnectionConfig(options.pop("streams", N), h_res, 20, **options)
    return HyperConnection(width, config, index, rngs=nnx.Rngs(0))


def weights_of(module: HyperConnection) -> dict[str, jax.Array]:
    state = nnx.to_flat_state(nnx.state(module))
    return {str(path[0]): param[...] for path, param in state}


def perturbed(h_res="sinkhorn", seed=0, **options) -> HyperConnection:
    """A connection as training may leave it: every parameter away from its start."""
    module = connection(h_res, residual_logit=-1.0, **options)
    rng = np.random.default_rng(seed)
    for name, value in weights_of(module).items():
        noise = jnp.asarray(rng.normal(size=value.shape), jnp.float32)
        getattr(module, name)[...] = value + 0.5 * noise
    return module


def hidden(seed=0, sets=2, cells=3, width=WIDTH) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(sets, cells, width)), jnp.float32)


def streams_apart(seed=0, cells=3, width=WIDTH) -> jax.Array:
    x = np.random.default_rng(seed).normal(size=(2, cells, N, width))
    return jnp.asarray(x, jnp.float32)


def random_sublayer(seed: int, width=WIDTH):
    """A branch with a norm before it that mixes features, and cells as attention does."""
    inner, outer = np.random.default_rng(seed).normal(size=(2, width, width)) / np.sqrt(width)

    def branch(x):
        normed = x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
        return jnp.tanh(normed @ inner.astype(x.dtype)) @ outer.astype(x.dtype) + normed.mean(
            axis=-2, keepdims=True
        )

    return branch


@pytest.mark.parametrize("h_res", KINDS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16), streams=st.integers(2, 4), scale=st.sampled_from([0.1, 1, 30]))
def test_a_fresh_stack_is_the_plain_residual_network(h_res, seed, streams, scale):
    x = scale * hidden(seed)
    expected, carried = x, expand_streams(x, streams)
    for index in range(5):
        sublayer = random_sublayer(seed + index)
        around = connection(h_res, index, streams=streams) if index != 2 else PlainStreams()
        carried, _ = around(carried, sublayer)
        expected = expected + sublayer(expected)
    error = np.abs(reduce_streams(carried) - expected).max() / np.abs(expected).max()
    assert error < 1e-5


def test_plain_streams_take_the_residual_step_with_their_mean_and_keep_their_differences():
    streams, sublayer = streams_apart(), random_sublayer(0)
    new, maps = PlainStreams()(streams, sublayer)
    mean = reduce_streams(streams)
    np.testing.assert_allclose(reduce_streams(new), mean + sublayer(mean), rtol=0, atol=1e-6)
    differences = streams - mean[..., None, :]
    np.testing.assert_allclose(new - reduce_streams(new)[..., None, :], differences, atol=1e-6)
    np.testing.assert_array_equal(maps.h_pre, 1 / N)
    np.testing.assert_array_equal(maps.h_post, 1)
    np.testing.assert_array_equal(maps.h_res, np.broadcast_to(np.eye(N), (2, 3, N, N)))
    assert not nnx.to_flat_state(nnx.state(PlainStreams()))


@pytest.mark.parametrize("index", range(6))
def test_h_pre_starts_on_the_stream_of_the_sublayer_and_sums_to_one(index):
    _, maps = connection(index=index)(streams_apart(), random_sublayer(0))
    expected = np.full(N, 0.05)
    expected[index % N] = 0.85
    np.testing.assert_allclose(maps.h_pre, np.broadcast_to(expected, (2, 3, N)), atol=1e-6)
    np.testing.assert_allclose(maps.h_post, 1, atol=0)


@pytest.mark.parametrize("h_res", KINDS)
def test_the_new_streams_are_what_the_maps_say(h_res):
    streams, sublayer, module = streams_apart(), random_sublayer(0), perturbed(h_res)
    new, maps = module(streams, sublayer)
    branch = sublayer(jnp.einsum("scn,scnh->sch", maps.h_pre, streams))
    expected = np.einsum("scij,scjh->scih", maps.h_res, streams)
    expected = expected + np.einsum("scn,sch->scnh", maps.h_post, branch)
    np.testing.assert_allclose(new, expected, rtol=0, atol=1e-5)
    assert maps.h_res.std(axis=(0, 1)).max() > 1e-2 or h_res == "identity"


@pytest.mark.parametrize("index", [0, 1, N + 1])
def test_a_connection_starts_as_it_says(index):
    config = HyperConnectionConfig(N, "sinkhorn", 20, residual_logit=-4.0)
    start = weights_of(HyperConnection(WIDTH, config, index, rngs=nnx.Rngs(0)))
    assert not start["phi"].any()
    assert not start["b_post"].any()
    np.testing.assert_allclose([start[f"a_{name}"] for name in ("pre", "post", "res")], 0.01)
    np.testing.assert_array_equal(start["b_res"], -4.0 * (1 - np.eye(N)))
    # A twentieth of each other stream; its own stream turns with the sublayer.
    read = 1 / (1 + np.exp(-np.asarray(start["b_pre"])))
    expected = np.where(np.arange(N) == index % N, 1 - 0.05 * (N - 1), 0.05)
    np.testing.assert_allclose(read, expected, rtol=1e-5)


@pytest.mark.parametrize("h_res", KINDS)
def test_every_parameter_acts(h_res):
    """A form of H_res brings the parameters it reads and no other."""
    module = perturbed(h_res)
    graphdef, state = nnx.split(module)
    shapes = {"phi": (N * WIDTH, 2 * N), "a_pre": (), "a_post": (), "b_pre": (N,), "b_post": (N,)}
    if h_res != "identity":
        shapes |= {"a_res": (), "b_res": RESIDUAL[h_res]}
        shapes["phi"] = (N * WIDTH, 2 * N + int(np.prod(RESIDUAL[h_res])))
    assert {name: value.shape for name, value in weights_of(module).items()} == shapes

    def objective(state):
        new, _ = nnx.merge(graphdef, state)(streams_apart(), random_sublayer(0))
        return jnp.sum(jnp.sin(new))

    for path, grad in nnx.to_flat_state(jax.jit(jax.grad(objective))(state)):
        values = np.asarray(grad[...])
        assert np.isfinite(values).all()
        assert (np.abs(values) > 0).all(), path


@pytest.mark.parametrize("h_res", KINDS)
def test_recomputing_the_maps_changes_memory_and_nothing_else(h_res):
    streams, sublayer = streams_apart(), random_sublayer(0)

    def run(remat: bool):
        graphdef, state = nnx.split(perturbed(h_res, remat=remat))

        def objective(state, streams):
            return jnp.sum(jnp.sin(nnx.merge(graphdef, state)(streams, sublayer)[0]))

        value, backward = jax.vjp(objective, state, streams)
        kept = sum(leaf.nbytes for leaf in jax.tree.leaves(backward))
        return value, backward(jnp.ones(())), kept

    value, grads, kept = run(False)
    value_remat, grads_remat, kept_remat = run(True)
    assert float(value) == pytest.approx(float(value_remat), rel=1e-6)
    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(grads_remat), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
    assert kept_remat < kept


def test_cells_are_treated_alike():
    streams, module = streams_apart(cells=7), perturbed()
    order = np.random.default_rng(1).permutation(7)
    new, maps = module(streams, jnp.tanh)
    shuffled, shuffled_maps = module(streams[:, order], jnp.tanh)
    np.testing.assert_allclose(shuffled, new[:, order], rtol=0, atol=1e-6)
    np.testing.assert_allclose(shuffled_maps.h_res, maps.h_res[:, order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("h_res", KINDS)
def test_bfloat16_streams_keep_float32_maps(h_res):
    streams, module = streams_apart().astype(jnp.bfloat16), perturbed(h_res)
    new, maps = module(streams, random_sublayer(0))
    assert new.dtype == jnp.bfloat16
    assert reduce_streams(new).dtype == jnp.bfloat16
    _, exact = module(streams.astype(jnp.float32), random_sublayer(0))
    for ours, expected in zip(jax.tree.leaves(maps), jax.tree.leaves(exact), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_maps_do_not_depend_on_the_scale_of_the_streams():
    weights, config = weights_of(perturbed()), perturbed().config
    small, large = (hyper_maps(weights, scale * streams_apart(), config) for scale in (1e-6, 1e6))
    for one, other in zip(jax.tree.leaves(small), jax.tree.leaves(large), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e15])
def test_gradients_are_finite_for_streams_of_extreme_size(value):
    weights, config = weights_of(perturbed()), perturbed().config

    def objective(streams):
        maps = hyper_maps(weights, streams, config)
        return jnp.sum(maps.h_pre**2) + jnp.sum(maps.h_post**2) + jnp.sum(maps.h_res**2)

    grad = jax.grad(objective)(jnp.full((1, 2, N, WIDTH), value, jnp.float32))
    assert np.isfinite(grad).all()


def test_jit_and_vmap_agree_with_plain_calls():
    module, sublayer = perturbed(), random_sublayer(0)
    graphdef, state = nnx.split(module)
    batch = jnp.stack([streams_apart(seed) for seed in range(3)])

    @jax.jit
    def apply(state, batch):
        return jax.vmap(lambda streams: nnx.merge(graphdef, state)(streams, sublayer))(batch)

    new, maps = apply(state, batch)
    for i, streams in enumerate(batch):
        expected, expected_maps = module(streams, sublayer)
        np.testing.assert_allclose(new[i], expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(maps.h_res[i], expected_maps.h_res, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": 1}, "2 to 16.*turn the hyper-connections off"),
        ({"streams": 5, "h_res": "birkhoff"}, "2 to 4"),
        ({"h_res": "sinkhon"}, "Did you mean 'sinkhorn'"),
        ({"iterations": 0}, "at least 1"),
        ({"residual_logit": 0.0}, "negative"),
    ],
)
def test_a_config_that_cannot_work_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        HyperConnectionConfig(**{"streams": 4, "h_res": "sinkhorn", "iterations": 20, **options})
