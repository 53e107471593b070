"""What a hyper-connection does to the residual streams `X` [n, C] of every token.

    entry       X_i = x                       exit       mean_i X_i
    read        H_pre @ X                     write      H_res @ X + H_post^T branch
    project     vec(X) phi / rms(vec(X))

The streams are `n` times as large as the hidden state and the maps are tiny, so these are passes
over memory and hardly arithmetic. Gradients are written out where automatic ones make more passes:
a mixing by `n` x `n` is a sum of `n` terms, computed where it is needed from the streams as they
are, instead of small products of matrices that want a float32 copy of the streams before and after
them. What is kept for the backward pass is the streams in their own dtype.

Arithmetic is float32 (float64 for float64 streams) and rounds once to the dtype of the streams.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wound_jax.arrays import CellHidden
from wound_jax.models.products import narrow_gradient

Streams = Float[Array, "sets cells streams hidden"]
StreamWeights = Float[Array, "sets cells streams"]
StreamMatrix = Float[Array, "sets cells streams streams"]

HIGHEST = jax.lax.Precision.HIGHEST
RMS_EPS = 1e-20


def map_dtype(streams: Streams) -> jnp.dtype:
    """The dtype of the maps of these streams, and of all arithmetic on them."""
    return jnp.promote_types(streams.dtype, jnp.float32)


def expand_streams(x: CellHidden, n: int) -> Streams:
    """`n` copies of the hidden state, once at the entry of the network."""
    return jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], n, x.shape[-1]))


def reduce_streams(streams: Streams) -> CellHidden:
    """The mean of the streams in their own dtype, once at the exit of the network."""
    return jnp.mean(streams, axis=-2, dtype=map_dtype(streams)).astype(streams.dtype)


@jax.custom_vjp
def read_streams(streams: Streams, h_pre: StreamWeights) -> CellHidden:
    """`H_pre @ X`, the input of the sublayer, in the dtype of the streams."""
    return _weighted_sum(h_pre, streams).astype(streams.dtype)


def _read_forward(streams: Array, h_pre: Array) -> tuple[Array, tuple[Array, Array]]:
    return read_streams(streams, h_pre), (streams, h_pre)


def _read_backward(kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    streams, h_pre = kept
    of_read = cotangent.astype(map_dtype(streams))
    of_streams = h_pre[..., None] * of_read[..., None, :]
    return of_streams.astype(streams.dtype), _products_with(streams, of_read)


read_streams.defvjp(_read_forward, _read_backward)


def write_branch(streams: Streams, branch: CellHidden, h_post: StreamWeights) -> Streams:
    """`X + H_post^T branch` in the dtype of the streams, which do not mix."""
    return (streams + h_post[..., None] * branch[..., None, :]).astype(streams.dtype)


@jax.custom_vjp
def write_streams(
    streams: Streams, branch: CellHidden, h_post: StreamWeights, h_res: StreamMatrix
) -> Streams:
    """`H_res @ X + H_post^T branch` in the dtype of the streams."""
    mixed = _mix(h_res, streams) + h_post[..., None] * branch[..., None, :]
    return mixed.astype(streams.dtype)


def _write_forward(
    streams: Array, branch: Array, h_post: Array, h_res: Array
) -> tuple[Array, tuple[Array, ...]]:
    return write_streams(streams, branch, h_post, h_res), (streams, branch, h_post, h_res)


def _write_backward(kept: tuple[Array, ...], cotangent: Array) -> tuple[Array, ...]:
    streams, branch, h_post, h_res = kept
    dtype = map_dtype(streams)
    of_written, x = cotangent.astype(dtype), streams.astype(dtype)
    of_streams = _mix(jnp.swapaxes(h_res, -1, -2), cotangent).astype(streams.dtype)
    of_branch = _weighted_sum(h_post, cotangent).astype(branch.dtype)
    of_h_post = _products_with(cotangent, branch.astype(dtype))
    of_h_res = jnp.einsum("scih,scjh->scij", of_written, x, precision=HIGHEST)
    return of_streams, of_branch, of_h_post, of_h_res


write_streams.defvjp(_write_forward, _write_backward)


@jax.custom_vjp
def project_streams(
    streams: Streams, phi: Float[Array, "streams*hidden maps"]
) -> Float[Array, "sets cells maps"]:
    """`vec(X) phi / rms(vec(X))`; dividing after the product saves an array as large as `X`."""
    return _project(streams, phi)[0]


def _project(streams: Array, phi: Array) -> tuple[Array, Array]:
    """The projection and `1 / rms`."""
    flat = streams.reshape(*streams.shape[:-2], -1).astype(map_dtype(streams))
    mean_square = jnp.mean(jnp.square(flat), axis=-1, keepdims=True)
    inverse_rms = jax.lax.rsqrt(mean_square + RMS_EPS)
    return jnp.matmul(flat, phi, precision=HIGHEST) * inverse_rms, inverse_rms


def _project_forward(streams: Array, phi: Array) -> tuple[Array, tuple[Array, ...]]:
    z, inverse_rms = _project(streams, phi)
    return z, (streams, phi, z, inverse_rms)


def _project_backward(kept: tuple[Array, ...], cotangent: Array) -> tuple[Array, Array]:
    # With u = vec(X) of length N and s = 1 / rms:  z = s u phi,  ds/du = -s^3 u / N, so that
    # dL/du = s g phi^T - (g . z) s^2 u / N  and  dL/dphi = u^T (s g), over all tokens.
    streams, phi, z, inverse_rms = kept
    flat = streams.reshape(-1, phi.shape[0])
    z, of_z, inverse_rms = (a.reshape(len(flat), -1) for a in (z, cotangent, inverse_rms))
    scaled = of_z * inverse_rms
    along = jnp.sum(of_z * z, axis=-1, keepdims=True) * jnp.square(inverse_rms) / phi.shape[0]
    across = jnp.matmul(scaled, phi.T, precision=HIGHEST)
    of_streams = (across - along * flat).astype(streams.dtype).reshape(streams.shape)
    return of_streams, narrow_gradient(flat, scaled, HIGHEST).astype(phi.dtype)


project_streams.defvjp(_project_forward, _project_backward)


def _weighted_sum(weights: StreamWeights, streams: Streams) -> CellHidden:
    """`sum_j w_j X_j` in the dtype of the maps."""
    n = streams.shape[-2]
    x = streams.astype(map_dtype(streams))
    terms = [weights[..., j, None] * x[..., j, :] for j in range(n)]
    return sum(terms[1:], terms[0])


def _mix(matrix: StreamMatrix, streams: Streams) -> Streams:
    """`M @ X` in the dtype of the maps, as one elementwise pass."""
    n = streams.shape[-2]
    x = streams.astype(map_dtype(streams))
    terms = [matrix[..., :, j, None] * x[..., j, None, :] for j in range(n)]
    return sum(terms[1:], terms[0])


def _products_with(streams: Streams, hidden: CellHidden) -> StreamWeights:
    """`X_j . v` for every stream `j`, in the dtype of the maps."""
    x = streams.astype(map_dtype(streams))
    return jnp.einsum("scnh,sch->scn", x, hidden, precision=HIGHEST)
