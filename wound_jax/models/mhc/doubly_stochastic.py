"""Doubly stochastic matrices, by Sinkhorn-Knopp or as mixtures of permutations.

Sinkhorn-Knopp, columns first and rows last, nearly doubly stochastic: `M_0 = exp(L)`, `M_t =
T_rows(T_columns(M_{t-1}))` (arXiv 2512.24880, Eq. 9), where `T` divides by the sums.

Computed on the logarithms of the two scalings, `M_t = exp(L - row - column)`, which is the same
function: `exp(L - max L)` itself loses a whole row to underflow once the row lies 88 below the
maximum (float32), and the division by its sum is then 0/0.

Mixtures of permutations, exact and without iterations: `H = sum_p softmax(logits)_p P_p` over all
`n!` permutation matrices `P_p`. By the theorem of Birkhoff and von Neumann every doubly stochastic
matrix is of this form (arXiv 2601.05732).
"""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp
from jaxtyping import Array, Float


@partial(jax.jit, static_argnums=1)
def sinkhorn_knopp(logits: Float[Array, "... n n"], iterations: int) -> Float[Array, "... n n"]:
    """The matrix after `iterations` rounds of dividing by the column sums, then by the row sums.

    What `k = iterations` rounds guarantee, for every finite `logits`: the entries are not negative,
    the rows sum to one up to rounding, and the column sums average one. The columns themselves
    converge linearly. With `D = max L_ij + L_kl - L_il - L_kj` and `R = max L - min L`,

        max column sum / min column sum <= exp(R tanh(D / 4)^(2 k - 1))

    (Birkhoff's contraction, Franklin and Lorenz 1989), and more rounds never widen that ratio.
    That is close to one after 20 rounds for logits within [-1, 1] or so. Near a permutation matrix
    convergence is slow, at the rate of the squared second singular value of the limit, and the
    columns are off by at most the mass outside the permutation; logits that spread over several
    tens may stay off by more.

    Args:
        logits: any finite values; the last two axes are (output stream, input stream).
        iterations: rounds, at least 1; a Python integer.

    Returns:
        Matrices like `logits`, in float32, or float64 where `logits` is.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def one_round(column: Array, _: None) -> tuple[Array, None]:
        row = logsumexp(logits - column, axis=-1, keepdims=True)
        return logsumexp(logits - row, axis=-2, keepdims=True), None

    first_column = logsumexp(logits, axis=-2, keepdims=True)
    column, _ = jax.lax.scan(one_round, first_column, length=iterations - 1)
    # The last division by the row sums, as a softmax: its rows sum to one even where the
    # logarithms are so large that `exp(L - row - column)` would carry their rounding.
    return jax.nn.softmax(logits - column, axis=-1)


def permutation_matrices(n: int) -> Float[np.ndarray, "permutations n n"]:
    """All `n!` permutation matrices in lexicographic order, the identity first (float32)."""
    orders = list(itertools.permutations(range(n)))
    return np.eye(n, dtype=np.float32)[np.array(orders)]


def permutation_count(n: int) -> int:
    """How many logits `mix_permutations` takes for `n` streams."""
    return math.factorial(n)


def mix_permutations(logits: Float[Array, "... permutations"], n: int) -> Float[Array, "... n n"]:
    """The mixture of the permutation matrices of `n` streams with weights `softmax(logits)`.

    Args:
        logits: one per permutation, in the order of `permutation_matrices`; `n!` of them.
        n: the number of streams.

    Returns:
        Doubly stochastic up to rounding, in float32, or float64 where `logits` is.
    """
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    weights = jax.nn.softmax(logits.astype(dtype), axis=-1)
    # A product in reduced precision would round the weights and with them the sums.
    return jnp.einsum(
        "...p,pij->...ij",
        weights,
        permutation_matrices(n).astype(dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
