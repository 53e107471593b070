"""Velocities of genes as velocities of a representation z = f(x), by the chain rule.

    linear   z = (x - mean) W:   dz/dt = V W,  with the same W
    encoder  z = f(x):           dz/dt = J_f(x) V,  a Jacobian-vector product (forward mode)
    log      x = log(1 + s):     dx/dt = V / (1 + s),  for velocities V of counts s

A representation without a known map is the business of `wound_jax.data.velocity.graph`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Encoder = Callable[[Float[Array, "cells genes"]], Float[Array, "cells dims"]]


def project_linear(
    velocity: Float[np.ndarray, "cells genes"], loadings: Float[np.ndarray, "genes dims"]
) -> Float[np.ndarray, "cells dims"]:
    """V W, for a representation that is linear in the genes (a PCA, a factor model).

    Args:
        velocity: [cells, genes], change of the expression the loadings act on; NaN entries are
            genes without a velocity and count as 0, a cell of NaN throughout stays unknown.
        loadings: W, [genes, dims], as used for the representation itself.

    Returns:
        float32 [cells, dims]; NaN rows where the velocity is unknown.
    """
    known = ~np.all(np.isnan(velocity), axis=1)
    projected = np.nan_to_num(velocity, nan=0.0) @ np.asarray(loadings, dtype=np.float32)
    return np.where(known[:, None], projected, np.nan).astype(np.float32)


def project_encoder(
    encoder: Encoder,
    expression: Float[np.ndarray, "cells genes"],
    velocity: Float[np.ndarray, "cells genes"],
    *,
    batch_size: int = 256,
) -> Float[np.ndarray, "cells dims"]:
    """J_f(x) v of each cell, for a differentiable encoder f.

    Args:
        encoder: maps [cells, genes] to [cells, dims], each cell by itself.
        expression: x, [cells, genes], in the encoder's own scale.
        velocity: v, [cells, genes], change of x; NaN as in `project_linear`.
        batch_size: cells at once. The last batch is filled up, so that one shape is compiled.

    Returns:
        float32 [cells, dims]; NaN rows where the velocity is unknown.
    """

    @jax.jit
    def push(x: Array, v: Array) -> Array:
        return jax.jvp(encoder, (x,), (v,))[1]

    known = ~np.all(np.isnan(velocity), axis=1)
    parts = []
    for start in range(0, len(expression), batch_size):
        # Positions past the end repeat the last cell and are cut off below.
        rows = np.minimum(np.arange(start, start + batch_size), len(expression) - 1)
        x = jnp.asarray(expression[rows], jnp.float32)
        v = jnp.asarray(np.nan_to_num(velocity[rows], nan=0.0), jnp.float32)
        parts.append(np.asarray(push(x, v), dtype=np.float32))
    projected = np.concatenate(parts)[: len(expression)]
    return np.where(known[:, None], projected, np.float32(np.nan))


def log1p_velocity(
    velocity: Float[np.ndarray, "cells genes"], counts: Float[np.ndarray, "cells genes"]
) -> Float[np.ndarray, "cells genes"]:
    """The velocity of log(1 + s), given that of the normalised counts s: V / (1 + s)."""
    return velocity / (1.0 + counts)


def loadings_agreement(
    expression: Float[np.ndarray, "cells genes"],
    loadings: Float[np.ndarray, "genes dims"],
    representation: Float[np.ndarray, "cells dims"],
) -> float:
    """How well expression times loadings reproduces a representation, up to its centre.

    A velocity is projected by the representation's own W or by something else altogether; this
    tells the two apart. 1 is exact.

    Returns:
        The correlation over all entries of the two matrices, columns centred.
    """
    a = expression @ np.asarray(loadings, dtype=np.float32)
    a = a - a.mean(axis=0)
    b = representation - representation.mean(axis=0)
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / scale if scale > 0 else 0.0
