"""Timepoints and scalars act, an unseen timepoint can be asked for, the weight starts as told."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from wound_jax.data.scalars import fit_scalars, read_scalars
from wound_jax.data.timepoints import require_times, time_of
from wound_jax.errors import UserError
from wound_jax.models.functional import init_model, predict
from wound_jax.models.set_transformer import ModelDims, SetInputs
from wound_jax.models.settings import LlamaModel, ModelSettings, ScalarSettings

DIMS = ModelDims(features=6, perturbations=2, timepoints=3, scalars=2)


def _config(time: Any = "none", scalars: bool = False) -> ModelSettings:
    return LlamaModel(
        hidden_dim=16, layers=1, heads=2, encoder_layers=2, decoder_layers=2,
        timepoint_embedding=time, scalars=ScalarSettings(enable=scalars, initial_weight=0.3),
    )  # fmt: skip


def _inputs(code: int = 0, time: float = 10.0, scalars=None) -> SetInputs:
    control = np.random.default_rng(0).normal(size=(1, 4, 6))
    return SetInputs(
        control=jnp.asarray(control, jnp.float32),
        mask=jnp.ones((1, 4), bool),
        perturbation=jnp.zeros(1, int),
        timepoint=jnp.array([code]),
        replicate=jnp.zeros((1, 4), int),
        time=jnp.array([time], jnp.float32),
        scalars=scalars,
    )


@pytest.mark.parametrize(
    ("label", "time"),
    [("day10", 10.0), ("D19", 19.0), ("14 dpi", 14.0), ("1.5h", 1.5), ("E15.5", 15.5)],
)
def test_a_label_names_its_time(label, time):
    assert time_of(label) == time


def test_labels_without_one_number_name_no_time():
    assert all(np.isnan(time_of(label)) for label in ("early", "day10to14", ""))
    with pytest.raises(UserError, match=r"'early' names no single time; rename them \(day10\)"):
        require_times(["day10", "early"])


def test_a_timepoint_acts_by_its_code_or_by_its_number():
    by_code = init_model(_config("categorical"), DIMS, 0)
    by_number = init_model(_config("continuous"), DIMS, 0)

    def predicted(model, **kwargs):
        graphdef, parameters = model
        return np.asarray(predict(graphdef, parameters, _inputs(**kwargs)).cells)

    assert not np.allclose(predicted(by_code, code=0), predicted(by_code, code=1))
    np.testing.assert_array_equal(predicted(by_code, time=10), predicted(by_code, time=14))
    assert not np.allclose(predicted(by_number, time=10), predicted(by_number, time=14))
    np.testing.assert_array_equal(predicted(by_number, code=0), predicted(by_number, code=-1))


def test_an_unseen_time_lies_between_its_neighbours():
    """Sinusoids vary smoothly with time, so one between two others is predicted near them."""
    graphdef, parameters = init_model(_config("continuous"), DIMS, 0)
    at = {
        time: np.asarray(predict(graphdef, parameters, _inputs(time=time)).cells)
        for time in (10, 10.25, 10.5, 19)
    }
    near, far = np.abs(at[10.25] - at[10]).max(), np.abs(at[19] - at[10]).max()
    assert 0 < near < np.abs(at[10.5] - at[10]).max() < far


def test_an_unseen_category_is_the_mean_timepoint():
    graphdef, parameters = init_model(_config("categorical"), DIMS, 0)
    table = parameters["timepoint_embedding.table"]
    # All timepoints the mean one: then a code no longer matters.
    same = {**parameters, "timepoint_embedding.table": jnp.tile(table.mean(0), (3, 1))}
    unseen = predict(graphdef, parameters, _inputs(code=-1)).cells
    np.testing.assert_allclose(predict(graphdef, same, _inputs(code=2)).cells, unseen, atol=1e-6)


def test_scalars_act_through_their_weight():
    graphdef, parameters = init_model(_config(scalars=True), DIMS, 0)
    assert parameters["scalar_encoder.weight_scale"] == pytest.approx(0.3)
    some, others = (jnp.full((1, 4, 2), value) for value in (0.0, 2.0))

    def predicted(parameters, scalars):
        return predict(graphdef, parameters, _inputs(scalars=scalars)).cells

    assert not np.allclose(predicted(parameters, some), predicted(parameters, others))
    off = {**parameters, "scalar_encoder.weight_scale": jnp.zeros(())}
    np.testing.assert_array_equal(predicted(off, some), predicted(off, others))
    logged = predict(graphdef, parameters, _inputs(scalars=some)).diagnostics["scalar_weight"]
    assert logged == pytest.approx(0.3)


def test_scalars_are_standardised_by_the_training_cells():
    obs = pd.DataFrame({"a": [1.0, 3.0, 100.0, np.nan], "constant": 5})
    columns = fit_scalars(obs, ("a", "constant"), np.array([0, 1]))
    values = read_scalars(obs, columns)
    assert values is not None
    np.testing.assert_allclose(values[:, 0], [-1, 1, 98, 0])
    np.testing.assert_array_equal(values[:, 1], 0)
    assert read_scalars(obs, ()) is None


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("aa", "unknown obs column in model.scalars.columns 'aa'"),
        ("word", "must hold numbers"),
        ("empty", "NaN for all training cells"),
        ("endless", "infinite values"),
    ],
)
def test_columns_that_cannot_be_read_are_refused(column, message):
    obs = pd.DataFrame({"a": [1.0], "word": ["x"], "empty": [np.nan], "endless": [np.inf]})
    with pytest.raises(UserError, match=message):
        fit_scalars(obs, (column,), np.array([0]))
