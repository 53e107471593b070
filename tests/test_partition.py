"""Which parameters train, how many they are, and what the optimiser does to each."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_run

from wound_jax.config import load_config
from wound_jax.models.functional import init_model
from wound_jax.models.partition import (
    FROZEN,
    format_parameter_table,
    label_parameters,
    parameter_table,
    partition,
)
from wound_jax.models.set_transformer import ModelDims
from wound_jax.models.settings import BACKBONES
from wound_jax.training.optimizer import make_optimizer, make_schedule
from wound_jax.training.settings import OPTIMIZERS, AdamWTraining, TrainingSettings

DIMS = ModelDims(features=12, perturbations=3, replicates=4, timepoints=3, genes=20, scalars=2)
# What may be added to a model, and a parameter that is there only then.
ADDED = {
    "model.decoder.enable=true": "gene_decoder.out.kernel",
    "model.batch_embedding=true": "replicate_embedding.table",
    "model.timepoint_embedding=categorical": "timepoint_embedding.table",
    "model.timepoint_embedding=continuous": "timepoint_embedding.map.kernel",
    "model.scalars.enable=true": "scalar_encoder.map.kernel",
    "model.mhc.enable=true": "backbone.residual",
}


def shapes_of(*overrides: str) -> dict:
    config = load_config(None, [*tiny_run.SMALL, "data.input=obsm/E", *overrides]).model
    return jax.eval_shape(lambda: init_model(config, DIMS, 0)[1])


def expected_label(name: str, lora: bool) -> str:
    """The rules once more, as a person would say them."""
    last = name.rpartition(".")[2]
    if last in ("lora_a", "lora_b"):
        return last
    if name.startswith("backbone.residual."):
        return "mhc" if last in ("phi", "logits") else "mhc_no_decay"
    if name.startswith("backbone.") and lora:
        return "frozen"
    if last in ("bias", "scale", "weight_scale"):
        return "no_decay"
    return "backbone" if name.startswith("backbone.") else "head"


@pytest.mark.parametrize("backbone", BACKBONES.names())
@pytest.mark.parametrize("lora", [False, True])
def test_every_parameter_has_the_label_it_should_have(backbone, lora):
    base = (f"model.backbone={backbone}", f"model.lora.enable={str(lora).lower()}")
    for added in [(), *((one,) for one in ADDED), tuple(ADDED)]:
        shapes = shapes_of(*base, *added)
        assert label_parameters(shapes, lora=lora) == {n: expected_label(n, lora) for n in shapes}
        if len(added) == 1:
            assert any(name.startswith(ADDED[added[0]]) for name in shapes)


def test_the_legacy_mixing_of_features_decays_its_logits_and_not_its_gate():
    names = [f"backbone.residual.connections.0.{name}" for name in ("logits", "g")]
    for lora in (False, True):
        assert list(label_parameters(names, lora=lora).values()) == ["mhc", "mhc_no_decay"]


@pytest.mark.parametrize("name", ["router.kernel", "control_encoder_2.kernel", "my.backbone.bias"])
def test_a_parameter_without_a_rule_is_an_error(name):
    with pytest.raises(KeyError, match=f"no partition rule covers parameter '{name}'"):
        label_parameters(["backbone.norm.scale", name], lora=False)


def test_the_parts_are_disjoint_and_complete():
    names = ("backbone.norm.scale", "backbone.x.lora_a", "project_out.0.kernel")
    parameters = {name: jnp.ones(i) for i, name in enumerate(names)}
    trainable, frozen = partition(parameters, label_parameters(parameters, lora=True))
    assert list(frozen) == ["backbone.norm.scale"]
    assert list(trainable) == ["backbone.x.lora_a", "project_out.0.kernel"]
    assert all({**trainable, **frozen}[name] is value for name, value in parameters.items())


@pytest.mark.parametrize("lora", [False, True])
def test_the_counts_add_up(lora):
    shapes = shapes_of(f"model.lora.enable={str(lora).lower()}", *ADDED)
    labels = label_parameters(shapes, lora=lora)
    table = parameter_table(shapes, labels)
    of_backbone = sum(v.size for name, v in shapes.items() if name.startswith("backbone."))
    everything = sum(v.size for v in shapes.values())
    assert table["total"] == {"backbone": of_backbone, "heads": everything - of_backbone}
    for part in ("backbone", "heads"):
        by_label = {label: count[part] for label, count in table["labels"].items()}
        assert sum(by_label.values()) == table["total"][part]
        assert table["trainable"][part] == table["total"][part] - by_label.get(FROZEN, 0)
    trained = sum(table["trainable"].values())
    assert trained == sum(v.size for name, v in shapes.items() if labels[name] != FROZEN)
    assert (trained == everything) is not lora
    text = format_parameter_table(table)
    share = 100 * table["trainable"]["backbone"] / of_backbone
    assert f"{share:.2f} % of the backbone, {100 * trained / everything:.2f} % of all" in text
    assert f"{everything:,}" in text


def schedule(n: int, **settings) -> list[float]:
    config = AdamWTraining(learning_rate=0.5, **settings)
    return [np.asarray(make_schedule(config, n)(k)).item() for k in range(n)]


def test_the_rate_warms_up_from_the_first_step_and_stays():
    expected = [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(schedule(6, warmup_steps=4), expected, rtol=1e-6)
    assert schedule(4, warmup_steps=1) == schedule(4) == [0.5] * 4


def test_the_rate_falls_as_half_a_cosine_after_the_warm_up():
    n, warmup = 20, 5
    fall = [0.25 * (1 + np.cos(np.pi * (k - warmup) / (n - warmup))) for k in range(warmup, n)]
    ramp = [0.5 * (k + 1) / warmup for k in range(warmup)]
    found = schedule(n, warmup_steps=warmup, schedule="cosine")
    np.testing.assert_allclose(found, ramp + fall, rtol=1e-5)
    np.testing.assert_allclose(schedule(n, schedule="cosine")[0], 0.5)


LABELS = {
    "w": "head", "b": "no_decay", "a.lora_a": "lora_a", "a.lora_b": "lora_b",
    "phi": "mhc", "a_pre": "mhc_no_decay", "x": "backbone",
}  # fmt: skip


def adamw(gradients: list[dict], start: dict, config: TrainingSettings) -> dict:
    """AdamW (arXiv 1711.05101) in float64, with a clip over all leaves and LoRA+."""
    p = dict(start)
    m, v = ({name: np.zeros_like(x) for name, x in p.items()} for _ in range(2))
    for t, raw in enumerate(gradients, start=1):
        norm = np.sqrt(sum((g**2).sum() for g in raw.values()))
        factor = min(1.0, config.clip_norm / norm) if config.clip_norm else 1.0
        for name, label in LABELS.items():
            g = factor * raw[name]
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.999 * v[name] + 0.001 * g**2
            step = m[name] / (1 - 0.9**t) / (np.sqrt(v[name] / (1 - 0.999**t)) + 1e-8)
            if isinstance(config, AdamWTraining) and "no_decay" not in label:
                step = step + config.weight_decay * p[name]
            plus = config.lora_b_multiplier if label == "lora_b" else 1.0
            p[name] = p[name] - config.learning_rate * plus * step
    return p


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"optimizer": "adam", "clip_norm": None},
        {"optimizer": "adam", "clip_norm": 0.5},
        {"optimizer": "adamw", "weight_decay": 0.3},
        {"optimizer": "adamw", "weight_decay": 0.3, "lora_b_multiplier": 16.0, "clip_norm": 0.5},
    ],
)
def test_the_optimiser_against_its_definition(settings):
    chosen = OPTIMIZERS.settings(settings["optimizer"])
    config = chosen(learning_rate=0.01, **settings)
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=(3, 4)) for name in LABELS}
    # Steps of very different size: Adam alone forgets the scale, so equal ones would hide a clip.
    gradients = [
        {name: size * rng.normal(size=(3, 4)) for name in LABELS} for size in (30.0, 0.01, 1.0)
    ]
    with jax.enable_x64(True):
        optimizer = make_optimizer(config, LABELS, make_schedule(config, 3))
        parameters = {name: jnp.asarray(value) for name, value in start.items()}
        state = optimizer.init(parameters)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, parameters)
            parameters = cast(dict, optax.apply_updates(parameters, updates))
    for name, expected in adamw(gradients, start, config).items():
        np.testing.assert_allclose(parameters[name], expected, rtol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def trained():
    """Three steps of a tiny run with adapters: the run, parameters before and after, metrics."""
    run = tiny_run.new_run(*tiny_run.LORA)
    before = {name: np.array(v) for name, v in run.state.parameters.items()}
    state, metrics = tiny_run.steps(run, 3)
    return run, before, {name: np.array(v) for name, v in state.parameters.items()}, metrics


def test_frozen_parameters_keep_every_bit_and_all_others_move(trained):
    run, before, after, _ = trained
    assert set(run.model.labels.values()) == {FROZEN, "lora_a", "lora_b", "head", "no_decay"}
    for name, label in run.model.labels.items():
        moved = before[name].tobytes() != after[name].tobytes()
        assert moved == (label != FROZEN), name


def test_only_what_trains_is_logged_and_a_moves_after_b(trained):
    _, _, _, metrics = trained
    assert not [found for found in metrics if f"grad_norm/{FROZEN}" in found]
    assert float(metrics[0]["grad_norm/lora_a"]) == 0.0 < float(metrics[0]["grad_norm/lora_b"])
    assert float(metrics[1]["grad_norm/lora_a"]) > 0.0


def test_the_optimiser_keeps_no_state_for_frozen_parameters():
    state = tiny_run.new_run(*tiny_run.LORA).state
    trained = sum(v.size for v in state.trainable.values())
    moments = sum(v.size for v in jax.tree.leaves(state.opt_state) if v.ndim)
    assert moments == 2 * trained
