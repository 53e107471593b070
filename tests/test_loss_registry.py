"""The registry of losses, and the two losses that are nothing but arithmetic: combined and mse."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wound_jax.errors import UserError
from wound_jax.losses.registry import SetLossValue, make_loss, register_loss
from wound_jax.losses.settings import LOSSES, LossSettings

SINKHORN_OPTIONS = {
    "epsilon",
    "relative_epsilon",
    "blur",
    "scaling",
    "threshold",
    "max_iterations",
}


def options_of(name):
    return set(LOSSES.settings(name).model_fields) - {"name"}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def mask(*lengths, places):
    return jnp.arange(places)[None, :] < jnp.asarray(lengths)[:, None]


def loss_and_gradient(loss, predicted, *rest):
    def total(predicted):
        result = loss(predicted, *rest)
        return result.value.sum(), result

    gradient, result = jax.jit(jax.grad(total, has_aux=True))(predicted)
    return jax.tree.map(np.asarray, (result, gradient))


def published(shared, folder):
    """Predictions and targets of a recorded model in float64, and what it scored them."""
    root = shared / "fixtures" / "arc_state" / folder
    predicted = np.load(root / "outputs.npz")["preds_f64"].reshape(3, 8, -1)
    target = np.load(root / "inputs.npz")["pert_cell_emb"].astype(float).reshape(3, 8, -1)
    valid = np.ones((3, 8), bool)
    return (predicted, target, valid, valid), np.load(root / "losses.npz")


def test_the_losses_and_their_options():
    assert {"combined", "energy", "mse", "sinkhorn"} <= set(LOSSES.names())
    assert options_of("energy") == options_of("mse") == set()
    assert options_of("sinkhorn") == SINKHORN_OPTIONS
    assert options_of("combined") == {*SINKHORN_OPTIONS, "sinkhorn_weight"}


@pytest.mark.parametrize("name", LOSSES.names())
def test_every_loss_keeps_the_promises(name):
    """Empty sets, padding and shapes; the accuracy of each is tested in its own file."""
    loss = make_loss(name)
    x, y = normal(0, 3, 6, 4), normal(1, 3, 6, 4)
    valid = mask(6, 4, 0, places=6)
    got, gradient = loss_and_gradient(loss, x, y, valid, valid)
    noisy, noisy_gradient = loss_and_gradient(
        loss, jnp.where(valid[..., None], x, 1e20), y, valid, valid
    )
    assert all(figure.shape == (3,) for figure in jax.tree.leaves(got))
    assert np.isfinite(gradient).all()
    assert (got.value[:2] > 0).all()
    assert got.value[2] == 0
    assert (gradient[~np.asarray(valid)] == 0).all()
    np.testing.assert_array_equal(noisy.value, got.value)
    np.testing.assert_array_equal(noisy_gradient, gradient)


def test_a_loss_is_a_static_argument_of_jit():
    assert make_loss("sinkhorn", blur=1.0) == make_loss("sinkhorn", blur=1.0)
    assert hash(make_loss("combined")) == hash(make_loss("combined"))
    assert make_loss("sinkhorn", blur=1.0) != make_loss("sinkhorn", blur=2.0)


def test_an_unknown_loss_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown loss 'enrgy'. Did you mean 'energy'"):
        make_loss("enrgy")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sinkhorn", {"blurr": 1.0}, "option of the loss 'sinkhorn' 'blurr'. Did you mean 'blur'"),
        ("energy", {"blur": 1.0}, "unknown option of the loss 'energy' 'blur'. Known: none"),
        (
            "sinkhorn",
            {"epsilon": "relativ"},
            "'geomloss'. Did you mean 'relative'?",
        ),
        ("sinkhorn", {"blur": 0.0}, "blur: got 0.0, expected a number > 0."),
        (
            "sinkhorn",
            {"relative_epsilon": -1.0},
            "relative_epsilon: got -1.0, expected",
        ),
        ("sinkhorn", {"threshold": float("nan")}, "threshold: got nan, expected a number > 0."),
        ("sinkhorn", {"max_iterations": 0}, "max_iterations: got 0, expected an integer >= 1."),
        ("combined", {"scaling": 1.0}, "scaling: got 1.0, expected a number > 0 and < 1."),
        (
            "combined",
            {"sinkhorn_weight": -0.1},
            "sinkhorn_weight: got -0.1, expected a",
        ),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(UserError) as caught:
        make_loss(name, **options)
    assert message in str(caught.value)


def test_a_new_loss_is_one_decorated_class(monkeypatch):
    for table in ("_parts", "_settings", "_modules"):
        monkeypatch.setattr(LOSSES, table, dict(getattr(LOSSES, table)))

    @register_loss("nothing")
    class Nothing(LossSettings):
        offset: float = 0.0

        def __call__(self, predicted, target, predicted_mask, target_mask):
            return SetLossValue(jnp.full(predicted.shape[0], self.offset))

    assert options_of("nothing") == {"offset"}
    value = make_loss("nothing", offset=2.0)(normal(0, 2, 3, 4), *[jnp.zeros(())] * 3).value
    np.testing.assert_array_equal(value, [2.0, 2.0])
    with pytest.raises(ValueError, match="'nothing' is registered already"):
        register_loss("nothing")(Nothing)


def test_only_a_sinkhorn_that_runs_imports_ott():
    program = (
        "import sys, wound_jax.losses.registry as losses\n"
        "for name in losses.LOSSES.names(): losses.make_loss(name)\n"
        "assert not any(module.split('.')[0] == 'ott' for module in sys.modules), 'ott'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", ["gpt2bidir_hvg", "gpt2causal_emb_all_dec", "llamabidir_gqa"])
@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("sinkhorn", {"epsilon": "geomloss"}, "sinkhorn"),
        ("combined", {"epsilon": "geomloss"}, "se"),
        ("mse", {}, "mse"),
    ],
)
def test_agrees_with_the_published_models(shared, folder, name, options, key):
    sets, losses = published(shared, folder)
    with jax.enable_x64(True):
        got, gradient = loss_and_gradient(make_loss(name, **options), *map(jnp.asarray, sets))
    # Of mse only the mean over the sets was recorded.
    value = got.value.mean() if key == "mse" else got.value
    np.testing.assert_allclose(value, losses[f"{key}_per_set_f64"], rtol=1e-13)
    np.testing.assert_allclose(gradient / 3, losses[f"{key}_grad_f64"], rtol=0, atol=1e-12)


def test_combined_is_the_weighted_sum_of_its_terms():
    sets = normal(0, 2, 6, 4), normal(1, 2, 6, 4), *[mask(6, 3, places=6)] * 2
    energy, energy_gradient = loss_and_gradient(make_loss("energy"), *sets)
    sinkhorn, sinkhorn_gradient = loss_and_gradient(make_loss("sinkhorn"), *sets)
    got, gradient = loss_and_gradient(make_loss("combined", sinkhorn_weight=0.3), *sets)
    np.testing.assert_allclose(got.value, energy.value + 0.3 * sinkhorn.value, rtol=1e-6)
    np.testing.assert_allclose(gradient, energy_gradient + 0.3 * sinkhorn_gradient, atol=1e-6)
    np.testing.assert_allclose(got.diagnostics["energy"], energy.value, rtol=1e-6)
    np.testing.assert_allclose(got.diagnostics["sinkhorn"], sinkhorn.value, rtol=1e-5)
    assert set(got.diagnostics) == {"energy", "sinkhorn", "converged", "iterations"}


def test_mse_takes_the_pairs_valid_on_both_sides():
    x, y = normal(0, 2, 2, 5, 3)
    first, second = mask(4, 5, places=5), mask(5, 2, places=5)
    got, gradient = loss_and_gradient(make_loss("mse"), x, y, first, second)
    expected = [((x[0, :4] - y[0, :4]) ** 2).mean(), ((x[1, :2] - y[1, :2]) ** 2).mean()]
    np.testing.assert_allclose(got.value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[1, :2], 2 * (x - y)[1, :2] / 6, rtol=1e-5)
    assert (gradient[1, 2:] == 0).all()


def test_mse_refuses_sets_without_partners():
    loss = make_loss("mse")
    with pytest.raises(UserError, match=r"6 predicted and 7 target places .* such as 'energy'"):
        loss(normal(0, 2, 6, 4), normal(1, 2, 7, 4), mask(6, 6, places=6), mask(7, 7, places=7))
