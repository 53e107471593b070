"""One manifold-constrained hyper-connection around one sublayer (arXiv 2512.24880, Eq. 3 and 7-8).

Per token, with `X` [n, C] the residual streams and `z = vec(X) phi / rms(vec(X))`:

    H_pre  = sigmoid(a_pre z_pre + b_pre)            what the sublayer reads,  [n]
    H_post = 2 sigmoid(a_post z_post + b_post)       where its output goes,    [n]
    H_res  = SK(a_res mat(z_res) + b_res)            how the streams mix,      [n, n]
    X'     = H_res @ X + H_post^T F(H_pre @ X)

`H_res` multiplies from the left: its rows are the output streams.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wound_jax.arrays import CellHidden
from wound_jax.errors import UserError, unknown_name
from wound_jax.models.layers import along_last
from wound_jax.models.mhc.doubly_stochastic import (
    mix_permutations,
    permutation_count,
    sinkhorn_knopp,
)
from wound_jax.models.mhc.streams import (
    StreamMatrix,
    Streams,
    StreamWeights,
    map_dtype,
    project_streams,
    read_streams,
    reduce_streams,
    write_branch,
    write_streams,
)

Sublayer = Callable[[CellHidden], CellHidden]

MAX_STREAMS = 16
# 24 permutations of 4 streams; 5 would take 120 logits where `sinkhorn` takes 25.
MAX_BIRKHOFF_STREAMS = 4
DYNAMIC_SCALE = 0.01
# What a sublayer reads at the start from each stream but its own.
OFF_STREAM_WEIGHT = 0.05


@dataclass(frozen=True)
class HyperConnectionConfig:
    """What a hyper-connection is made of.

    Attributes:
        streams: residual streams `n`, 2 to 16 (`birkhoff`: at most 4).
        h_res: `sinkhorn` (Sinkhorn-Knopp of n x n logits), `birkhoff` (a mixture of the `n!`
            permutations, exact), or `identity` (the streams are not mixed: the ablation).
        iterations: Sinkhorn rounds, at least 1; read by `sinkhorn` alone.
        residual_logit: where the logits of `H_res` start off its diagonal (`birkhoff`: off the
            identity permutation); negative. -3 or -4 passes more gradient than -8.
        remat: recompute the three maps in the backward pass instead of keeping what led to them.
    """

    streams: int
    h_res: str
    iterations: int
    residual_logit: float = -8.0
    remat: bool = False

    def __post_init__(self) -> None:
        kinds = ("sinkhorn", "birkhoff", "identity")
        if self.h_res not in kinds:
            raise unknown_name("h_res", self.h_res, kinds)
        most = MAX_BIRKHOFF_STREAMS if self.h_res == "birkhoff" else MAX_STREAMS
        if not 2 <= self.streams <= most:
            raise UserError(
                f"streams = {self.streams}, but h_res = {self.h_res!r} takes 2 to {most}. "
                "For a single stream turn the hyper-connections off."
            )
        if self.iterations < 1:
            raise UserError(f"iterations = {self.iterations}, but at least 1 is needed; try 20.")
        if not self.residual_logit < 0:
            raise UserError(
                f"residual_logit = {self.residual_logit}, but H_res starts near the identity only "
                "if it is negative; try -8."
            )

    @property
    def residual_width(self) -> int:
        """How many logits `H_res` is made from."""
        sinkhorn = self.streams**2
        widths = {"sinkhorn": sinkhorn, "birkhoff": permutation_count(self.streams), "identity": 0}
        return widths[self.h_res]


class HyperMaps(NamedTuple):
    """The three maps of one sublayer for every token, in float32, as diagnostics read them.

    Attributes:
        h_pre: weights of the streams in the sublayer's input.
        h_post: weights of the sublayer's output in the streams.
        h_res: the mixing of the streams; axes (output stream, input stream).
    """

    h_pre: StreamWeights
    h_post: StreamWeights
    h_res: StreamMatrix


def hyper_maps(
    weights: dict[str, Array], streams: Streams, config: HyperConnectionConfig
) -> HyperMaps:
    """The maps of every token (module docstring), in float32 whatever the dtype of the streams.

    Args:
        weights: the parameters of a `HyperConnection` by name.
        streams: the residual streams; float64 streams give float64 maps.
        config: the form of `H_res`.

    Returns:
        The three maps; `H_res` is the identity matrix where the config says so.
    """
    n = config.streams
    z = project_streams(streams, weights["phi"])
    pre, post, res = jnp.split(z, (n, 2 * n), axis=-1)
    h_pre = jax.nn.sigmoid(weights["a_pre"] * pre + along_last(weights["b_pre"], pre))
    h_post = 2 * jax.nn.sigmoid(weights["a_post"] * post + along_last(weights["b_post"], post))
    if config.h_res == "identity":
        h_res = jnp.broadcast_to(jnp.eye(n, dtype=z.dtype), (*z.shape[:-1], n, n))
    elif config.h_res == "birkhoff":
        logits = weights["a_res"] * res + along_last(weights["b_res"], res)
        h_res = mix_permutations(logits, n)
    else:
        res = res.reshape(*res.shape[:-1], n, n)
        logits = weights["a_res"] * res + along_last(weights["b_res"], res)
        h_res = sinkhorn_knopp(logits, config.iterations)
    return HyperMaps(h_pre=h_pre, h_post=h_post, h_res=h_res)


class HyperConnection(nnx.Module):
    """A hyper-connection of its own for one sublayer; at the start it is the plain residual.

    Parameters, all float32: `phi` [streams * hidden, 2 * streams + logits of H_res] (columns: pre,
    post, then H_res row by row), the scalars `a_pre`, `a_post`, `a_res`, and the biases `b_pre`
    [streams], `b_post` [streams], `b_res` [streams, streams] or one per permutation. `identity`
    has neither `a_res` nor `b_res`. The `a_*` and `b_*` take no weight decay.

    Start: `phi = 0`, `H_post = 1`, `H_pre` sums to one, `H_res` has rows that sum to one. Streams
    that are copies of each other stay so, and each of them is the plain residual network. `H_pre`
    leans to another stream at each sublayer: with equal weights everywhere the streams would also
    receive equal gradients and never part.

    Gradients: at the first step `b_pre`, `b_post` and their columns of `phi` move. `a_*` cannot
    (`phi = 0`), nor `b_res` and its columns (equal streams, and rows that sum to one whatever the
    logits). Those, and `a_pre` and `a_post`, move from the second step, `a_res` from the third.
    At two places mixing does nothing, and `a_res`, `b_res` and their columns of `phi` rest: at the
    first sublayer after `expand_streams` (equal streams), and at the last one before
    `reduce_streams`, as far as the columns of `H_res` sum to one.
    """

    def __init__(
        self, hidden: int, config: HyperConnectionConfig, sublayer_index: int, *, rngs: nnx.Rngs
    ):
        """Lay out the parameters.

        Args:
            hidden: width of one stream.
            config: number of streams and form of `H_res`.
            sublayer_index: place of the sublayer in the network, from 0, attention and MLP
                counted separately; decides the stream that `H_pre` leans to.
            rngs: taken as every module takes it; no initial value is random.
        """
        del rngs
        n = config.streams
        self.config = config
        self.phi = nnx.Param(jnp.zeros((n * hidden, 2 * n + config.residual_width), jnp.float32))
        self.a_pre = nnx.Param(jnp.array(DYNAMIC_SCALE, jnp.float32))
        self.a_post = nnx.Param(jnp.array(DYNAMIC_SCALE, jnp.float32))
        self.b_pre = nnx.Param(_initial_b_pre(n, sublayer_index % n))
        self.b_post = nnx.Param(jnp.zeros(n, jnp.float32))
        if config.h_res != "identity":
            self.a_res = nnx.Param(jnp.array(DYNAMIC_SCALE, jnp.float32))
            self.b_res = nnx.Param(_initial_b_res(config))

    def __call__(self, streams: Streams, sublayer: Sublayer) -> tuple[Streams, HyperMaps]:
        """Carry the streams over the sublayer.

        Args:
            streams: the residual streams.
            sublayer: the branch alone, with its pre-norm and without a residual of its own.

        Returns:
            The new streams in the dtype of `streams`, and the maps (float32).
        """
        compute = partial(hyper_maps, config=self.config)
        if self.config.remat:
            compute = jax.checkpoint(compute)
        maps = compute(self._weights(), streams)
        branch = sublayer(read_streams(streams, maps.h_pre))
        if self.config.h_res == "identity":
            return write_branch(streams, branch, maps.h_post), maps
        return write_streams(streams, branch, maps.h_post, maps.h_res), maps

    def _weights(self) -> dict[str, Array]:
        names = ["phi", "a_pre", "a_post", "b_pre", "b_post"]
        if self.config.h_res != "identity":
            names += ["a_res", "b_res"]
        return {name: getattr(self, name)[...] for name in names}


class PlainStreams(nnx.Module):
    """A plain residual among streams: `X' = X + F(mean of the streams)`, without parameters.

    For the sublayers that go without hyper-connections while the streams persist. It is a
    hyper-connection with `H_res = I`, `H_pre = 1/n` and `H_post = 1`: the mean of the streams takes
    the step `m' = m + F(m)` of a plain residual, and their differences pass untouched.
    """

    def __call__(self, streams: Streams, sublayer: Sublayer) -> tuple[Streams, HyperMaps]:
        """Carry the streams over the sublayer; arguments and results as in `HyperConnection`."""
        n = streams.shape[-2]
        dtype = map_dtype(streams)
        ones = jnp.ones(streams.shape[:-1], dtype)
        h_res = jnp.broadcast_to(jnp.eye(n, dtype=dtype), (*ones.shape, n))
        maps = HyperMaps(h_pre=ones / n, h_post=ones, h_res=h_res)
        branch = sublayer(reduce_streams(streams))
        return write_branch(streams, branch, maps.h_post), maps


def _initial_b_pre(n: int, own_stream: int) -> Float[Array, "streams"]:
    own = 1 - (n - 1) * OFF_STREAM_WEIGHT
    off_logit, own_logit = (math.log(p / (1 - p)) for p in (OFF_STREAM_WEIGHT, own))
    return jnp.full(n, off_logit, jnp.float32).at[own_stream].set(own_logit)


def _initial_b_res(config: HyperConnectionConfig) -> Array:
    if config.h_res == "birkhoff":
        # The identity is the first permutation.
        return jnp.full(config.residual_width, config.residual_logit, jnp.float32).at[0].set(0.0)
    return config.residual_logit * (1 - jnp.eye(config.streams, dtype=jnp.float32))
