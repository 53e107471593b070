"""What a set transformer may be told of a set's day and of its cells, beside their features.

categorical day   one learned vector a day; an unseen day gets their mean
continuous day    linear map of [sin(2 pi t / P), cos(2 pi t / P)] for periods P of 2 to 256
                  days (as positions in Vaswani et al. 2017), so that an unseen day can be asked
scalars           weight * linear map of standardised scalars of each control cell
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wound_jax.models.layers import linear

_PERIODS = 16


class DayEncoder(nnx.Module):
    """Sinusoids of the day, mapped to the hidden width."""

    def __init__(self, hidden: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.map = linear(2 * _PERIODS, hidden, dtype=dtype, rngs=rngs)

    def __call__(self, day: Float[Array, "sets"]) -> Float[Array, "sets hidden"]:
        """The vector of each day (days after injury)."""
        periods = 2.0 ** jnp.linspace(1.0, 8.0, _PERIODS)
        angle = 2 * jnp.pi * day[:, None] / periods
        return self.map(jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1))


class ScalarEncoder(nnx.Module):
    """A linear map of scalar features, with one learned weight in front."""

    def __init__(
        self,
        scalars: int,
        hidden: int,
        initial_weight: float,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.map = linear(scalars, hidden, dtype=dtype, rngs=rngs)
        self.weight_scale = nnx.Param(jnp.asarray(initial_weight, jnp.float32))

    def __call__(
        self, values: Float[Array, "sets cells scalars"]
    ) -> Float[Array, "sets cells hidden"]:
        """The vector of each cell."""
        return self.weight_scale[...] * self.map(values)
