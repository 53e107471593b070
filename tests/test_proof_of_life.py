"""Every part that a shipped variant switches on acts, and what it freezes stays as it was.

For each variant a few steps on few cells: its parts have gradients and logged figures, their
parameters moved, and the frozen ones did not change by a bit.
"""

from pathlib import Path

import anndata as ad
import jax
import numpy as np
import pytest

from wound_jax.config import load_config
from wound_jax.config.keys import leaves
from wound_jax.data.prepare import prepare
from wound_jax.data.velocity.pseudotime import PseudotimeOptions, add_pseudotime_velocity
from wound_jax.errors import UserError
from wound_jax.training.setup import Run

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
VARIANTS = [
    "phase1_lora", "phase2_lora_mhc", "phase3_random_init", "lora_velocity", "lora_mhc_velocity",
    "full",
]  # fmt: skip
SMALL = [
    "model.hidden_dim=32", "model.layers=2", "model.heads=2", "model.encoder_layers=2",
    "model.decoder_layers=2", "data.cell_set_len=16", "training.batch_size=4",
    "training.max_steps=4", "training.max_epochs=null", "training.learning_rate=1e-2",
]  # fmt: skip
SYNTHETIC = [
    "data.source=synthetic", "data.synthetic.n_cells=3000", "data.synthetic.n_genes=300",
    "data.synthetic.embedding_dim=8", "split.controls=shared",
]  # fmt: skip
STEPS = 4


def _steps(config):
    """The run, its state before and after a few steps, and the metrics of each step."""
    run = Run(config, prepare(config))
    before = jax.device_get(run.state)
    state, logged = run.state, []
    for batch in run.epoch(0)[:STEPS]:
        state, metrics = run.step(state, run.feed.cells, run.feed.batch(batch))
        logged.append(jax.device_get(metrics))
    return run, before, jax.device_get(state), logged


def _expected(config) -> tuple[dict[str, str], list[str]]:
    """What must be there: a gradient norm by part, with the parameters' names, and figures."""
    parts = {"grad_norm/head": "project_out."}
    figures = ["loss", "ot_loss", "lr", "grad_norm"]
    if config.model.lora.enable:
        parts |= {"grad_norm/lora_a": ".lora_a", "grad_norm/lora_b": ".lora_b"}
    else:
        parts["grad_norm/backbone"] = ".c_attn.kernel"
    if config.model.mhc.enable:
        parts["grad_norm/mhc"] = "backbone.residual."
        figures += [f"mhc/{d}_gain_{m}" for d in ("forward", "backward") for m in ("min", "max")]
        figures += ["mhc/stream_spread"]
    if config.model.timepoint_embedding != "none":
        parts["grad_norm_of/timepoint_embedding"] = "timepoint_embedding."
    if config.model.scalars.enable:
        parts["grad_norm_of/scalar_encoder"] = "scalar_encoder."
        figures += ["scalar_weight"]
    if config.velocity.enable:
        figures += [f"velocity_{name}" for name in ("loss", "weight", "cosine", "used")]
    if config.loss.name == "combined":
        figures += ["energy", "sinkhorn", "converged", "iterations"]
    return parts, figures


def _check(config):
    _, before, after, logged = _steps(config)
    parts, figures = _expected(config)
    for part, names in parts.items():
        # A adapters have no gradient at the first step (B is zero), hence the last one.
        assert logged[-1][part] > 0, part
        moved = [
            name
            for name in before.trainable
            if names in name and (before.trainable[name] != after.trainable[name]).any()
        ]
        assert moved, f"no parameter of {part} moved"
    for figure in figures:
        assert all(np.isfinite(metrics[figure]) for metrics in logged), figure
    if config.velocity.enable:
        assert logged[-1]["velocity_used"] > 0
        assert logged[0]["velocity_weight"] == 0  # the warm-up starts from nothing
        assert logged[-1]["velocity_weight"] > 0
    assert set(before.frozen) == set(after.frozen)
    assert bool(before.frozen) == config.model.lora.enable
    for name, value in before.frozen.items():
        np.testing.assert_array_equal(value, after.frozen[name], err_msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_part_acts_on_synthetic_cells(variant):
    _check(load_config(CONFIGS / f"{variant}.yaml", SYNTHETIC + SMALL))


@pytest.fixture(scope="module")
def kang_with_velocity(shared, tmp_path_factory):
    """The Kang cells with directions from a pseudotime, as the command adds them, and a day.

    The set has no spliced counts, and one time point, whose name is made up here.
    """
    adata = ad.read_h5ad(shared / "data" / "kang_ifnb.h5ad")
    options = PseudotimeOptions(
        "X",
        groups="cell_type",
        control="ctrl",
        leave_out={"donor": ("1256", "1488", "1244"), "label_source": ("predicted",)},
        preprocess="log1p_cp10k",
    )
    add_pseudotime_velocity(adata, options)
    adata.obs["timepoint"] = "6h"
    path = tmp_path_factory.mktemp("kang") / "kang.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_part_acts_on_real_cells(variant, kang_with_velocity):
    config = load_config(
        [CONFIGS / f"{variant}.yaml", CONFIGS / "kang_cells.yaml"],
        [f"data.path={kang_with_velocity}", "data.timepoint_col=timepoint", *SMALL],
    )
    _check(config)


@pytest.mark.parametrize("variant", ["lora_velocity", "lora_mhc_velocity", "full"])
def test_velocity_that_the_cells_lack_is_refused(variant, shared):
    """The Kang set has no spliced counts: whoever asks for velocity is told so."""
    config = load_config(
        [CONFIGS / f"{variant}.yaml", CONFIGS / "kang_cells.yaml"],
        [
            f"data.path={shared / 'data' / 'kang_ifnb.h5ad'}",
            # These two ask for columns that the set lacks as well.
            "model.timepoint_embedding=none",
            "model.scalars.enable=false",
            *SMALL,
        ],
    )
    with pytest.raises(UserError, match=r"velocity was asked for, but there is none for X"):
        prepare(config)


def test_variants_differ_in_their_named_keys_alone():
    base = leaves(load_config(CONFIGS / "phase_base.yaml"))
    allowed = {
        "phase1_lora": (),
        "phase2_lora_mhc": ("model.mhc.",),
        "phase3_random_init": ("model.lora.enable",),
        "lora_velocity": ("velocity.",),
        "lora_mhc_velocity": ("model.mhc.", "velocity."),
        "full": (
            "model.mhc.", "velocity.", "loss.", "model.timepoint_embedding", "model.scalars.",
        ),
    }  # fmt: skip
    absent = object()  # a key that the other one's tags do not have
    for variant, prefixes in allowed.items():
        config = load_config(CONFIGS / f"{variant}.yaml")
        values = leaves(config)
        different = {
            key for key in values.keys() | base if values.get(key, absent) != base.get(key, absent)
        }
        assert config.name == variant
        assert all(key.startswith(("name", *prefixes)) for key in different), different
