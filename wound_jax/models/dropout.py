"""Dropout whose random words are computed inside the arithmetic around them.

Word `i` of a key is the first word of Threefry-2x32 with 13 rounds (Salmon et al. 2011,
doi:10.1145/2063384.2063405) of the counter `(i, 0)`: the fewest rounds of that generator that pass
BigCrush (their Table 2). `jax.random.bernoulli` takes 20 rounds, on a CPU in a loop that writes
all words to memory a few rounds at a time: 20 times as long as the multiplication it serves.

A word depends on its place alone, not on how an array is divided among devices, and the mask is
drawn again from the key in the backward pass instead of being kept.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, UInt32

KeyWords = UInt32[Array, "2"]

ROUNDS = 13
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def dropout(x: Array, rate: float, rngs: nnx.Rngs | None) -> Array:
    """Inverted dropout; the identity where `rngs` is None (evaluation) or the rate is 0."""
    if rngs is None or rate == 0.0:
        return x
    return _drop(x, jax.random.key_data(rngs.dropout())[:2], rate)


def threefry(
    key: KeyWords, counter: tuple[Array, Array], rounds: int = ROUNDS
) -> tuple[Array, Array]:
    """Both words of Threefry-2x32 at each counter.

    Args:
        key: two words.
        counter: two words each, uint32, of shapes that broadcast.
        rounds: of the mixing; 20 gives the words of `jax.random`.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    first, second = counter[0] + keys[0], counter[1] + keys[1]
    for i in range(rounds):
        shift = _ROTATIONS[i // 4 % 2][i % 4]
        first = first + second
        second = ((second << shift) | (second >> (32 - shift))) ^ first
        if i % 4 == 3:
            injection = i // 4 + 1
            first = first + keys[injection % 3]
            second = second + keys[(injection + 1) % 3] + jnp.uint32(injection)
    return first, second


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _drop(x: Array, key: KeyWords, rate: float) -> Array:
    words, _ = threefry(key, (_places(x.shape), jnp.uint32(0)))
    keep = words >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def _drop_forward(x: Array, key: KeyWords, rate: float) -> tuple[Array, KeyWords]:
    return _drop(x, key, rate), key


def _drop_backward(rate: float, key: KeyWords, cotangent: Array) -> tuple[Array, None]:
    return _drop(cotangent, key, rate), None


_drop.defvjp(_drop_forward, _drop_backward)


def _places(shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """The place of each entry in row-major order, modulo 2^32."""
    places, stride = jnp.zeros(shape, jnp.uint32), 1
    for axis in reversed(range(len(shape))):
        along = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        places = places + along * jnp.uint32(stride % 2**32)
        stride *= shape[axis]
    return places
