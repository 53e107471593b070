"""mHC inside the whole network: where it starts, where it acts, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wound_jax.config import load_config
from wound_jax.errors import UserError
from wound_jax.models.functional import init_model, merged, predict
from wound_jax.models.set_transformer import ModelDims, SetInputs
from wound_jax.models.settings import BACKBONES, LoraSettings, MhcSettings, ModelSettings

DIMS = ModelDims(features=12, perturbations=2)
FORMS = {
    "sinkhorn": MhcSettings(enable=True),
    "five iterations": MhcSettings(enable=True, sinkhorn_iters=5),
    "birkhoff": MhcSettings(enable=True, h_res="birkhoff"),
    "identity": MhcSettings(enable=True, h_res="identity"),
    "two streams": MhcSettings(enable=True, streams=2),
    "remat": MhcSettings(enable=True, remat=True),
    "some layers": MhcSettings(enable=True, layer_indices=(0, 2)),
    "features": MhcSettings(enable=True, mixing="features"),
}


def _inputs(seed: int = 0) -> SetInputs:
    rng = np.random.default_rng(seed)
    return SetInputs(
        control=jnp.asarray(rng.normal(size=(3, 7, 12)), jnp.float32),
        mask=jnp.asarray(np.arange(7) < np.array([[7], [5], [1]])),
        perturbation=jnp.array([0, 1, 1]),
        timepoint=jnp.zeros(3, int),
        replicate=jnp.zeros((3, 7), int),
    )


def _config(backbone: str, mhc: MhcSettings, *, lora: bool) -> ModelSettings:
    return BACKBONES.settings(backbone)(
        hidden_dim=16, layers=3, heads=2, encoder_layers=2, decoder_layers=2,
        lora=LoraSettings(enable=lora, r=2), mhc=mhc,
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("backbone", ["gpt2", "llama"])
def test_at_initialisation_the_network_equals_the_one_without(backbone, lora, form):
    inputs = _inputs()
    plain = predict(*init_model(_config(backbone, MhcSettings(), lora=lora), DIMS, 0), inputs)
    mhc = predict(*init_model(_config(backbone, FORMS[form], lora=lora), DIMS, 0), inputs)
    np.testing.assert_allclose(mhc.cells, plain.cells, atol=1e-5, rtol=0)
    assert not plain.diagnostics
    assert mhc.diagnostics["mhc/forward_gain_max"] == pytest.approx(1, abs=1e-5)


def _perturbed(parameters):
    """Parameters as after some training: every one moved."""
    key = jax.random.key(1)
    return {
        name: value + 0.1 * jax.random.normal(jax.random.fold_in(key, i), value.shape)
        for i, (name, value) in enumerate(sorted(parameters.items()))
    }


@pytest.mark.parametrize("form", FORMS)
def test_moved_parameters_change_the_prediction(form):
    """The hyper-connections are read: in a network as after training, putting theirs back acts."""
    graphdef, initial = init_model(_config("llama", FORMS[form], lora=False), DIMS, 0)
    trained = _perturbed(initial)
    put_back = {
        name: initial[name] if name.startswith("backbone.residual.") else value
        for name, value in trained.items()
    }
    inputs = _inputs()
    difference = (
        predict(graphdef, trained, inputs).cells - predict(graphdef, put_back, inputs).cells
    )
    # Rounding is below 1e-6; mixing features moves a fraction exp(-6) of a tenth (g) by design.
    assert jnp.abs(difference).max() > (1e-5 if form == "features" else 1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_padding_and_order_of_cells_do_not_matter(form):
    graphdef, parameters = init_model(_config("gpt2", FORMS[form], lora=True), DIMS, 0)
    parameters, inputs = _perturbed(parameters), _inputs()
    expected = predict(graphdef, parameters, inputs)
    garbage = jnp.where(inputs.mask[..., None], inputs.control, 1e3)
    order = np.random.default_rng(2).permutation(7)
    shuffled = SetInputs(
        control=garbage[:, order],
        mask=inputs.mask[:, order],
        perturbation=inputs.perturbation,
        timepoint=inputs.timepoint,
        replicate=inputs.replicate,
    )
    found = predict(graphdef, parameters, shuffled)
    mask = np.asarray(inputs.mask)[:, order]
    np.testing.assert_allclose(
        found.cells[mask], expected.cells[:, order][mask], atol=2e-5, rtol=1e-4
    )
    for name, value in expected.diagnostics.items():
        np.testing.assert_allclose(found.diagnostics[name], value, rtol=1e-4, err_msg=name)


def test_adapters_merge_beside_hyper_connections():
    graphdef, parameters = init_model(_config("llama", FORMS["sinkhorn"], lora=True), DIMS, 0)
    parameters, inputs = _perturbed(parameters), _inputs()
    expected = predict(graphdef, parameters, inputs).cells
    found = predict(*merged(graphdef, parameters), inputs).cells
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_layers_outside_layer_indices_have_no_parameters():
    _, parameters = init_model(_config("llama", FORMS["some layers"], lora=False), DIMS, 0)
    connections = {name.split(".")[3] for name in parameters if ".residual." in name}
    # Two sublayers a layer: layers 0 and 2 are sublayers 0, 1 and 4, 5.
    assert connections == {"0", "1", "4", "5"}


def test_a_layer_out_of_range_is_refused():
    with pytest.raises(
        UserError, match=r"layer_indices names \[3\], but the model has layers 0 to 2"
    ):
        load_config(
            None,
            ["model.layers=3", "model.mhc.enable=true", "model.mhc.layer_indices=[0, 3]"],
        )


def test_all_layers_named_equal_null():
    inputs = _inputs()
    everything = MhcSettings(enable=True, layer_indices=(0, 1, 2))
    a = init_model(_config("gpt2", FORMS["sinkhorn"], lora=False), DIMS, 0)
    b = init_model(_config("gpt2", everything, lora=False), DIMS, 0)
    assert set(a[1]) == set(b[1])
    moved = _perturbed(a[1])
    np.testing.assert_array_equal(
        predict(a[0], moved, inputs).cells, predict(b[0], moved, inputs).cells
    )
