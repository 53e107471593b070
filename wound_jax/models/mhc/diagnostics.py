"""Health of the residual streams: the gain of the composite mixing, and how far streams differ.

The composite of a token is `H_L ... H_2 H_1`. Its row sums are the gain of the forward signal, its
column sums that of the backward signal (arXiv 2512.24880, section 5.4); both are one where every
`H_res` is doubly stochastic.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wound_jax.arrays import CellMask, Scalar
from wound_jax.errors import UserError

HIGHEST = jax.lax.Precision.HIGHEST


def composite_gains(
    h_res: Sequence[Float[Array, "#sets #cells streams streams"]], mask: CellMask
) -> dict[str, Scalar]:
    """Extreme row and column sums of the composite mixing, averaged over tokens.

    The product is taken per token and averaged after: a token's residual path passes through its
    own maps, so that this is the mean of mixings that happen, and it keeps what a token's maps have
    in common from layer to layer. The product of averaged maps is a mixing that no token meets; an
    average over tokens comes out nearly doubly stochastic before it is ever multiplied. Averaging
    hides what single tokens do in opposite directions; drift common to the tokens stays visible.

    Args:
        h_res: the maps of the sublayers, first sublayer first; axes (output, input stream). Axes of
            size one stand for a map that all tokens share.
        mask: the tokens that count.

    Returns:
        `forward_gain_min`, `forward_gain_max` (row sums) and `backward_gain_min`,
        `backward_gain_max` (column sums), float32 scalars; minima show what maxima cannot,
        attenuation. NaN where no token counts.

    Raises:
        UserError: no map was given.
    """
    if not h_res:
        raise UserError("composite_gains was given no map; pass the h_res of at least one sublayer")
    maps = [_as_float(h) for h in h_res]
    # Row and column sums are linear: the vector of ones through the maps gives them.
    forward = backward = jnp.ones(maps[0].shape[:-1], maps[0].dtype)
    for h in maps:
        forward = jnp.einsum("...ij,...j->...i", h, forward, precision=HIGHEST)
    for h in reversed(maps):
        backward = jnp.einsum("...ij,...i->...j", h, backward, precision=HIGHEST)
    rows, columns = _token_mean(forward, mask), _token_mean(backward, mask)
    return {
        "forward_gain_min": rows.min(),
        "forward_gain_max": rows.max(),
        "backward_gain_min": columns.min(),
        "backward_gain_max": columns.max(),
    }


def stream_spread(streams: Float[Array, "sets cells streams hidden"], mask: CellMask) -> Scalar:
    """The share of the streams' variance that lies between the streams of a token.

    `sum_h E_t Var_n X_tnh / sum_h Var_tn X_tnh` over tokens `t` that count, streams `n` and
    features `h`: 0 for streams that are copies, 1 if tokens differ in nothing but their streams.

    Args:
        streams: the residual streams.
        mask: the tokens that count.

    Returns:
        A float32 scalar in [0, 1]; 0 where nothing varies, NaN where no token counts.
    """
    x = _as_float(streams)
    token_means = x.mean(axis=-2)
    between_streams = _token_mean(jnp.square(x - token_means[..., None, :]).mean(axis=-2), mask)
    centre = _token_mean(token_means, mask)
    between_tokens = _token_mean(jnp.square(token_means - centre[None, None]), mask)
    within, total = between_streams.sum(), (between_streams + between_tokens).sum()
    return jnp.where(total == 0, 0.0, within / jnp.where(total == 0, 1.0, total))


def _as_float(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _token_mean(values: Float[Array, "#sets #cells dims"], mask: CellMask) -> Float[Array, " dims"]:
    counted = jnp.where(mask[..., None], values, 0)
    return counted.sum(axis=(0, 1)) / mask.sum()
