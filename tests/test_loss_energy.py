"""The energy distance and its distances against geomloss, closed forms and float64 differences."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from wound_jax.losses.distances import (
    SMALLEST_DISTANCE,
    Measures,
    euclidean,
    mask_weights,
    self_squared_distances,
    squared_distances,
)
from wound_jax.losses.energy import energy_distance
from wound_jax.losses.registry import make_loss

energy = make_loss("energy")
CASES = ["small", "mid", "highd", "weighted", "identical"]
ARC_STATE = ["gpt2bidir_hvg", "gpt2causal_emb_gene_dec", "gpt2causal_noresid", "llamabidir_gqa"]


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mask(*lengths, places):
    """One row a set; the first `lengths[i]` places of set i are valid."""
    return jnp.arange(places)[None, :] < jnp.asarray(lengths)[:, None]


def value_and_grad(predicted, target, predicted_mask, target_mask):
    """Per-set values, and the gradient of their sum with respect to `predicted`."""
    target = jnp.asarray(target)

    def total(predicted):
        value = energy(predicted, target, predicted_mask, target_mask).value
        return value.sum(), value

    gradient, value = jax.jit(jax.grad(total, has_aux=True))(predicted)
    return value, gradient


def fixture(shared, case, dtype):
    data = np.load(shared / "fixtures" / "ot" / "ot_geomloss.npz")
    x, y = data[f"{case}_x"], data[f"{case}_y"]
    equal = [np.full(z.shape[:2], 1 / z.shape[1]) for z in (x, y)]
    weights = [data[f"{case}_a"], data[f"{case}_b"]] if f"{case}_a" in data else equal
    measures = Measures(*(jnp.asarray(z, dtype) for z in (x, y, *weights)))
    return measures, data[f"{case}_energy_value"], data[f"{case}_energy_grad"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"),
    [("float64", 1e-14, 1e-15), ("float32", 2e-5, 2e-6)],
)
def test_agrees_with_geomloss(shared, case, dtype, value_tolerance, gradient_tolerance):
    with jax.enable_x64(dtype == "float64"):
        sets, value, gradient = fixture(shared, case, dtype)
        got, pullback = jax.vjp(jax.jit(lambda x: energy_distance(sets._replace(x=x))), sets.x)
        (got_gradient,) = pullback(jnp.ones_like(got))
    assert got.dtype == dtype
    assert got_gradient.dtype == dtype
    np.testing.assert_allclose(got, value, rtol=value_tolerance, atol=value_tolerance)
    np.testing.assert_allclose(got_gradient, gradient, rtol=0, atol=gradient_tolerance)


@pytest.mark.parametrize("dims", [5, 50, 500, 3000])
def test_a_set_pulls_nowhere_on_itself_in_float32(dims):
    """Without care the inverse of a rounded distance of 0 leaves 3e-6 to 2e-5 a cell.

    What is left is the rounding of a sum of unit vectors, which programs may order as they like.
    """
    x = normal(0, 2, 32, dims) * np.random.default_rng(1).gamma(1.0, 1.0, dims)
    valid = mask(32, 20, places=32)
    _, gradient = value_and_grad(x.astype("f4"), x.astype("f4"), valid, valid)
    np.testing.assert_allclose(32 * np.asarray(gradient), 0, atol=8 * float(np.finfo("f4").eps))


@pytest.mark.parametrize("folder", ARC_STATE)
def test_agrees_with_the_published_model(shared, folder):
    root = shared / "fixtures" / "arc_state" / folder
    losses = np.load(root / "losses.npz")
    with jax.enable_x64(True):
        predicted = jnp.asarray(np.load(root / "outputs.npz")["preds_f64"]).reshape(3, 8, -1)
        target = jnp.asarray(np.load(root / "inputs.npz")["pert_cell_emb"], jnp.float64)
        valid = mask(8, 8, 8, places=8)
        value, gradient = value_and_grad(predicted, target.reshape(3, 8, -1), valid, valid)
    np.testing.assert_allclose(value, losses["energy_per_set_f64"], rtol=1e-13)
    np.testing.assert_allclose(
        np.asarray(gradient) / 3, losses["energy_grad_f64"], rtol=0, atol=1e-13
    )


def log_expression(seed, cells, genes):
    """log1p of counts scaled to 10,000 a cell, as preprocessed expression is."""
    rng = np.random.default_rng(seed)
    rates = rng.lognormal(-1.5, 1.5, genes) * rng.gamma(4.0, 0.25, (cells, genes))
    counts = rng.poisson(rates * rng.lognormal(0.0, 0.3, (cells, 1)))
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)


def direct_squares(x, y):
    return ((x.astype(np.float64)[:, None] - y.astype(np.float64)[None]) ** 2).sum(axis=-1)


@pytest.mark.parametrize("spread", [1.0, 0.1], ids=["measured", "collapsed"])
def test_float32_distances_of_3000_genes(spread):
    """Largest relative errors measured: 2e-7 about the centre; about the origin 3e-6 and more."""
    x, y = log_expression(0, 40, 3000), log_expression(1, 32, 3000) + 0.1
    x = (x.mean(axis=0) + spread * (x - x.mean(axis=0))).astype(np.float32)
    a, b = jnp.full((1, 40), 1 / 40), jnp.full((1, 32), 1 / 32)
    across = squared_distances(jnp.asarray(x)[None], jnp.asarray(y)[None], a, b)[0]
    within = self_squared_distances(jnp.asarray(x)[None], a)[0]
    np.testing.assert_allclose(across, direct_squares(x, y), rtol=5e-7)
    np.testing.assert_allclose(within, direct_squares(x, x), rtol=5e-7)


def test_diagonal_of_self_distances_is_exactly_zero():
    x = jnp.asarray(normal(0, 2, 9, 700)) + 50
    squares = self_squared_distances(x, jnp.full((2, 9), 1 / 9))
    assert (jnp.diagonal(squares, axis1=1, axis2=2) == 0).all()
    off_diagonal = squares[:, ~np.eye(9, dtype=bool)]
    assert off_diagonal.min() > 1000
    assert float(euclidean(squares).min()) == pytest.approx(SMALLEST_DISTANCE)


def test_distances_do_not_depend_on_the_origin():
    x, y = normal(0, 1, 6, 300), normal(1, 1, 7, 300)
    a, b = jnp.full((1, 6), 1 / 6), jnp.full((1, 7), 1 / 7)
    # 1024 leaves float32 enough bits to hold the shifted cells to 1e-4.
    shifted = squared_distances(jnp.asarray(x + 1024), jnp.asarray(y + 1024), a, b)
    np.testing.assert_allclose(shifted[0], direct_squares(x[0], y[0]), rtol=2e-5)


def test_no_array_holds_all_pairs_and_features():
    sets, cells, targets, dims = 2, 11, 13, 170
    shapes = [(sets, cells, dims), (sets, targets, dims)]
    x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
    masks = [jax.ShapeDtypeStruct(shape[:2], jnp.bool_) for shape in shapes]
    gradient = jax.grad(lambda *arguments: energy(*arguments).value.sum())
    program = jax.jit(gradient).lower(x, y, *masks).as_text()
    arrays = set(re.findall(r"tensor<((?:\d+x)+)", program))
    sizes = [np.prod([int(length) for length in array.split("x")[:-1]]) for array in arrays]
    assert max(sizes) == sets * targets * dims


def test_single_cells_are_a_distance_apart():
    x, y = jnp.zeros((1, 1, 4)), jnp.full((1, 1, 4), 3.0)
    value, gradient = value_and_grad(x, y, *[mask(1, places=1)] * 2)
    # The two self terms are the floor of the distance.
    assert float(value[0]) == pytest.approx(6 - SMALLEST_DISTANCE, abs=1e-6)
    np.testing.assert_allclose(gradient, jnp.full((1, 1, 4), -0.5), rtol=1e-6)


@pytest.mark.parametrize("garbage", [0.0, 1e30, np.nan], ids=["zero", "large", "nan"])
def test_padding_changes_nothing(garbage):
    x, y = normal(0, 2, 5, 20), normal(1, 2, 7, 20) + 0.5
    plain = value_and_grad(x, y, mask(5, 5, places=5), mask(7, 7, places=7))
    wide_x, wide_y = np.full((2, 8, 20), garbage, "f4"), np.full((2, 9, 20), garbage, "f4")
    wide_x[:, :5], wide_y[:, :7] = x, y
    value, gradient = value_and_grad(wide_x, wide_y, mask(5, 5, places=8), mask(7, 7, places=9))
    np.testing.assert_allclose(value, plain[0], rtol=1e-6)
    np.testing.assert_allclose(gradient[:, :5], plain[1], atol=1e-7)
    assert (gradient[:, 5:] == 0).all()


@pytest.mark.parametrize(("cells", "targets"), [(0, 6), (5, 0), (0, 0)])
def test_an_empty_set_gives_exactly_zero(cells, targets):
    x, y = normal(0, 2, 5, 8), normal(1, 2, 6, 8)
    value, gradient = value_and_grad(x, y, mask(cells, 5, places=5), mask(targets, 6, places=6))
    assert float(value[0]) == 0
    assert (gradient[0] == 0).all()
    alone = value_and_grad(x[1:], y[1:], mask(5, places=5), mask(6, places=6))
    np.testing.assert_allclose(value[1], alone[0][0], rtol=1e-6)
    np.testing.assert_allclose(gradient[1], alone[1][0], atol=1e-7)


def test_sets_have_no_order_and_sides_are_alike():
    x, y = normal(0, 3, 6, 10), normal(1, 3, 6, 10) + 0.3
    valid = mask(6, 4, 2, places=6)
    order = np.random.default_rng(2).permutation(6)
    value, gradient = value_and_grad(x, y, valid, valid)
    moved_value, moved_gradient = value_and_grad(x[:, order], y, valid[:, order], valid)
    swapped = energy(jnp.asarray(y), jnp.asarray(x), valid, valid).value
    np.testing.assert_allclose(moved_value, value, rtol=1e-6)
    np.testing.assert_allclose(moved_gradient, gradient[:, order], atol=1e-7)
    np.testing.assert_allclose(swapped, value, rtol=1e-5)
    assert (value > 0).all()


def test_gradients_are_finite_where_cells_coincide():
    x = jnp.repeat(jnp.asarray(normal(0, 2, 1, 5)), 4, axis=1)
    value, gradient = value_and_grad(x, x, *[mask(4, 3, places=4)] * 2)
    np.testing.assert_allclose(value, 0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_gradient_is_that_of_the_value():
    with jax.enable_x64(True):
        x, y = (jnp.asarray(normal(seed, 2, 5, 6), jnp.float64) for seed in (0, 1))
        valid = mask(5, 3, places=5)
        # Compiled, since differences are taken by NumPy.
        function = jax.jit(lambda x, y: energy(x, y, valid, valid).value)
        check_grads(function, (x, y), order=1, modes=["rev"], eps=1e-6)


def test_the_gradient_of_the_weights_is_that_of_the_value():
    with jax.enable_x64(True):
        x, y = (jnp.asarray(normal(seed, 2, 5, 6), jnp.float64) for seed in (0, 1))
        a, b = (jnp.asarray(np.abs(normal(seed, 2, 5)) + 0.1, jnp.float64) for seed in (2, 3))
        function = jax.jit(lambda a, b: energy_distance(Measures(x, y, a, b)))
        check_grads(function, (a, b), order=1, modes=["rev"], eps=1e-6)


@pytest.mark.parametrize("spread", [1.0, 0.03], ids=["measured", "collapsed"])
def test_float32_gradients_of_3000_genes(spread):
    """Against float64, in units of the largest entry; also where predictions lie close together."""
    x, y = log_expression(0, 40, 3000), log_expression(1, 32, 3000) + 0.1
    x = (x.mean(axis=0) + spread * (x - x.mean(axis=0))).astype(np.float32)
    masks = [mask(40, places=40), mask(32, places=32)]
    value, gradient = value_and_grad(jnp.asarray(x)[None], jnp.asarray(y)[None], *masks)
    with jax.enable_x64(True):
        sets = (jnp.asarray(z[None], jnp.float64) for z in (x, y))
        true_value, true_gradient = map(np.asarray, value_and_grad(*sets, *masks))
    np.testing.assert_allclose(value, true_value, rtol=1e-6)
    largest = np.abs(true_gradient).max()
    np.testing.assert_allclose(gradient, true_gradient, rtol=0, atol=1e-6 * largest)


def test_a_diverged_prediction_is_not_hidden():
    x, y = normal(0, 2, 4, 3), normal(1, 2, 4, 3)
    x[0, 1, 2] = np.nan
    value, _ = value_and_grad(x, y, *[mask(4, 4, places=4)] * 2)
    assert jnp.isnan(value[0])
    assert jnp.isfinite(value[1])


def test_half_precision_predictions_are_compared_in_float32():
    x, y = (jnp.asarray(normal(seed, 1, 6, 30), jnp.bfloat16) for seed in (0, 1))
    valid = mask(6, places=6)
    value, gradient = value_and_grad(x, y, valid, valid)
    full = energy(x.astype(jnp.float32), y.astype(jnp.float32), valid, valid).value
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, full, rtol=1e-6)


def test_mask_weights_sum_to_one_or_are_zero():
    weights = mask_weights(mask(3, 0, places=4), jnp.dtype(jnp.float32))
    np.testing.assert_allclose(weights, [[1 / 3, 1 / 3, 1 / 3, 0], [0, 0, 0, 0]], rtol=1e-6)
