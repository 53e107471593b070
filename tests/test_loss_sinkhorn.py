"""The Sinkhorn divergence against geomloss, a plain float64 Sinkhorn and ott's own divergence."""

import json
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from wound_jax.losses.distances import Measures
from wound_jax.losses.geomloss import _costs, geomloss_parity
from wound_jax.losses.sinkhorn import Sinkhorn, sinkhorn_divergence

CASES = ["small", "mid", "highd", "weighted", "identical"]
# The two algorithms. Their properties are tested on arrays of one shape, compiled once each.
ALGORITHMS = [Sinkhorn(), Sinkhorn(epsilon="geomloss", blur=1.0)]
both_algorithms = pytest.mark.parametrize("loss", ALGORITHMS, ids=lambda loss: loss.epsilon)
CELLS, TARGETS, DIMS = 8, 9, 20


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def two_sets(seed=0):
    return normal(seed, 2, CELLS, DIMS), normal(seed + 1, 2, TARGETS, DIMS) + 0.5


def mask(*lengths, places):
    """One row a set; the first `lengths[i]` places of set i are valid."""
    return jnp.arange(places)[None, :] < jnp.asarray(lengths)[:, None]


def differentiated(function, sets: Measures):
    """What `function` returns for the sets, and the gradient of its summed value in `x`."""

    def total(x):
        result = function(sets._replace(x=x))
        return result.value.sum(), result

    gradient, result = jax.jit(jax.grad(total, has_aux=True))(sets.x)
    return jax.tree.map(np.asarray, (result, gradient))


@cache
def compiled(loss):
    def total(*sets):
        result = loss(*sets)
        return result.value.sum(), result

    return jax.jit(jax.grad(total, has_aux=True))


def loss_and_gradient(loss, predicted, target, predicted_mask, target_mask):
    gradient, result = compiled(loss)(predicted, target, predicted_mask, target_mask)
    return jax.tree.map(np.asarray, (result, gradient))


def fixture(shared, case):
    """The cells and weights of a case, its stored results, and the blur of its relative key."""
    folder = shared / "fixtures" / "ot"
    data = np.load(folder / "ot_geomloss.npz")
    note = json.loads((folder / "ot_note.json").read_text())["cases"][case]
    x, y = data[f"{case}_x"], data[f"{case}_y"]
    equal = [np.full(z.shape[:2], 1 / z.shape[1]) for z in (x, y)]
    weights: Any = [data[f"{case}_a"], data[f"{case}_b"]] if f"{case}_a" in data else equal
    results = {
        key: [data[f"{case}_{key}_{kind}"] for kind in ("value", "grad")]
        for key in ("sinkhorn_s0.5", "sinkhorn_s0.9", "sinkhorn_rel0.1_s0.99")
    }
    return Measures(x, y, *weights), results, note["sinkhorn_rel0.1_s0.99"]["blur"]


def box_with_padding(sets):
    """The diameter geomloss takes: around every place, those of weight 0 included."""
    cells = np.concatenate([z.reshape(-1, z.shape[-1]) for z in (sets.x, sets.y)])
    return float(np.linalg.norm(cells.max(axis=0) - cells.min(axis=0)))


def plain_transport(x, y, a, b, temperature):
    """Entropic transport by textbook float64 iterations to the fixed point: cost and plan."""
    costs = ((x[:, None] - y[None]) ** 2).sum(axis=-1) / 2
    f, g = np.zeros(len(x)), np.zeros(len(y))
    for _ in range(20_000):
        f = -temperature * logsumexp((g - costs) / temperature, b=b, axis=1)
        old, g = g, -temperature * logsumexp((f - costs.T) / temperature, b=a, axis=1)
        if np.abs(g - old).max() < 1e-13:
            break
    plan = np.exp((f[:, None] + g - costs) / temperature) * a[:, None] * b
    return a @ f + b @ g, plan


