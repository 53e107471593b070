"""Adapters: equal to the base at first, scaled as published, where PEFT puts them, mergeable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from flax import nnx
from tiny_run import cells_of, changed

from wound_jax.config import load_config
from wound_jax.errors import UserError
from wound_jax.models.functional import bind, init_model, merged, split
from wound_jax.models.layers import linear
from wound_jax.models.lora import LoraLinear, attach_adapters, merge_adapters
from wound_jax.models.settings import LoraSettings

LORA = ("model.lora.enable=true", "model.lora.r=4", "model.dropout=0")
backbones = pytest.mark.parametrize("backbone", ["gpt2", "llama"])


def adapted_names(model) -> set[str]:
    return {name.removesuffix(".lora_a") for name in model[1] if name.endswith(".lora_a")}


def with_random_b(model):
    rng = np.random.default_rng(0)
    values = {
        name: rng.normal(size=v.shape, scale=0.1).astype(np.float32)
        for name, v in model[1].items()
        if name.endswith(".lora_b")
    }
    return changed(model, values)


def base_of(model, *overrides):
    """The model without adapters and with the same base."""
    graphdef, parameters = tiny_run.model(*overrides)
    values = {name.replace(".base.", "."): v for name, v in model[1].items() if "lora_" not in name}
    assert set(values) == set(parameters)
    return graphdef, values


@pytest.mark.parametrize(("rslora", "scale"), [(False, 12.0 / 4), (True, 12.0 / 2)])
def test_an_adapted_layer_computes_the_formula(rslora, scale):
    """y = W x + b + s (x A) B, s = alpha / r or alpha / sqrt(r), against float64."""
    rngs = nnx.Rngs(params=0)
    base = linear(6, 5, dtype=jnp.dtype("float32"), rngs=rngs)
    layer = LoraLinear(base, LoraSettings(r=4, alpha=12.0, rslora=rslora), rngs=rngs)
    assert layer.scale == scale
    rng = np.random.default_rng(0)
    layer.lora_b[...] = jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)
    x, bias = rng.normal(size=(2, 3, 6)), base.bias
    assert bias is not None
    w, b, lora_a, lora_b = (
        np.asarray(value[...], float) for value in (base.kernel, bias, layer.lora_a, layer.lora_b)
    )
    expected = x @ w + b + scale * (x @ lora_a) @ lora_b
    np.testing.assert_allclose(layer(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)
    plain = layer.merged()
    np.testing.assert_allclose(plain.kernel[...], w + scale * lora_a @ lora_b, atol=1e-6)
    np.testing.assert_allclose(plain(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)
    # The base itself is left as it was.
    np.testing.assert_array_equal(base.kernel[...], w.astype(np.float32))


def test_a_starts_uniform_in_the_fan_in_and_b_at_zero():
    """PEFT: kaiming_uniform(a=sqrt 5), which is U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    rngs = nnx.Rngs(params=0)
    base = linear(400, 100, dtype=jnp.dtype("float32"), rngs=rngs)
    layer = LoraLinear(base, LoraSettings(r=50), rngs=rngs)
    a = np.asarray(layer.lora_a[...])
    assert 0.049 < np.abs(a).max() <= 400**-0.5
    assert abs(a.mean()) < 5 * 0.05 / np.sqrt(3 * a.size)
    assert a.std() == pytest.approx(0.05 / np.sqrt(3), rel=0.02)
    assert (np.asarray(layer.lora_b[...]) == 0).all()


@backbones
def test_an_adapted_model_starts_equal_to_its_base(backbone):
    settings = (f"model.backbone={backbone}", "model.dropout=0")
    model, inputs = tiny_run.model(*settings, *LORA[:2]), tiny_run.inputs()
    base = base_of(model, *settings)
    np.testing.assert_array_equal(cells_of(model, inputs), cells_of(base, inputs))
    trained = cells_of(with_random_b(model), inputs)
    assert np.abs(trained - cells_of(base, inputs)).max() > 1e-3


@backbones
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_adapters_are_plain_weights_and_predict_the_same(backbone, dtype):
    settings = (f"model.backbone={backbone}", f"model.dtype={dtype}", "model.dropout=0")
    model = with_random_b(tiny_run.model(*settings, *LORA[:2], "model.lora.rslora=true"))
    plain = merged(*model)
    base = base_of(model, *settings)
    assert {name: v.shape for name, v in plain[1].items()} == {
        n: v.shape for n, v in base[1].items()
    }
    module = bind(*model)
    merge_adapters(module)
    for name, kernel in split(module)[1].items():
        assert kernel.dtype == np.float32
        path = name.removesuffix(".kernel")
        delta = np.zeros(kernel.shape)
        if path in adapted_names(model):
            factors = (np.asarray(model[1][f"{path}.lora_{x}"], float) for x in "ab")
            delta = 32.0 / 2.0 * np.matmul(*factors)
        # Round trip: what was added can be taken away again.
        np.testing.assert_allclose(kernel - delta, base[1][name], atol=1e-6, err_msg=name)
        # Summed in float32, and rounded once to what it multiplies in.
        wanted = kernel.astype(dtype) if name.endswith("kernel") else kernel
        assert plain[1][name].dtype == wanted.dtype
        np.testing.assert_array_equal(plain[1][name], wanted, err_msg=name)
    inputs = tiny_run.inputs()
    tolerance = 1e-5 if dtype == "float32" else 3e-2
    np.testing.assert_allclose(cells_of(plain, inputs), cells_of(model, inputs), atol=tolerance)


