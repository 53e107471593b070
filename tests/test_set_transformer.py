"""The set transformer: a map between sets, equivariant, blind to padding, as its config says."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from flax import nnx
from tiny_run import cells_of, changed, zeroed

from wound_jax.config import load_config
from wound_jax.errors import UserError
from wound_jax.models import dropout as dropouts
from wound_jax.models.backbones import gpt2, llama
from wound_jax.models.functional import abstract_model, merged, predict
from wound_jax.models.layers import dropout
from wound_jax.models.settings import BACKBONES

BOTH = ("model.batch_embedding=true", "model.timepoint_embedding=categorical")
FAMILIES = {
    "gpt2": ("model.backbone=gpt2", *BOTH),
    "llama": ("model.backbone=llama", "model.kv_heads=2", *BOTH),
}
families = pytest.mark.parametrize("family", FAMILIES)


def permuted(inputs, order):
    return replace(
        inputs,
        control=inputs.control[:, order],
        mask=inputs.mask[:, order],
        replicate=inputs.replicate[:, order],
    )


def check_equivariance(model):
    inputs, order = tiny_run.inputs(), np.random.default_rng(0).permutation(8)
    inputs.mask[:, 6:] = False
    expected = cells_of(model, inputs)[:, order]
    found = cells_of(model, permuted(inputs, order))
    real = inputs.mask[:, order]
    np.testing.assert_allclose(found[real], expected[real], atol=2e-6)


@families
def test_permuted_cells_give_permuted_predictions(family):
    check_equivariance(tiny_run.model(*FAMILIES[family]))


@families
def test_causal_attention_sees_the_order_and_only_what_is_before(family):
    model = tiny_run.model(*FAMILIES[family], "model.attention=causal", "model.layers=1")
    # Initial attention weights are small; larger ones make the order visible.
    model = changed(model, {n: 20 * v for n, v in model[1].items() if "attention" in n})
    inputs, order = tiny_run.inputs(), np.arange(8)[::-1]
    there = cells_of(model, inputs)
    assert np.abs(cells_of(model, permuted(inputs, order)) - there[:, order]).max() > 1e-2
    inputs.control[:, 5:] += 1.0
    np.testing.assert_array_equal(cells_of(model, inputs)[:, :5], there[:, :5])


@families
def test_the_cells_of_a_set_see_each_other(family):
    model, inputs = tiny_run.model(*FAMILIES[family]), tiny_run.inputs()
    there = cells_of(model, inputs)
    inputs.control[:, 7] += 5.0
    assert (np.abs(cells_of(model, inputs) - there)[:, :7].max(axis=(1, 2)) > 1e-6).all()


@families
def test_padding_changes_neither_value_nor_gradient(family):
    graphdef, parameters = tiny_run.model(*FAMILIES[family])
    inputs = tiny_run.inputs()
    inputs.mask[0, 5:], inputs.mask[1, :3], inputs.mask[2] = False, False, False
    padding, placed = ~inputs.mask, jax.tree.map(jnp.asarray, inputs)

    def total(parameters, control, replicate):
        given = replace(placed, control=control, replicate=replicate)
        cells = predict(graphdef, parameters, given).cells
        return (jnp.where(inputs.mask[..., None], cells, 0.0) ** 2).sum(), cells

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, expected), (gradients, _) = step(parameters, inputs.control, inputs.replicate)
    for garbage in (0.0, -1e6, 1e6):
        control = np.where(padding[..., None], garbage, inputs.control).astype(np.float32)
        replicate = np.where(padding, 3, inputs.replicate).astype(np.int32)
        (_, cells), (found, of_control) = step(parameters, control, replicate)
        assert np.isfinite(cells).all()
        np.testing.assert_array_equal(cells[inputs.mask], expected[inputs.mask])
        assert (np.asarray(of_control)[padding] == 0).all()
        for name, gradient in gradients.items():
            assert np.isfinite(gradient).all(), name
            np.testing.assert_allclose(found[name], gradient, rtol=1e-6, atol=1e-7, err_msg=name)


@families
def test_a_padded_set_predicts_what_the_shorter_set_predicts(family):
    model, inputs = tiny_run.model(*FAMILIES[family]), tiny_run.inputs()
    short = permuted(inputs, np.arange(5))
    inputs.mask[:, 5:] = False
    expected = cells_of(model, short)
    np.testing.assert_allclose(cells_of(model, inputs)[:, :5], expected, atol=2e-6)


@families
def test_sets_do_not_know_of_each_other(family):
    model, inputs = tiny_run.model(*FAMILIES[family]), tiny_run.inputs()
    there = cells_of(model, inputs)
    inputs.control[1] = 100.0
    inputs.mask[1, 2:] = False
    inputs.perturbation[1] = 0
    found = cells_of(model, inputs)
    np.testing.assert_array_equal(found[[0, 2]], there[[0, 2]])
    assert np.abs(found[1] - there[1]).max() > 1.0


def test_residual_output_shifts_each_control_cell():
    model, inputs = tiny_run.model("model.residual=output"), tiny_run.inputs()
    np.testing.assert_array_equal(cells_of(zeroed(model, "project_out."), inputs), inputs.control)
    assert np.abs(cells_of(model, inputs) - inputs.control).max() > 0.1


def test_residual_none_is_the_projection_alone():
    model, inputs = tiny_run.model("model.residual=none"), tiny_run.inputs()
    check_equivariance(model)
    assert (cells_of(zeroed(model, "project_out."), inputs) == 0).all()
    # A backbone whose last norm is 0 leaves nothing of the cell.
    constant = cells_of(zeroed(model, "backbone.norm."), inputs)
    np.testing.assert_array_equal(constant, np.broadcast_to(constant[:1, :1], constant.shape))


def test_residual_hidden_adds_the_encoded_control_cell():
    model = tiny_run.model("model.residual=hidden", "model.decoder_layers=1")
    check_equivariance(model)
    model = zeroed(model, "backbone.norm.")
    inputs, p = tiny_run.inputs(), {name: np.asarray(v, float) for name, v in model[1].items()}
    encoded = inputs.control @ p["control_encoder.kernel"] + p["control_encoder.bias"]
    expected = encoded @ p["project_out.layers.0.kernel"] + p["project_out.layers.0.bias"]
    np.testing.assert_allclose(cells_of(model, inputs), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("activation", "non_negative", "rectified"),
    [
        ("auto", True, True),
        ("auto", False, False),
        ("relu", False, True),
        ("relu", True, True),
        ("none", True, False),
        ("none", False, False),
    ],
)
def test_only_a_non_negative_space_is_rectified_by_default(activation, non_negative, rectified):
    """A space with negative values (an embedding) stays as it is unless the config says else."""
    dims, inputs = replace(tiny_run.DIMS, non_negative=non_negative), tiny_run.inputs()
    free = cells_of(tiny_run.model("model.output_activation=none"), inputs)
    assert free.min() < 0
    found = cells_of(tiny_run.model(f"model.output_activation={activation}", dims=dims), inputs)
    np.testing.assert_array_equal(found, np.maximum(free, 0) if rectified else free)


@pytest.mark.parametrize("field", ["replicate", "timepoint"])
def test_an_embedding_acts_and_an_unseen_code_gets_the_mean(field):
    model, inputs = tiny_run.model(*FAMILIES["llama"]), tiny_run.inputs()
    codes, table = getattr(inputs, field), f"{field}_embedding.table"
    there = cells_of(model, inputs)
    other = cells_of(model, replace(inputs, **{field: (codes + 1) % 3}))
    assert np.abs(other - there).max() > 1e-3
    unseen = cells_of(model, replace(inputs, **{field: np.full_like(codes, -1)}))
    mean = np.broadcast_to(model[1][table].mean(0), model[1][table].shape)
    averaged = changed(model, {table: jnp.asarray(mean)})
    np.testing.assert_allclose(unseen, cells_of(averaged, inputs), atol=2e-6)


def test_without_embeddings_replicate_and_timepoint_change_nothing():
    model, inputs = tiny_run.model("model.output_activation=none"), tiny_run.inputs()
    other = replace(inputs, replicate=inputs.replicate * 0 - 1, timepoint=inputs.timepoint * 0 - 1)
    np.testing.assert_array_equal(cells_of(model, inputs), cells_of(model, other))
    assert not [name for name in model[1] if "embedding" in name]


def test_the_perturbation_is_told():
    model, inputs = tiny_run.model("model.output_activation=none"), tiny_run.inputs()
    other = replace(inputs, perturbation=(inputs.perturbation + 1) % 3)
    assert np.abs(cells_of(model, inputs) - cells_of(model, other)).max() > 1e-3


@families
def test_dropout_acts_with_a_key_only(family):
    model, inputs = tiny_run.model(*FAMILIES[family]), tiny_run.inputs()
    one, two = jax.random.key(1), jax.random.key(2)
    plain, noisy = cells_of(model, inputs), cells_of(model, inputs, one)
    np.testing.assert_array_equal(noisy, cells_of(model, inputs, one))
    assert np.abs(noisy - plain).max() > 1e-3
    assert np.abs(noisy - cells_of(model, inputs, two)).max() > 1e-3


@pytest.mark.parametrize(
    ("overrides", "places"),
    [
        # One behind each hidden activation of the encoder and of the projection.
        ((), 2 + 3),
        (("model.dropout=0",), 0),
        # In front of each adapter: c_attn, and c_proj twice.
        (("model.backbone=gpt2", "model.lora.enable=true"), 2 + 3 + 3),
        (("data.input=obsm/E", "model.decoder.enable=true", "model.decoder.hidden_dims=[8]"), 6),
    ],
)
def test_dropout_acts_in_each_of_its_places(overrides, places, monkeypatch):
    dims = replace(tiny_run.DIMS, genes=5 if "model.decoder.enable=true" in overrides else 0)
    layers = ("model.encoder_layers=3", "model.decoder_layers=4")
    config = load_config(None, [*tiny_run.SMALL, *layers, *overrides]).model
    graphdef, shapes = abstract_model(config, dims)
    thinned = []
    monkeypatch.setattr(dropouts, "_drop", lambda x, key, rate: thinned.append(rate) or x)

    def predicted(parameters, inputs):
        return predict(graphdef, parameters, inputs, jax.random.key(0)).cells

    jax.eval_shape(predicted, shapes, tiny_run.inputs())
    assert len(thinned) == places


def test_dropout_keeps_the_mean():
    """Kept values are scaled by 1/(1-rate); 40,000 of them put the mean within four deviations."""
    x, rngs = jnp.ones((200, 200)), nnx.Rngs(dropout=0)
    assert dropout(x, 0.25, None) is x
    assert dropout(x, 0.0, rngs) is x
    thinned = dropout(x, 0.25, rngs)
    assert set(np.unique(thinned)) == {0.0, np.float32(1 / 0.75)}
    assert abs(float(thinned.mean()) - 1.0) < 4 * np.sqrt(0.25 / 0.75 / 40_000)


@families
def test_bfloat16_stays_near_float32(family):
    """Eight bits of mantissa: within 3 % of the largest shift."""
    inputs = tiny_run.inputs()
    exact = cells_of(tiny_run.model(*FAMILIES[family]), inputs) - inputs.control
    model = tiny_run.model(*FAMILIES[family], "model.dtype=bfloat16")
    assert {value.dtype for value in model[1].values()} == {jnp.dtype("float32")}
    cells = cells_of(model, inputs)
    assert cells.dtype == np.float32
    error = np.abs(cells - inputs.control - exact).max()
    assert 0 < error < 0.03 * np.abs(exact).max()


@families
def test_weights_that_are_rounded_once_compute_the_same_to_the_last_bit(family):
    graphdef, parameters = tiny_run.model(*FAMILIES[family], "model.dtype=bfloat16")
    rounded, half = merged(graphdef, parameters)
    kernels = {name for name in half if name.endswith("kernel")}
    assert {half[name].dtype for name in kernels} == {jnp.dtype("bfloat16")}
    assert {half[name].dtype for name in half.keys() - kernels} == {jnp.dtype("float32")}
    inputs = tiny_run.inputs()
    np.testing.assert_array_equal(
        cells_of((rounded, half), inputs), cells_of((graphdef, parameters), inputs)
    )


def test_the_gene_decoder_predicts_non_negative_genes_beside_the_cells():
    dims, inputs = replace(tiny_run.DIMS, genes=20), tiny_run.inputs()
    graphdef, parameters = tiny_run.model(
        "data.input=obsm/E",
        "model.decoder.enable=true",
        "model.decoder.hidden_dims=[32, 24]",
        "model.dropout=0",
        dims=dims,
    )
    prediction = tiny_run.jitted(graphdef, parameters, inputs)
    genes = np.asarray(prediction.genes)
    assert genes.shape == (3, 8, 20)
    assert genes.dtype == np.float32
    assert genes.min() == 0 < genes.max()
    assert prediction.cells.min() < 0
    noisy = tiny_run.jitted(graphdef, parameters, inputs, jax.random.key(0))
    np.testing.assert_array_equal(noisy.cells, prediction.cells)
    assert np.abs(np.asarray(noisy.genes) - genes).max() > 1e-3


def test_initial_values_follow_the_seed():
    again = tiny_run.model.__wrapped__("model.output_activation=none")[1]
    other = tiny_run.model("model.output_activation=none", seed=1)[1]
    for name, value in tiny_run.model("model.output_activation=none")[1].items():
        np.testing.assert_array_equal(value, again[name])
        if name.endswith("kernel"):
            assert np.abs(value - other[name]).max() > 1e-3, name


@pytest.mark.parametrize(
    ("backbone", "stds"),
    [
        # What ends a branch is smaller by the root of the number of branches, 2 * 8.
        (gpt2, {"c_attn": 0.02, "c_fc": 0.02, "c_proj": 0.005}),
        (llama, dict.fromkeys(("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), 0.02)),
    ],
)
def test_projections_start_as_published(backbone, stds):
    name = backbone.__name__.rpartition(".")[2]
    config = load_config(None, [f"model.backbone={name}", "model.hidden_dim=64"]).model
    found = {}
    for kind in (backbone.Attention, backbone.Mlp):
        sublayer = kind(config, jnp.dtype("float32"), nnx.Rngs(0))
        for (layer, *_), parameter in nnx.to_flat_state(nnx.state(sublayer)):
            values = np.asarray(parameter.get_value())
            if values.ndim == 2:
                found.setdefault(layer, []).append(values.std())
            else:
                assert (values == (layer == "norm")).all() or (values == 0).all()
    for layer, std in stds.items():
        # 4,096 values or more: four deviations of their spread.
        np.testing.assert_allclose(found[layer], std, rtol=4 / (2 * 4096) ** 0.5)


def test_an_unknown_backbone_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown backbone 'lama'\. Did you mean 'llama'\? Known:"):
        BACKBONES.settings("lama")
    assert {"gpt2", "llama"} <= set(BACKBONES.names())
    assert "base" not in BACKBONES.names()
