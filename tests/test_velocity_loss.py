"""The velocity loss against published values, closed forms and a plain float64 Sinkhorn."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wound_jax.errors import UserError
from wound_jax.losses.velocity import (
    CELLS_OF_SOURCE,
    Drift,
    VelocitySource,
    alignment_loss,
    assign_velocity,
    matched_drift,
    regularization_loss,
    transport_rows,
    velocity_weights,
    warmup_weight,
)

DIMS = 6


def normal(seed, cells, sets=1):
    return np.random.default_rng(seed).standard_normal((sets, cells, DIMS))


def random_sets(seed, cells, sets=1) -> jax.Array:
    return jnp.asarray(normal(seed, cells, sets), jnp.float32)


def ones(sets, cells):
    return jnp.ones((sets, cells), bool)


@pytest.mark.parametrize(("beta", "name"), [(0.0, "beta0"), (1.0, "beta1")])
def test_fixture_values_and_gradients_in_float64(shared, beta, name):
    fixture = np.load(shared / "fixtures/velocity/velocity.npz")
    with jax.enable_x64(True):
        d, v, confidence = (jnp.asarray(fixture[key])[None] for key in ("dz", "v", "conf"))
        mask = ones(1, 10)
        weights = velocity_weights(v, confidence, mask, 0.0)

        def loss(d):
            return alignment_loss(d, v, weights, mask=mask, beta=beta).loss.sum()

        value, gradient = jax.value_and_grad(loss)(d)
        reg = regularization_loss(d, v, mask)
    assert value.dtype == jnp.float64
    np.testing.assert_allclose(value, fixture[f"loss_{name}"], rtol=1e-12)
    np.testing.assert_allclose(gradient[0], fixture[f"grad_{name}"], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(reg, [fixture["l2"]], rtol=1e-12)


def test_fixture_values_in_float32(shared):
    fixture = np.load(shared / "fixtures/velocity/velocity.npz")
    d, v, confidence = (jnp.asarray(fixture[key], jnp.float32)[None] for key in ("dz", "v", "conf"))
    weights = velocity_weights(v, confidence, ones(1, 10), 0.0)
    found = alignment_loss(d, v, weights, mask=ones(1, 10), beta=1.0)
    np.testing.assert_allclose(found.loss, [fixture["loss_beta1"]], rtol=1e-6)
    np.testing.assert_allclose(1.0 - found.cosine, [fixture["dir"]], rtol=1e-6)
    np.testing.assert_allclose(found.used, [0.8])


def test_weights_keep_the_confident_moving_real_cells():
    v = jnp.zeros((1, 7, 3)).at[0, :, 0].set(jnp.array([1, 1, 1e-7, jnp.nan, 1, 1, jnp.inf]))
    confidence = jnp.array([[0.9, 0.2, 0.9, 0.9, 0.9, jnp.nan, 0.9]])
    mask = jnp.array([[True, True, True, True, False, True, True]])
    found = velocity_weights(v, confidence, mask, 0.3)
    np.testing.assert_allclose(found, [[0.9, 0, 0, 0, 0, 0, 0]])


def test_the_threshold_itself_is_confident_enough():
    v = jnp.ones((1, 1, 2))
    assert velocity_weights(v, jnp.full((1, 1), 0.5), ones(1, 1), 0.5)[0, 0] == 0.5


def test_directions_and_lengths_in_closed_form():
    v = jnp.array([[[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]])
    d = jnp.array([[[5.0, 0.0], [0.0, -1.0], [0.0, 4.0]]])
    weights = jnp.array([[0.5, 0.25, 0.25]])
    found = alignment_loss(d, v, weights, mask=ones(1, 3), beta=2.0, scale=3.0)
    direction = 0.25 * 2 + 0.25 * 1
    lengths = 0.5 * abs(5 - 6) + 0.25 * abs(1 - 3) + 0.25 * abs(4 - 9)
    np.testing.assert_allclose(found.loss, [direction + 2 * lengths], rtol=1e-6)
    np.testing.assert_allclose(found.cosine, [1 - direction], rtol=1e-6)


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_cells_left_out_change_nothing(junk):
    d, v = (normal(seed, 5, sets=2).astype(np.float32) for seed in (0, 1))
    confidence = np.random.default_rng(2).uniform(0.1, 1, (2, 5)).astype(np.float32)
    mask = np.array([[True] * 5, [True, True, True, False, False]])

    def loss(d, v, confidence, mask):
        weights = velocity_weights(v, confidence, mask, 0.0)
        aligned = alignment_loss(d, v, weights, mask=mask, beta=1.0)
        return (aligned.loss + regularization_loss(d, v, mask)).sum(), aligned

    evaluate = jax.value_and_grad(loss, has_aux=True)
    whole = map(jnp.asarray, (d[1:, :3], v[1:, :3], confidence[1:, :3], mask[1:, :3]))
    (_, short), gradient = evaluate(*whole)
    for array in (d, v, confidence):
        array[1, 3:] = junk
    (_, padded), padded_gradient = evaluate(*map(jnp.asarray, (d, v, confidence, mask)))
    np.testing.assert_allclose(padded.loss[1], short.loss[0], rtol=1e-6)
    np.testing.assert_allclose(padded.used, [1.0, 1.0])
    np.testing.assert_allclose(padded_gradient[1, :3], gradient[0], rtol=1e-6)
    np.testing.assert_array_equal(padded_gradient[1, 3:], 0.0)


def test_unknown_velocity_inside_a_set_is_left_out():
    d, v = random_sets(3, 4), random_sets(4, 4)
    confidence = jnp.full((1, 4), 0.7)
    keep = np.array([0, 1, 3])
    expected = alignment_loss(
        d[:, keep], v[:, keep], confidence[:, keep], mask=ones(1, 3), beta=1.0
    )
    v = v.at[0, 2, 1].set(jnp.nan)
    weights = velocity_weights(v, confidence, ones(1, 4), 0.0)
    found = alignment_loss(d, v, weights, mask=ones(1, 4), beta=1.0)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    np.testing.assert_allclose(found.used, [0.75])


@pytest.mark.parametrize("d_value", [0.0, np.nan, 1.0])
def test_without_usable_cells_loss_and_gradient_are_exactly_zero(d_value):
    d = jnp.full((2, 4, DIMS), d_value)
    v = jnp.full((2, 4, DIMS), jnp.nan)
    mask = jnp.array([[True] * 4, [False] * 4])

    def loss(d):
        weights = velocity_weights(v, jnp.ones((2, 4)), mask, 0.0)
        aligned = alignment_loss(d, v, weights, mask=mask, beta=1.0)
        return (aligned.loss + regularization_loss(d, v, mask)).sum()

    value, gradient = jax.value_and_grad(loss)(d)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, 0.0)


def test_displacement_zero_has_a_gradient_of_one_over_eps():
    v = jnp.array([[[3.0, 4.0]]])

    def loss(d, eps):
        return alignment_loss(d, v, jnp.ones((1, 1)), mask=ones(1, 1), eps=eps).loss.sum()

    for eps in (1e-8, 1e-2):
        gradient = jax.grad(loss)(jnp.zeros((1, 1, 2)), eps)
        np.testing.assert_allclose(gradient, -v / 5.0 / eps, rtol=1e-5)


def test_bfloat16_inputs_are_computed_in_float32():
    d, v = (jnp.asarray(random_sets(seed, 5), jnp.bfloat16) for seed in (5, 6))
    weights = velocity_weights(v, jnp.ones((1, 5), jnp.bfloat16), ones(1, 5), 0.0)
    low = alignment_loss(d, v, weights, mask=ones(1, 5), beta=1.0)
    high = alignment_loss(
        d.astype(jnp.float32), v.astype(jnp.float32), jnp.ones((1, 5)), mask=ones(1, 5), beta=1.0
    )
    assert low.loss.dtype == jnp.float32
    np.testing.assert_array_equal(low.loss, high.loss)


@pytest.mark.parametrize(
    ("step", "warmup", "expected"),
    [(0, 1000, 0.0), (250, 1000, 0.025), (1000, 1000, 0.1), (5000, 1000, 0.1), (0, 0, 0.1)],
)
def test_warmup(step, warmup, expected):
    np.testing.assert_allclose(warmup_weight(step, 0.1, warmup), expected, rtol=1e-6)
    traced = jax.jit(warmup_weight, static_argnums=(1, 2))(jnp.asarray(step), 0.1, warmup)
    np.testing.assert_allclose(traced, expected, rtol=1e-6)


def sinkhorn_rows(x, y, relative_epsilon):
    """Plain Sinkhorn scaling in float64, to convergence."""
    cost = np.square(x[:, None] - y[None]).sum(-1)
    kernel = np.exp(-cost / (relative_epsilon * cost.mean()))
    v = np.ones(len(y))
    for _ in range(5000):
        u = (1 / len(x)) / (kernel @ v)
        v = (1 / len(y)) / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    return plan / plan.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("relative_epsilon", [0.1, 0.5])
def test_transport_rows_against_plain_sinkhorn(relative_epsilon):
    x, y = normal(7, 9), normal(8, 6) + 0.5
    expected = sinkhorn_rows(x[0], y[0], relative_epsilon)
    # Far from the origin, and beside padding that holds junk.
    padded_x = np.concatenate([x + 100.0, np.full((1, 2, DIMS), np.nan)], axis=1)
    padded_y = np.concatenate([y + 100.0, np.full((1, 3, DIMS), np.nan)], axis=1)
    mask, target_mask = np.arange(11)[None] < 9, np.arange(9)[None] < 6
    found = transport_rows(
        jnp.asarray(padded_x, jnp.float32),
        jnp.asarray(padded_y, jnp.float32),
        jnp.asarray(mask),
        jnp.asarray(target_mask),
        relative_epsilon,
    )
    # ott stops at a marginal error of 1e-3.
    np.testing.assert_allclose(found[0, :9, :6], expected, atol=2e-3)
    np.testing.assert_array_equal(found[0, 9:], 0.0)
    np.testing.assert_array_equal(found[0, :, 6:], 0.0)


def test_sharp_matching_on_a_line_pairs_by_rank():
    rng = np.random.default_rng(9)
    x, y = rng.permutation(8.0 * np.arange(10)), rng.permutation(8.0 * np.arange(10) + 1.0)
    velocity = np.stack([y, -y], axis=-1)[None].astype(np.float32)
    found = assign_velocity(
        "matched_target",
        Drift(jnp.asarray(velocity), jnp.full((1, 10), 0.5)),
        prediction=jnp.asarray(x, jnp.float32)[None, :, None],
        mask=ones(1, 10),
        target=jnp.asarray(y, jnp.float32)[None, :, None],
        target_mask=ones(1, 10),
        relative_epsilon=1e-3,
    )
    np.testing.assert_allclose(found.velocity[0, :, 0], x + 1.0, atol=1e-2)
    np.testing.assert_allclose(found.confidence, 0.5, rtol=1e-5)


def test_unknown_targets_lower_the_confidence_and_not_the_velocity():
    plan = jnp.array([[[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]])
    velocity = jnp.array([[[1.0, 0.0], [jnp.nan, jnp.nan], [0.0, 1.0]]])
    found = matched_drift(plan, Drift(velocity, jnp.array([[0.8, 0.9, 0.4]])), ones(1, 3))
    np.testing.assert_allclose(found.velocity, [[[2 / 3, 1 / 3], [0.0, 0.0]]], rtol=1e-6)
    np.testing.assert_allclose(found.confidence, [[0.5, 0.0]], rtol=1e-6)
    # Nor is one known that nobody trusts, or that stands in a padded place.
    for confidence, there in (([0.8, 0.0, 0.4], [1, 1, 1]), ([0.8, 0.9, 0.4], [1, 0, 1])):
        drift = Drift(jnp.nan_to_num(velocity, nan=9.0), jnp.array([confidence]))
        again = matched_drift(plan, drift, jnp.array([there], bool))
        np.testing.assert_allclose(again.velocity, found.velocity, rtol=1e-6)
        np.testing.assert_allclose(again.confidence, found.confidence, rtol=1e-6)


def test_no_gradient_passes_through_the_matching():
    x, y, control = random_sets(10, 6), random_sets(11, 7), random_sets(12, 6)
    drift = Drift(jnp.asarray(random_sets(13, 7)), jnp.ones((1, 7)))
    masks: dict[str, Any] = {"mask": ones(1, 6), "target_mask": ones(1, 7)}

    def loss(x, given):
        matched = given or assign_velocity("matched_target", drift, prediction=x, target=y, **masks)
        weights = velocity_weights(matched.velocity, matched.confidence, ones(1, 6), 0.0)
        return alignment_loss(
            x - control, matched.velocity, weights, mask=ones(1, 6), beta=1.0
        ).loss.sum()

    fixed = assign_velocity("matched_target", drift, prediction=x, target=y, **masks)
    gradient = jax.jit(jax.grad(loss), static_argnums=1)(x, None)
    np.testing.assert_allclose(gradient, jax.grad(loss)(x, fixed), rtol=1e-5, atol=1e-7)


def test_an_empty_set_is_left_out_of_the_matching():
    x, y = random_sets(14, 4, sets=2), random_sets(15, 4, sets=2)
    target_mask = jnp.array([[True] * 4, [False] * 4])
    found = assign_velocity(
        "matched_target",
        Drift(jnp.asarray(y), jnp.ones((2, 4))),
        prediction=x,
        mask=ones(2, 4),
        target=y,
        target_mask=target_mask,
    )
    assert jnp.isfinite(found.velocity).all()
    np.testing.assert_array_equal(found.confidence[1], 0.0)
    np.testing.assert_allclose(found.confidence[0], 1.0, rtol=1e-5)


def test_the_other_sources():
    x, y = random_sets(16, 4), random_sets(17, 4)
    drift = Drift(jnp.asarray(random_sets(18, 4)), jnp.ones((1, 4)))
    masks: dict[str, Any] = {
        "mask": ones(1, 4),
        "target_mask": jnp.array([[True, True, True, False]]),
    }
    own = assign_velocity("control", drift, prediction=x, target=y, **masks)
    assert own is drift
    same = assign_velocity("target_by_index", drift, prediction=x, target=y, **masks)
    np.testing.assert_array_equal(same.velocity, drift.velocity)
    np.testing.assert_array_equal(same.confidence, [[1.0, 1.0, 1.0, 0.0]])
    assert set(CELLS_OF_SOURCE) == set(get_args(VelocitySource))


def test_errors_name_the_fix():
    x, y = random_sets(19, 4), random_sets(20, 5)
    wide = Drift(jnp.asarray(y), jnp.ones((1, 5)))
    given: dict[str, Any] = {
        "prediction": x,
        "target": y,
        "mask": ones(1, 4),
        "target_mask": ones(1, 5),
    }
    with pytest.raises(UserError, match="4 control and 5 target cells; use matched_target"):
        assign_velocity("target_by_index", wide, **given)
    with pytest.raises(UserError, match="'matched_target'"):
        assign_velocity("matched", wide, **given)
