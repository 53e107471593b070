"""Doubly stochastic matrices as mixtures of permutations: exact, without iterations.

`H = sum_p softmax(logits)_p P_p` over all `n!` permutation matrices `P_p`. By the theorem of
Birkhoff and von Neumann every doubly stochastic matrix is of this form (arXiv 2601.05732).
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


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