def plain_divergence(x, y, a, b, temperature):
    """The debiased divergence of one set and its gradient in `x`, from the three plans."""
    across, plan = plain_transport(x, y, a, b, temperature)
    within_x, plan_x = plain_transport(x, x, a, a, temperature)
    within_y, _ = plain_transport(y, y, b, b, temperature)
    pull = plan.sum(axis=1, keepdims=True) * x - plan @ y
    both = plan_x + plan_x.T
    push = both.sum(axis=1, keepdims=True) * x - both @ x
    return across - (within_x + within_y) / 2, pull - push / 2


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("key", ["sinkhorn_s0.5", "sinkhorn_s0.9", "sinkhorn_rel0.1_s0.99"])
def test_parity_with_geomloss(shared, case, key):
    sets, results, relative_blur = fixture(shared, case)
    value, gradient = results[key]
    blur = relative_blur if "rel" in key else 0.05
    parity = partial(geomloss_parity, blur=blur, scaling=float(key.rpartition("_s")[2]))
    with jax.enable_x64(True):
        sets = Measures(*map(jnp.asarray, sets))
        got, got_gradient = differentiated(partial(parity, diameter=box_with_padding(sets)), sets)
    np.testing.assert_allclose(got.value, value, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(got_gradient, gradient, rtol=0, atol=1e-11)


@pytest.mark.parametrize("case", ["small", "mid", "highd"])
def test_parity_finds_the_diameter_itself_and_holds_in_float32(shared, case):
    sets, results, _ = fixture(shared, case)
    sets = Measures(*(jnp.asarray(z, jnp.float32) for z in sets))
    got, gradient = differentiated(partial(geomloss_parity, blur=0.05, scaling=0.5), sets)
    value, expected = results["sinkhorn_s0.5"]
    np.testing.assert_allclose(got.value, value, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("case", ["small", "mid", "weighted"])
def test_converged_divergence_equals_a_plain_sinkhorn(shared, case):
    sets, _, blur = fixture(shared, case)
    temperature = 3 * blur**2  # a relative epsilon of 0.3
    values, gradients = np.zeros(len(sets.x)), np.zeros_like(sets.x)
    for index, (x, y, a, b) in enumerate(zip(*sets, strict=True)):
        kept = a > 0
        values[index], gradients[index, kept] = plain_divergence(
            x[kept], y[b > 0], a[kept], b[b > 0], temperature
        )
    with jax.enable_x64(True):
        got, gradient = differentiated(
            lambda sets: sinkhorn_divergence(
                sets, jnp.full(len(values), temperature), threshold=1e-12, max_iterations=500
            ),
            Measures(*map(jnp.asarray, sets)),
        )
    np.testing.assert_allclose(got.value, values, rtol=1e-13)
    np.testing.assert_allclose(gradient, gradients, rtol=0, atol=1e-12)
    assert (got.diagnostics["converged"] == 1).all()


@pytest.mark.parametrize("case", ["small", "mid", "highd"])
def test_annealing_tends_to_the_converged_divergence(shared, case):
    """The stored relative results (scaling 0.99) lag behind; ten times slower, ten times nearer."""
    sets, results, blur = fixture(shared, case)
    value, gradient = results["sinkhorn_rel0.1_s0.99"]
    with jax.enable_x64(True):
        sets = Measures(*map(jnp.asarray, sets))
        converged, at_fixed_point = differentiated(
            lambda sets: sinkhorn_divergence(
                sets, jnp.full(len(value), blur**2), threshold=1e-12, max_iterations=500
            ),
            sets,
        )
        slow, slow_gradient = differentiated(
            partial(geomloss_parity, blur=blur, scaling=0.999), sets
        )
    gaps = np.abs(converged.value - value).max(), np.abs(converged.value - slow.value).max()
    lag = np.abs(at_fixed_point - gradient).max(), np.abs(at_fixed_point - slow_gradient).max()
    np.testing.assert_allclose(converged.value, value, rtol=1e-4)
    assert gaps[1] < gaps[0] / 10
    assert lag[1] < lag[0] / 5


def test_equals_half_of_the_divergence_of_ott():
    from ott.geometry.pointcloud import PointCloud
    from ott.tools.sinkhorn_divergence import sinkhorn_divergence as ott_divergence

    with jax.enable_x64(True):
        x, y = jnp.asarray(normal(0, 10, 4), float), jnp.asarray(normal(1, 12, 4) + 0.5, float)
        options = {"threshold": 1e-12, "max_iterations": 2000, "use_danskin": True}

        def ott_half(x):
            # The cost |x - y|^2 is twice ours, so its epsilon is as well.
            return ott_divergence(PointCloud, x, y, epsilon=2 * 1.5, solve_kwargs=options)[0] / 2

        expected, expected_gradient = jax.jit(jax.value_and_grad(ott_half))(x)
        loss = Sinkhorn(epsilon="absolute", blur=1.5**0.5, threshold=1e-12)
        got, gradient = loss_and_gradient(
            loss, x[None], y[None], mask(10, places=10), mask(12, places=12)
        )
    np.testing.assert_allclose(got.value[0], expected, rtol=1e-11)
    np.testing.assert_allclose(gradient[0], expected_gradient, atol=1e-11)


def while_loops(function, *arguments):
    return str(jax.make_jaxpr(function)(*arguments)).count(" while[")


@both_algorithms
def test_no_solver_loop_is_differentiated(loss):
    x, y = map(jnp.asarray, two_sets())
    masks = mask(5, 5, places=CELLS), mask(7, 7, places=TARGETS)

    def total(x):
        return loss(x, y, *masks).value.sum()

    assert while_loops(jax.grad(total), x) == while_loops(total, x) > 0


@both_algorithms
def test_padding_changes_nothing(loss):
    x, y = two_sets()
    masks = mask(5, 5, places=CELLS), mask(7, 7, places=TARGETS)
    plain, gradient = loss_and_gradient(
        loss, x[:, :5], y[:, :7], mask(5, 5, places=5), mask(7, 7, places=7)
    )
    for garbage in (0.0, 1e30, np.nan):
        x[:, 5:], y[:, 7:] = garbage, garbage
        padded, padded_gradient = loss_and_gradient(loss, x, y, *masks)
        np.testing.assert_allclose(padded.value, plain.value, rtol=1e-5)
        np.testing.assert_allclose(padded_gradient[:, :5], gradient, atol=2e-6)
        assert (padded_gradient[:, 5:] == 0).all()
        np.testing.assert_array_equal(
            padded.diagnostics["iterations"], plain.diagnostics["iterations"]
        )


@both_algorithms
@pytest.mark.parametrize(("cells", "targets"), [(0, TARGETS), (CELLS, 0), (0, 0)])
def test_an_empty_set_gives_exactly_zero(loss, cells, targets):
    x, y = two_sets()
    masks = mask(cells, CELLS, places=CELLS), mask(targets, TARGETS, places=TARGETS)
    got, gradient = loss_and_gradient(loss, x, y, *masks)
    assert got.value[0] == 0
    assert (gradient[0] == 0).all()
    assert got.diagnostics["iterations"][0] <= 1
    # The second set fares as it does beside another empty one. (Beside one with cells, the box of
    # the annealing would be another.)
    other, other_gradient = loss_and_gradient(loss, x + 1, y + 1, *masks)
    np.testing.assert_allclose(got.value[1], other.value[1], rtol=1e-5)
    np.testing.assert_allclose(gradient[1], other_gradient[1], atol=2e-6)
    assert got.value[1] > 0


@both_algorithms
def test_identical_sets_are_at_distance_zero(loss):
    x, y = two_sets()
    x[1] = x[1, 0]  # and in the second set all cells coincide
    y[:, :CELLS] = x
    got, gradient = loss_and_gradient(
        loss, x, y, mask(8, 8, places=CELLS), mask(8, 8, places=TARGETS)
    )
    np.testing.assert_allclose(got.value, 0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-4)


@both_algorithms
def test_sets_have_no_order(loss):
    x, y = two_sets()
    x_mask, y_mask = mask(8, 6, places=CELLS), mask(9, 4, places=TARGETS)
    rows, columns = np.random.default_rng(2).permutation(CELLS), np.arange(TARGETS)[::-1]
    got, gradient = loss_and_gradient(loss, x, y, x_mask, y_mask)
    moved, moved_gradient = loss_and_gradient(
        loss, x[:, rows], y[:, columns], x_mask[:, rows], y_mask[:, columns]
    )
    np.testing.assert_allclose(moved.value, got.value, rtol=1e-5)
    np.testing.assert_allclose(moved_gradient, gradient[:, rows], atol=2e-6)


@both_algorithms
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_diverged_prediction_is_not_hidden(loss, broken):
    x, y = two_sets()
    x[0, 1, 2] = broken
    masks = mask(8, 8, places=CELLS), mask(9, 9, places=TARGETS)
    value = loss_and_gradient(loss, x, y, *masks)[0].value
    assert not np.isfinite(value[0])
    assert np.isfinite(value[1])


def test_relative_epsilon_has_no_unit():
    x, y = two_sets()
    masks = mask(8, 5, places=CELLS), mask(9, 3, places=TARGETS)
    got, gradient = loss_and_gradient(Sinkhorn(), x, y, *masks)
    large, large_gradient = loss_and_gradient(Sinkhorn(), 1000 * x, 1000 * y, *masks)
    np.testing.assert_allclose(large.value, 1e6 * got.value, rtol=1e-5)
    np.testing.assert_allclose(large_gradient, 1000 * gradient, atol=1e-2)
    np.testing.assert_array_equal(large.diagnostics["iterations"], got.diagnostics["iterations"])
    assert (got.diagnostics["converged"] == 1).all()
    assert (got.diagnostics["iterations"] <= 50).all()


def test_relative_epsilon_is_a_share_of_the_mean_cost_and_a_constant():
    x, y = two_sets()
    masks = mask(8, 0, places=CELLS), mask(9, 0, places=TARGETS)
    mean_cost = ((x[0][:, None] - y[0][None]) ** 2).sum(axis=-1).mean() / 2
    got, gradient = loss_and_gradient(Sinkhorn(), x, y, *masks)
    absolute = Sinkhorn(epsilon="absolute", blur=float((0.3 * mean_cost) ** 0.5))
    expected, expected_gradient = loss_and_gradient(absolute, x, y, *masks)
    np.testing.assert_allclose(got.value, expected.value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)


def test_diagnostics_say_when_a_set_has_not_converged():
    x, y = two_sets()
    x[0, :] = y[0, :] = y[0, :1]
    loss = Sinkhorn(epsilon="absolute", blur=0.2, max_iterations=40)
    masks = mask(8, 8, places=CELLS), mask(9, 9, places=TARGETS)
    figures = loss_and_gradient(loss, x, y, *masks)[0].diagnostics
    np.testing.assert_array_equal(figures["converged"], [1, 0])
    assert figures["iterations"][0] < figures["iterations"][1] == 40


def test_a_set_has_converged_where_all_three_problems_have():
    """Across alone is hard for cells far apart, within alone where the other side is a point."""
    x, y = normal(0, 4, CELLS, DIMS), normal(1, 4, TARGETS, DIMS)
    x *= np.array([10.0, 0.1, 0.0, 0.3], np.float32)[:, None, None]
    y *= np.array([10.0, 0.0, 0.1, 0.0], np.float32)[:, None, None]
    masks = np.ones((4, CELLS), bool), np.ones((4, TARGETS), bool)
    loss = Sinkhorn(epsilon="absolute", blur=0.5, max_iterations=3)
    figures = loss_and_gradient(loss, x, y, *masks)[0].diagnostics
    np.testing.assert_array_equal(figures["converged"], [0, 0, 0, 1])
    np.testing.assert_array_equal(figures["iterations"], [3, 3, 3, 2])


def test_in_the_annealing_the_target_and_the_columns_are_constants():
    x, y = two_sets()
    a, b = (jnp.full(z.shape[:2], 1 / z.shape[1]) for z in (x, y))

    def total(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.stack([cost.sum() for cost in _costs(Measures(x, y, a, b))]).sum()

    of_x, of_y = jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.asarray(x), jnp.asarray(y))
    assert not of_y.any()
    # Every other cell pulls once, as a column, and every target cell.
    expected = (x[:, :, None] - y[:, None]).sum(axis=2) + (x[:, :, None] - x[:, None]).sum(axis=2)
    np.testing.assert_allclose(of_x, expected, rtol=1e-4, atol=1e-4)


def test_the_annealing_adapts_to_the_data_without_recompiling():
    loss, (x, y) = ALGORITHMS[1], two_sets()
    masks = mask(8, 8, places=CELLS), mask(9, 9, places=TARGETS)
    traced = []

    @jax.jit
    def iterations(x, y):
        traced.append(x)
        return loss(x, y, *masks).diagnostics["iterations"]

    # A diameter 16 times as large takes four halvings more.
    np.testing.assert_array_equal(iterations(16 * x, 16 * y), iterations(x, y) + 4)
    assert len(traced) == 1
