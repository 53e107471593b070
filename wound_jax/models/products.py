"""Matrix products and their gradients, in the forms that backends compute fast.

    y = x w,        dL/dx = g w^T,        dL/dw = x^T g

Float32 products are left to JAX. bfloat16 products sum in float32 on every backend. What differs
is what the compiler makes of them: XLA's CPU backend multiplies bfloat16 in the matrix units of a
processor that has them (AMX) where the product is asked for in float32 and neither operand has to
be transposed along its rows; otherwise it converts both operands to float32 first, at a fifth of
the speed. Weights are float32, and so is the gradient of a weight, without a rounding in between.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_ROWS = (((0,), (0,)), ((), ()))
_COLUMNS = (((1,), (1,)), ((), ()))


def product(
    x: Float[Array, "rows fan_in"], kernel: Float[Array, "fan_in fan_out"]
) -> Float[Array, "rows fan_out"]:
    """`x kernel` in the dtype of `x`, whatever that of the kernel."""
    if x.dtype != jnp.bfloat16:
        return jnp.matmul(x, kernel.astype(x.dtype))
    return _half_product(x, kernel)


@jax.custom_vjp
def _half_product(x: Array, kernel: Array) -> Array:
    return _multiply(x, kernel.astype(x.dtype), (((1,), (0,)), ((), ())))


def _half_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _half_product(x, kernel), (x, kernel)


def _half_backward(kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = kept
    of_x = _multiply(cotangent, kernel.astype(x.dtype), _COLUMNS)
    return of_x, _multiply_rows(x, cotangent).astype(kernel.dtype)


_half_product.defvjp(_half_forward, _half_backward)


def _multiply(x: Array, y: Array, dimensions: tuple) -> Array:
    """A product of bfloat16 matrices, rounded to bfloat16 once."""

    def directly(x: Array, y: Array) -> Array:
        return jax.lax.dot_general(x, y, dimensions)

    def in_float32(x: Array, y: Array) -> Array:
        sums = jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)
        return sums.astype(x.dtype)

    return jax.lax.platform_dependent(x, y, cpu=in_float32, default=directly)


def _multiply_rows(x: Array, y: Array) -> Float[Array, "fan_in fan_out"]:
    """`x^T y` in float32, for bfloat16 matrices."""

    def directly(x: Array, y: Array) -> Array:
        return jax.lax.dot_general(x, y, _ROWS, preferred_element_type=jnp.float32)

    def transposed(x: Array, y: Array) -> Array:
        return jnp.matmul(_transposed(x), y, preferred_element_type=jnp.float32)

    def result_transposed(x: Array, y: Array) -> Array:
        return _transposed(transposed(y, x))

    rows, width, other = *x.shape, y.shape[1]
    # What is transposed is read down its columns, which is slow for wide rows (caches); the result
    # can only be transposed in halves if it has an even number of rows.
    narrow_y = other < width and other % 2 == 0
    fast = result_transposed if narrow_y else transposed
    cpu = directly if rows % 2 else fast
    return jax.lax.platform_dependent(x, y, cpu=cpu, default=directly)


def _transposed(x: Float[Array, "rows width"]) -> Float[Array, "width rows"]:
    """`x^T` as an array that XLA does not take back into the product; rows are even in number."""
    return x.reshape(2, -1, x.shape[1]).transpose(2, 0, 1).reshape(x.shape[1], -1)


@jax.custom_vjp
def add_offset(
    rows: Float[Array, "rows width"], offset: Float[Array, " width"]
) -> Float[Array, "rows width"]:
    """`rows + offset` in the dtype of the rows; the gradient of the offset sums in float32."""
    return rows + offset.astype(rows.dtype)[None]


def _offset_forward(rows: Array, offset: Array) -> tuple[Array, Array]:
    # The offset is kept for its dtype alone.
    return add_offset(rows, offset), offset


def _offset_backward(offset: Array, cotangent: Array) -> tuple[Array, Array]:
    # A bfloat16 sum over rows is also what XLA's CPU backend is slow at: 10 ms against 1 ms.
    return cotangent, cotangent.sum(0, dtype=jnp.float32).astype(offset.dtype)


add_offset.defvjp(_offset_forward, _offset_backward)


def narrow_product(
    x: Float[Array, "rows fan_in"],
    a: Float[Array, "fan_in rank"],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "rows rank"]:
    """`x a` for a narrow `a`, whose gradient `x^T g` is computed as the transpose of `g^T x`.

    The direct form walks down the columns of `x`; for 2,048 rows of width 2,048 and rank 16 it
    takes XLA's CPU backend 6 to 13 times as long.
    """
    return _narrow(x, a, precision)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _narrow(x: Array, a: Array, precision: jax.lax.Precision | None) -> Array:
    return jnp.matmul(x, a, precision=precision)


def _narrow_forward(
    x: Array, a: Array, precision: jax.lax.Precision | None
) -> tuple[Array, tuple[Array, Array]]:
    return _narrow(x, a, precision), (x, a)


def _narrow_backward(
    precision: jax.lax.Precision | None, kept: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
    x, a = kept
    of_a = narrow_gradient(x, cotangent, precision).astype(a.dtype)
    return jnp.matmul(cotangent, a.T, precision=precision), of_a


_narrow.defvjp(_narrow_forward, _narrow_backward)


def narrow_gradient(
    x: Float[Array, "rows fan_in"],
    cotangent: Float[Array, "rows rank"],
    precision: jax.lax.Precision | None = None,
) -> Float[Array, "fan_in rank"]:
    """`x^T g`, the gradient of a narrow matrix, computed as the transpose of `g^T x`.

    For bfloat16 `x` the cotangent is rounded to bfloat16, as in every gradient of a weight, and
    the product sums in float32.
    """
    if x.dtype == jnp.bfloat16:
        transposed = _multiply_rows(cotangent.astype(x.dtype), x)
    else:
        transposed = jax.lax.dot_general(cotangent, x, _ROWS, precision=precision)
    # The barrier keeps XLA from turning the transposed product into the direct one.
    return jax.lax.optimization_barrier(transposed).T
