"""Dropout: its words are Random123's, its mask is fair, and its gradient has the same mask."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.random import threefry_2x32
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from wound_jax.models.dropout import dropout, threefry

RATE = 0.25
SHAPE = (300, 400)
N = SHAPE[0] * SHAPE[1]

# Known answers of Random123 (examples/kat_vectors): rounds, counter, key, words.
ONES, PI = (0xFFFFFFFF, 0xFFFFFFFF), (0x243F6A88, 0x85A308D3)
KNOWN = [
    (13, (0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
    (13, ONES, ONES, (0xFD36D048, 0x2D17272C)),
    (13, PI, (0x13198A2E, 0x03707344), (0xBA3E4725, 0xF27D669E)),
    (20, (0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    (20, PI, (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


def words(values) -> jax.Array:
    return jnp.asarray(np.array(values, np.uint32))


def keep(seed: int, shape=SHAPE) -> np.ndarray:
    """Which places are kept."""
    return np.asarray(dropout(jnp.ones(shape), RATE, nnx.Rngs(dropout=seed))) > 0


@pytest.mark.parametrize(("rounds", "counter", "key", "expected"), KNOWN)
def test_words_are_the_known_answers(rounds, counter, key, expected):
    first, second = words(counter)
    assert [int(w) for w in threefry(words(key), (first, second), rounds)] == list(expected)
    if rounds == 13:
        assert [int(w) for w in threefry(words(key), (first, second))] == list(expected)


def test_twenty_rounds_give_the_words_of_jax():
    key, places = words((7, 11)), jnp.arange(1000, dtype=jnp.uint32)
    found = threefry(key, (places, jnp.uint32(0)), 20)
    expected = threefry_2x32(key, jnp.concatenate([places, jnp.zeros_like(places)]))
    np.testing.assert_array_equal(jnp.concatenate(found), expected)


def test_the_mask_follows_key_and_place_alone():
    np.testing.assert_array_equal(keep(0), keep(0))
    # The same words in the same order, whatever the axes.
    np.testing.assert_array_equal(keep(0).ravel(), keep(0, (3, 100, 20, 20)).ravel())
    rngs = nnx.Rngs(dropout=0)
    first, second = (np.asarray(dropout(jnp.ones(SHAPE), RATE, rngs)) for _ in range(2))
    assert (first != second).mean() > RATE


@pytest.mark.parametrize("seed", range(4))
def test_the_share_kept_is_fair_and_neighbours_are_independent(seed):
    """Everything within five standard deviations of what independent draws would give."""
    mask = keep(seed)
    variance = RATE * (1 - RATE)
    assert abs(mask.mean() - (1 - RATE)) < 5 * np.sqrt(variance / N)
    centred = mask - (1 - RATE)
    for other in (
        np.roll(centred, 1, axis=0),
        np.roll(centred, 1, axis=1),
        np.roll(centred, 16, axis=1),
        keep(seed + 1) - (1 - RATE),
    ):
        assert abs((centred * other).mean()) < 5 * variance / np.sqrt(N)
    for axis, length in enumerate(reversed(SHAPE)):
        means = mask.mean(axis=axis)
        deviation = np.sqrt(variance / length)
        assert np.abs(means - (1 - RATE)).max() < 5 * deviation
        assert means.std() == pytest.approx(deviation, rel=0.25)


def test_the_gradient_has_the_mask_of_the_value():
    rng = np.random.default_rng(0)
    x, cotangent = (jnp.asarray(rng.normal(size=(40, 30)), jnp.float32) for _ in range(2))
    value, pull = jax.vjp(lambda x: dropout(x, RATE, nnx.Rngs(dropout=3)), x)
    kept = keep(3, (40, 30))
    np.testing.assert_allclose(value, np.where(kept, x / (1 - RATE), 0), rtol=1e-6)
    np.testing.assert_allclose(pull(cotangent)[0], np.where(kept, cotangent / (1 - RATE), 0), 1e-6)
    assert dropout(x.astype(jnp.bfloat16), RATE, nnx.Rngs(dropout=3)).dtype == jnp.bfloat16


def test_the_mask_does_not_depend_on_the_devices():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    by_row = NamedSharding(mesh, PartitionSpec("data"))
    draw = jax.jit(lambda x: dropout(x, RATE, nnx.Rngs(dropout=5)))
    shared = draw(jax.device_put(jnp.ones(SHAPE), by_row))
    assert len(shared.sharding.device_set) == 2
    np.testing.assert_array_equal(np.asarray(shared) > 0, keep(5))


@pytest.mark.parametrize("implementation", ["rbg", "unsafe_rbg"])
def test_keys_of_other_generators_serve_too(implementation):
    key = jax.random.key(0, impl=implementation)
    draw = partial(dropout, jnp.ones(SHAPE), RATE)
    mask = np.asarray(draw(nnx.Rngs(dropout=key))) > 0
    assert abs(mask.mean() - (1 - RATE)) < 5 * np.sqrt(RATE * (1 - RATE) / N)
    other = np.asarray(draw(nnx.Rngs(dropout=jax.random.fold_in(key, 1)))) > 0
    assert (mask != other).mean() > RATE


def test_drawing_under_vmap_equals_drawing_alone():
    x = jnp.ones((50, 60))

    def draw(seed):
        return dropout(x, RATE, nnx.Rngs(dropout=jax.random.key(seed)))

    together = jax.vmap(draw)(jnp.arange(3))
    for seed in range(3):
        np.testing.assert_array_equal(together[seed], draw(seed))
