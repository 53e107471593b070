"""The velocity term of the objective: what it adds, of which cells, when, and in validation too."""

from functools import partial
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest

from wound_jax.losses.registry import SetLossValue
from wound_jax.losses.settings import VelocitySettings
from wound_jax.losses.velocity import Drift, assign_velocity
from wound_jax.models.set_transformer import Prediction, SetInputs
from wound_jax.training import objective as objectives
from wound_jax.training.batch import SetBatch, SetVelocity
from wound_jax.training.objective import Objective, VelocityTerm
from wound_jax.training.step import eval_step

pytestmark = pytest.mark.quick

SETS, CELLS, TARGETS, DIMS = 2, 5, 4, 3
SETTINGS = {"source": "control", "weight": 0.4, "warmup_steps": 8, "min_confidence": 0.5}


@pytest.fixture(scope="module")
def batch() -> SetBatch:
    """Two sets of unequal size; a padded place in each, and a cell below the threshold."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    mask = np.arange(CELLS) < np.array([[4], [3]])
    confidence = np.array([[0.9, 0.2, 0.5, 0.7, 0.8], [0.6, 0.3, 1.0, 0.9, 0.9]], np.float32)
    dims = np.array([[True, True, False]] * SETS)
    zeros = np.zeros(SETS, np.int32)
    inputs = SetInputs(normal(SETS, CELLS, DIMS), mask, zeros, zeros, np.zeros_like(mask, np.int32))
    return SetBatch(
        inputs=inputs,
        target=normal(SETS, TARGETS, DIMS),
        target_genes=None,
        target_mask=np.arange(TARGETS) < np.array([[4], [1]]),
        velocity=SetVelocity(normal(SETS, CELLS, DIMS) * dims[:, None], confidence, dims),
    )


@pytest.fixture(scope="module")
def predicted(batch) -> Prediction:
    drift = np.random.default_rng(1).normal(size=batch.inputs.control.shape)
    return Prediction(jnp.asarray(batch.inputs.control + drift, jnp.float32), None, {})


def term_of(**settings: Any) -> VelocityTerm:
    config = VelocitySettings.model_validate(SETTINGS | settings)
    return VelocityTerm(config, partial(assign_velocity, config.source))


def by_hand(batch: SetBatch, cells: np.ndarray, config: VelocitySettings) -> dict[str, float]:
    """The term cell by cell, in float64."""
    assert batch.velocity is not None
    found = []
    for i in range(SETS):
        weights, align, squares, cosines = [], [], [], []
        for c in np.flatnonzero(batch.inputs.mask[i]):
            confidence = float(batch.velocity.confidence[i, c])
            if confidence < config.min_confidence:
                continue
            d = np.where(batch.velocity.dims[i], cells[i, c] - batch.inputs.control[i, c], 0.0)
            v = np.asarray(batch.velocity.velocity[i, c], float)
            eps = config.smallest_length
            lengths = [np.sqrt(x @ x + eps**2) for x in (d, v)]
            cosines.append(d @ v / lengths[0] / lengths[1])
            off = abs(lengths[0] - config.scale * lengths[1])
            align.append(1 - cosines[-1] + config.beta * off)
            squares.append(((d - v) ** 2).sum())
            weights.append(confidence)
        loss = np.average(align, weights=weights) + config.regularization_weight * np.mean(squares)
        used = len(weights) / batch.inputs.mask[i].sum()
        found.append((loss, np.average(cosines, weights=weights), used))
    # A set counts by its measured cells.
    mean = np.average(found, axis=0, weights=batch.target_mask.sum(axis=1))
    return dict(zip(("velocity_loss", "velocity_cosine", "velocity_used"), mean, strict=True))


@pytest.mark.parametrize(
    "settings",
    [{}, {"regularization_weight": 0.7}, {"beta": 0.6, "scale": 2.0, "smallest_length": 0.3}],
)
def test_the_term_is_its_formula_over_real_cells_above_the_threshold(batch, predicted, settings):
    term = term_of(**settings)
    total, figures = term(predicted, batch, None)
    expected = by_hand(batch, np.asarray(predicted.cells), term.config)
    assert set(figures) == {*expected, "velocity_weight"}
    for name, value in expected.items():
        np.testing.assert_allclose(figures[name], value, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(total, 0.4 * expected["velocity_loss"], rtol=1e-5)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (2, 0.1), (8, 0.4), (99, 0.4), (None, 0.4)])
def test_the_term_warms_up_and_a_validation_takes_it_whole(batch, predicted, step, weight):
    total, figures = term_of()(predicted, batch, None if step is None else jnp.asarray(step))
    np.testing.assert_allclose(figures["velocity_weight"], weight, rtol=1e-6)
    np.testing.assert_allclose(total, weight * figures["velocity_loss"], rtol=1e-6)


def test_velocities_are_assigned_from_the_sets_as_they_are(batch, predicted):
    given: list[Any] = []

    def assign(*arguments: Any) -> Drift:
        given.extend(arguments)
        return arguments[0]

    config = VelocitySettings.model_validate(SETTINGS)
    VelocityTerm(config, assign)(predicted, batch, None)
    drift, *others = given
    expected = predicted.cells, batch.inputs.mask, batch.target, batch.target_mask
    for found, wanted in zip(others, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(drift.velocity, batch.velocity.velocity)
    np.testing.assert_array_equal(drift.confidence, batch.velocity.confidence)


def test_training_and_validation_add_the_term_to_the_distance(batch, predicted, monkeypatch):
    """`distance + decoder_weight * distance of genes + weight * velocity`, means over sets."""
    decoded = Prediction(predicted.cells, predicted.cells[..., :1], {"gain": jnp.asarray(1.5)})
    batch = SetBatch(
        batch.inputs, batch.target, batch.target[..., :1], batch.target_mask, batch.velocity
    )
    monkeypatch.setattr(objectives, "predict", lambda *given: decoded)

    seen = []

    def width(predicted, target, predicted_mask, target_mask) -> SetLossValue:
        """Stands for a distance: 5 and 1 for the sets of all features, 25 and 5 for genes."""
        np.testing.assert_array_equal(predicted_mask, batch.inputs.mask)
        np.testing.assert_array_equal(target_mask, batch.target_mask)
        assert target.shape[-1] == predicted.shape[-1]
        seen.append(predicted)
        value = jnp.array([5.0, 1.0]) * (5 if predicted.shape[-1] == 1 else 1)
        return SetLossValue(value, {"converged": jnp.array([1.0, 0.0])})

    objective = Objective(cast(Any, None), width, decoder_weight=0.1, velocity=term_of())
    found, weight = eval_step({}, None, batch, objective=objective)
    assert float(weight) == 4 + 1
    # Predicted cells, decoded genes, and the control cells themselves.
    for found_cells, expected in zip(
        seen, (decoded.cells, decoded.genes, batch.inputs.control), strict=True
    ):
        np.testing.assert_array_equal(found_cells, expected)
    distance = (4 * 5 + 1 * 1) / 5
    parts = {"ot_loss": distance, "decoder_loss": 5 * distance, "identity_loss": distance}
    parts |= {"gain": 1.5, "converged": 4 / 5, "velocity_weight": 0.4}
    for name, value in parts.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
    of_velocity = 0.4 * float(found["velocity_loss"])
    assert of_velocity > 0.1
    np.testing.assert_allclose(found["loss"], 1.5 * distance + of_velocity, rtol=1e-6)
    total, metrics = objective({}, batch, None, jnp.asarray(2))
    np.testing.assert_allclose(total, 1.5 * distance + of_velocity / 4, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], total)


def test_a_batch_without_velocities_is_a_defect(batch, predicted):
    bare = SetBatch(batch.inputs, batch.target, None, batch.target_mask)
    with pytest.raises(TypeError, match="needs batches with velocities"):
        term_of()(predicted, bare, None)