def test_merging_without_adapters_changes_nothing():
    model = tiny_run.model("model.backbone=gpt2")
    plain = merged(*model)
    assert plain[0] == model[0]
    for name, value in plain[1].items():
        np.testing.assert_array_equal(value, model[1][name])


def test_the_published_number_of_adapter_parameters():
    """State Transition of arc-state 0.11: gpt2, width 328, 8 layers, r 16: 461,824 in adapters."""
    settings = (
        "model.backbone=gpt2", "model.hidden_dim=328", "model.layers=8", "model.heads=8",
        "model.lora.enable=true", "model.lora.r=16",
    )  # fmt: skip
    config = load_config(None, settings).model
    shapes = jax.eval_shape(lambda: init_model(config, tiny_run.DIMS, 0)[1])
    assert sum(v.size for name, v in shapes.items() if ".lora_" in name) == 461_824


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("model.backbone=gpt2", "attention.c_attn attention.c_proj mlp.c_proj"),
        (
            "model.backbone=gpt2 model.lora.adapt_mlp=true",
            "attention.c_attn attention.c_proj mlp.c_proj mlp.c_fc",
        ),
        (
            "model.backbone=llama",
            "attention.q_proj attention.k_proj attention.v_proj attention.o_proj",
        ),
        (
            "model.backbone=llama model.lora.adapt_mlp=true",
            "attention.q_proj attention.k_proj attention.v_proj attention.o_proj "
            "mlp.gate_proj mlp.up_proj mlp.down_proj",
        ),
        (
            "model.backbone=llama model.lora.targets=[v_proj,up_proj]",
            "attention.v_proj mlp.up_proj",
        ),
    ],
)
def test_which_projections_are_adapted(settings, expected):
    model = tiny_run.model(*settings.split(), *LORA, "model.layers=2")
    assert adapted_names(model) == {
        f"backbone.blocks.{i}.{name}" for i in (0, 1) for name in expected.split()
    }


def test_an_unknown_target_lists_the_modules():
    with pytest.raises(UserError) as error:
        tiny_run.model("model.backbone=gpt2", *LORA, "model.lora.targets=[c_atn]")
    assert str(error.value) == (
        "unknown LoRA target 'c_atn'. Did you mean 'c_attn'? Known: c_attn, c_fc, c_proj."
    )


def test_adapters_are_attached_and_merged_in_place():
    class Pair(nnx.Module):
        def __init__(self, rngs):
            self.inner = linear(3, 3, dtype=jnp.dtype("float32"), rngs=rngs)
            self.outer = nnx.List([linear(3, 3, dtype=jnp.dtype("float32"), rngs=rngs)])

    pair, rngs = Pair(nnx.Rngs(params=0)), nnx.Rngs(params=1)
    assert attach_adapters(pair, ["inner"], LoraSettings(), rngs=rngs) == ["inner"]
    assert isinstance(pair.inner, LoraLinear)
    merge_adapters(pair)
    assert isinstance(pair.inner, nnx.Linear)


def test_adapter_dropout_acts_with_a_key_only():
    model = with_random_b(tiny_run.model("model.backbone=gpt2", *LORA, "model.lora.dropout=0.5"))
    inputs, key = tiny_run.inputs(), jax.random.key(0)
    noisy = cells_of(model, inputs, key)
    assert np.abs(noisy - cells_of(model, inputs)).max() > 1e-3
    np.testing.assert_array_equal(noisy, cells_of(model, inputs, key))
    # Dropout is on the adapter's path alone: without B there is nothing to thin.
    fresh = tiny_run.model("model.backbone=gpt2", *LORA, "model.lora.dropout=0.5")
    np.testing.assert_array_equal(cells_of(fresh, inputs, key), cells_of(fresh, inputs))


def test_at_the_start_only_b_has_a_gradient():
    graphdef, parameters = tiny_run.model("model.backbone=llama", *LORA)
    gradients = jax.jit(
        jax.grad(lambda p, inputs: (tiny_run.predict(graphdef, p, inputs).cells ** 2).sum())
    )(parameters, tiny_run.inputs())
    for name in adapted_names((graphdef, parameters)):
        assert (np.asarray(gradients[f"{name}.lora_a"]) == 0).all()
        assert np.abs(gradients[f"{name}.lora_b"]).max() > 0
