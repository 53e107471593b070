"""A stand-in for the embedding of a foundation model: smooth, nonlinear, frozen, with noise.

`e = tanh(((x - c) P / s) W1 + b1) W2 + noise`: `P` are the leading right singular vectors of all
programs (what a principal component analysis of such cells finds), `c` the mean type, `s` the
spread of the types, `W1, b1, W2` random (random features: Rahimi and Recht 2007). The map depends
on the seed, the genes and the width, not on the cells.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wound_jax.data.synthetic.design import MICE
from wound_jax.data.synthetic.expression import Tissue
from wound_jax.data.synthetic.streams import Ingredient, stream

N_DIRECTIONS = 64
N_FEATURES = 256
NOISE_SD = 0.05


@dataclass(frozen=True)
class Embedding:
    """The frozen map from log1p counts per 10,000 to the embedding.

    Attributes:
        centre: expression of the mean type.
        directions: projection, already divided by the spread of the types.
        inner: weights of the first layer.
        bias: bias of the first layer.
        outer: weights of the second layer.
    """

    centre: Float[np.ndarray, " genes"]
    directions: Float[np.ndarray, "genes directions"]
    inner: Float[np.ndarray, "directions features"]
    bias: Float[np.ndarray, " features"]
    outer: Float[np.ndarray, "features dims"]

    def embed(
        self, rng: np.random.Generator, expression: Float[np.ndarray, "cells genes"]
    ) -> Float[np.ndarray, "cells dims"]:
        """Embeds cells, float32; `rng` draws the noise."""
        position = (expression - self.centre) @ self.directions
        features = np.tanh(position @ self.inner + self.bias)
        mapped = features @ self.outer
        return mapped + NOISE_SD * rng.standard_normal(mapped.shape, dtype=np.float32)


def draw_embedding(tissue: Tissue, dims: int, seed: int) -> Embedding:
    """Draws the map.

    Args:
        tissue: gives the genes, the programs and the mean types.
        dims: width of the embedding.
        seed: seed of the set.
    """
    rng = stream(seed, Ingredient.EMBEDDING)
    types = tissue.typical().log1p_cp10k()
    centre = types.mean(axis=0)
    # Mice are left out: their loadings are noise over all genes.
    states = tissue.programs.loadings[len(types) : -len(MICE)]
    moving = [types - centre, states, tissue.effects.loadings]
    _, _, right = np.linalg.svd(np.concatenate(moving), full_matrices=False)
    directions = right[:N_DIRECTIONS].T
    spread = np.sqrt(np.mean(np.square((types - centre) @ directions)))
    width = directions.shape[1]
    inner = rng.standard_normal((width, N_FEATURES)) / np.sqrt(width)
    bias = 0.5 * rng.standard_normal(N_FEATURES)
    outer = rng.standard_normal((N_FEATURES, dims)) / np.sqrt(N_FEATURES)
    parts = (centre, directions / spread, inner, bias, outer)
    return Embedding(*(part.astype(np.float32) for part in parts))
