"""From equal streams to different ones: which gradients flow at which step, and why H_pre leans."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wound_jax.models.mhc import (
    HyperConnection,
    HyperConnectionConfig,
    expand_streams,
    reduce_streams,
)
from wound_jax.models.mhc.diagnostics import stream_spread

N, WIDTH, DEPTH = 4, 6, 3
RATE = 0.3
X, TARGET = np.random.default_rng(0).normal(size=(2, 2, 5, WIDTH))
INNER = np.random.default_rng(1).normal(size=(DEPTH, WIDTH, WIDTH))


class Stack:
    """Three connections around fixed sublayers, trained by gradient descent in float64."""

    def __init__(self, h_res: str):
        config = HyperConnectionConfig(N, h_res, 20, residual_logit=-3.0)
        modules = nnx.List(
            [HyperConnection(WIDTH, config, i, rngs=nnx.Rngs(0)) for i in range(DEPTH)]
        )
        self.graphdef, state = nnx.split(modules)
        self.weights = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state)
        self.gradient = jax.jit(jax.grad(self.loss))

    def carry(self, weights) -> jax.Array:
        streams = expand_streams(jnp.asarray(X), N)
        for i, module in enumerate(nnx.merge(self.graphdef, weights)):
            streams, _ = module(streams, lambda x, i=i: jnp.tanh(x @ INNER[i]))
        return streams

    def loss(self, weights) -> jax.Array:
        return jnp.mean((reduce_streams(self.carry(weights)) - TARGET) ** 2)

    def step(self) -> list[dict[str, np.ndarray]]:
        """One step of descent; the gradients that drove it, per sublayer, split by column."""
        grads = self.gradient(self.weights)
        self.weights = jax.tree.map(lambda w, g: w - RATE * g, self.weights, grads)
        flat = {path: np.asarray(value[...]) for path, value in nnx.to_flat_state(grads)}
        sublayers = [{str(p[1]): v for p, v in flat.items() if p[0] == i} for i in range(DEPTH)]
        for sublayer in sublayers:
            pre, post, res = np.split(sublayer.pop("phi"), (N, 2 * N), axis=1)
            sublayer |= {"phi_pre": pre, "phi_post": post, "phi_res": res}
        return sublayers

    def spread(self) -> float:
        streams = self.carry(self.weights)
        return float(stream_spread(streams, jnp.ones(streams.shape[:2], bool)))


def moving(gradients: dict[str, np.ndarray]) -> set[str]:
    """The parameters whose gradient is not zero up to rounding (float64)."""
    return {name for name, value in gradients.items() if np.abs(value).max(initial=0) > 1e-13}


@pytest.mark.parametrize("h_res", ["sinkhorn", "birkhoff"])
def test_which_parameters_move_at_which_step(h_res):
    first = {"b_pre", "b_post", "phi_pre", "phi_post"}
    second = first | {"a_pre", "a_post", "b_res", "phi_res"}
    with jax.enable_x64(True):
        stack = Stack(h_res)
        steps = [stack.step() for _ in range(3)]
    with_mixing = [first, second, second | {"a_res"}]
    without_mixing = [first, first | {"a_pre", "a_post"}, first | {"a_pre", "a_post"}]
    moved = [[moving(gradients[i]) for gradients in steps] for i in range(DEPTH)]
    # Mixing does nothing to the copies that the first sublayer sees.
    assert moved[:2] == [without_mixing, with_mixing]
    if h_res == "birkhoff":
        # Nor, with exact columns, to the mean that is taken after the last.
        assert moved[2] == without_mixing


@pytest.mark.parametrize("h_res", ["sinkhorn", "birkhoff", "identity"])
def test_streams_part_after_one_step(h_res):
    with jax.enable_x64(True):
        stack = Stack(h_res)
        assert stack.spread() < 1e-25
        before = float(stack.loss(stack.weights))
        stack.step()
        assert stack.spread() > 1e-8
        assert float(stack.loss(stack.weights)) < before


def test_equal_reading_weights_would_keep_the_streams_equal_for_ever():
    with jax.enable_x64(True):
        stack = Stack("sinkhorn")
        equal = jnp.full(N, np.log((1 / N) / (1 - 1 / N)))
        for i in range(DEPTH):
            stack.weights[i]["b_pre"] = stack.weights[i]["b_pre"].replace(equal)
        before = float(stack.loss(stack.weights))
        for _ in range(10):
            stack.step()
        assert float(stack.loss(stack.weights)) < before
        assert stack.spread() < 1e-25
