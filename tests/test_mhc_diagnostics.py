"""Gains of the composite mixing and spread of the streams, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wound_jax.errors import UserError
from wound_jax.models.mhc.diagnostics import composite_gains, stream_spread
from wound_jax.models.mhc.doubly_stochastic import sinkhorn_knopp

DRAWS, DEPTH, N = 200, 64, 4
ONE_TOKEN = jnp.ones((1, 1), bool)


def random_maps(seed: int, sublayers: int, sets: int = 2, cells: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(sublayers, sets, cells, N, N))


def gains_of_draws(maps: jnp.ndarray) -> dict[str, np.ndarray]:
    """The gains of each draw on its own; `maps` [depth, draws, n, n]."""
    one_draw = jax.vmap(lambda h: composite_gains(list(h[:, None, None]), ONE_TOKEN), in_axes=1)
    return {name: np.asarray(value) for name, value in jax.jit(one_draw)(maps).items()}


def test_gains_are_the_sums_of_the_mean_product_in_the_order_of_the_sublayers():
    maps = random_maps(0, 3)
    mask = np.array([[True, True, False], [True, False, False]])
    products = maps[2] @ maps[1] @ maps[0]
    composite = products[mask].mean(0)
    with jax.enable_x64(True):
        gains = composite_gains([jnp.asarray(h) for h in maps], jnp.asarray(mask))
    assert float(gains["forward_gain_min"]) == pytest.approx(composite.sum(1).min(), rel=1e-12)
    assert float(gains["forward_gain_max"]) == pytest.approx(composite.sum(1).max(), rel=1e-12)
    assert float(gains["backward_gain_min"]) == pytest.approx(composite.sum(0).min(), rel=1e-12)
    assert float(gains["backward_gain_max"]) == pytest.approx(composite.sum(0).max(), rel=1e-12)


def test_masked_tokens_do_not_count_even_if_they_are_not_finite():
    maps, mask = random_maps(1, 2), jnp.array([[True, True, True], [True, True, False]])
    spoilt = maps.copy()
    spoilt[:, 1, 2] = np.nan
    clean = composite_gains(list(jnp.asarray(maps)), mask)
    for name, value in composite_gains(list(jnp.asarray(spoilt)), mask).items():
        assert float(value) == float(clean[name])


def test_a_map_shared_by_all_tokens_equals_its_copies():
    shared_map = jnp.asarray(random_maps(2, 2, sets=1, cells=1), jnp.float32)
    own = jnp.asarray(random_maps(3, 1), jnp.float32)
    mask = jnp.ones((2, 3), bool)
    copied = [jnp.broadcast_to(h, (2, 3, N, N)) for h in shared_map]
    some = composite_gains([shared_map[0], own[0], shared_map[1]], mask)
    every = composite_gains([copied[0], own[0], copied[1]], mask)
    for name, value in some.items():
        np.testing.assert_allclose(value, every[name], rtol=1e-5)


def test_attenuation_shows_in_the_minimum_alone():
    halving = jnp.diag(jnp.array([1.0, 1.0, 1.0, 0.5]))[None, None]
    gains = composite_gains([halving] * 10, ONE_TOKEN)
    assert float(gains["forward_gain_max"]) == 1.0
    assert float(gains["forward_gain_min"]) == pytest.approx(2.0**-10)
    assert float(gains["backward_gain_min"]) == pytest.approx(2.0**-10)


def test_no_map_is_refused():
    with pytest.raises(UserError, match="at least one sublayer"):
        composite_gains([], ONE_TOKEN)


@pytest.fixture(scope="module")
def wide_logits():
    return jnp.asarray(4 * np.random.default_rng(0).normal(size=(DEPTH, DRAWS, N, N)), jnp.float32)


@pytest.mark.parametrize(
    ("iterations", "reference", "median_at_most"), [(1, 1.63, 1.75), (20, 1.01, 1.02)]
)
def test_backward_gain_of_64_random_maps(wide_logits, iterations, reference, median_at_most):
    """One published draw (1.63, 1.01) lies in the bulk of ours; rows are exact in every one."""
    gains = gains_of_draws(sinkhorn_knopp(wide_logits, iterations))
    low, median, high = np.percentile(gains["backward_gain_max"], [5, 50, 95])
    assert low < reference < high
    assert 1 <= median < median_at_most
    np.testing.assert_allclose(gains["forward_gain_min"], 1, rtol=0, atol=1e-5)
    np.testing.assert_allclose(gains["forward_gain_max"], 1, rtol=0, atol=1e-5)


def test_forward_gain_of_64_unconstrained_maps_explodes():
    noise = np.random.default_rng(1).normal(size=(DEPTH, DRAWS, N, N))
    gains = gains_of_draws(jnp.asarray(np.eye(N) + 0.3 * noise, jnp.float32))
    low, median, high = np.percentile(gains["forward_gain_max"], [25, 50, 75])
    assert low < 453 < high
    assert median > 100


def test_spread_is_the_share_of_the_variance_between_streams():
    streams = np.random.default_rng(4).normal(size=(2, 3, N, 5))
    mask = np.array([[True, True, False], [True, False, True]])
    tokens = streams[mask]
    share = tokens.var(axis=1).mean(0).sum() / tokens.reshape(-1, 5).var(axis=0).sum()
    with jax.enable_x64(True):
        ours = stream_spread(jnp.asarray(streams), jnp.asarray(mask))
    assert float(ours) == pytest.approx(share, rel=1e-12)


def test_spread_at_its_ends():
    rng = np.random.default_rng(5)
    mask = jnp.ones((2, 3), bool)
    copies = jnp.asarray(rng.normal(size=(2, 3, 1, 5)), jnp.float32).repeat(N, axis=2)
    assert float(stream_spread(copies, mask)) < 1e-12
    one_token = jnp.asarray(rng.normal(size=(1, 1, N, 5)), jnp.float32)
    everywhere = jnp.broadcast_to(one_token, (2, 3, N, 5))
    assert float(stream_spread(everywhere, mask)) == pytest.approx(1.0, abs=1e-6)
    assert float(stream_spread(jnp.zeros((2, 3, N, 5)), mask)) == 0.0
