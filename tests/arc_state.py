"""Maps recorded weights of the published PyTorch model onto ours, for the parity tests."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from wound_jax.models.set_transformer import ModelDims
from wound_jax.models.settings import BACKBONES, DecoderSettings, LoraSettings, ModelSettings

# (their name, our name, whether the weight is [out, in] there and [in, out] here)
_RULES = [
    (r"^pert_encoder\.(\d+)\.", lambda m: f"perturbation_encoder.layers.{int(m[1]) // 3}.", True),
    (r"^project_out\.(\d+)\.", lambda m: f"project_out.layers.{int(m[1]) // 3}.", True),
    (r"^basal_encoder\.", lambda m: "control_encoder.", True),
    (r"^gene_decoder\.decoder\.12\.", lambda m: "gene_decoder.out.", True),
    (
        r"^gene_decoder\.decoder\.(\d+)\.",
        lambda m: f"gene_decoder.{('layers', 'norms')[int(m[1]) % 4]}.{int(m[1]) // 4}.",
        True,
    ),
    (
        r"^transformer_backbone\.(?:base_model\.model\.)?(?:h|layers)\.(\d+)\.",
        lambda m: f"backbone.blocks.{m[1]}.",
        True,
    ),
    (
        r"^transformer_backbone\.(?:base_model\.model\.)?(?:ln_f|norm)\.",
        lambda m: "backbone.norm.",
        False,
    ),
]
_BLOCK = {
    "ln_1.": "attention.norm.", "ln_2.": "mlp.norm.", "attn.": "attention.",
    "input_layernorm.": "attention.norm.", "post_attention_layernorm.": "mlp.norm.",
    "self_attn.": "attention.",
}  # fmt: skip
_UNUSED = re.compile(r"\.(wte|wpe|embed_tokens)\.")


def load(folder: Path) -> dict:
    """Arrays of a fixture folder by file, and its config."""
    files = {
        name: dict(np.load(folder / f"{name}.npz"))
        for name in ("state_dict", "inputs", "outputs", "losses", "grads_step0", "train")
    }
    return {**files, "config": json.loads((folder / "config.json").read_text())}


def model_config(config: dict) -> tuple[ModelSettings, ModelDims]:
    """Our config for theirs."""
    kwargs, backbone = config["model_kwargs"], config["model_kwargs"]["transformer_backbone_kwargs"]
    gpt2 = kwargs["transformer_backbone_key"] == "GPT2"
    lora = kwargs.get("lora", {"enable": False, "r": 1, "alpha": 1})
    decoder = kwargs.get("decoder_cfg")
    own: dict[str, Any] = {} if gpt2 else {"kv_heads": backbone["num_key_value_heads"]}
    ours = BACKBONES.settings("gpt2" if gpt2 else "llama")(
        hidden_dim=kwargs["hidden_dim"],
        layers=backbone["n_layer" if gpt2 else "num_hidden_layers"],
        heads=backbone["n_head" if gpt2 else "num_attention_heads"],
        mlp_dim=None if gpt2 else backbone["intermediate_size"],
        attention=config["attention"],
        encoder_layers=kwargs["n_encoder_layers"],
        decoder_layers=kwargs["n_decoder_layers"],
        residual="hidden",
        # The published model rectifies unless there is a gene decoder.
        output_activation="none" if decoder else "relu",
        lora=LoraSettings(enable=lora["enable"], r=lora["r"], alpha=float(lora["alpha"])),
        decoder=DecoderSettings(
            enable=decoder is not None,
            hidden_dims=tuple(decoder["hidden_dims"]) if decoder else (1,),
        ),
        **own,
    )
    genes = decoder["gene_dim"] if decoder else 0
    return ours, ModelDims(features=kwargs["input_dim"], perturbations=2, genes=genes)


def parameters(state_dict: dict[str, np.ndarray], config: ModelSettings) -> dict[str, np.ndarray]:
    """Their weights under our names; every one is used, but for the zero embedding tables."""
    out = {}
    for name, value in state_dict.items():
        if not _UNUSED.search(name):
            ours, transposed = _translate(name, config)
            out[ours] = value.T if transposed and value.ndim == 2 else value
    return out


def _translate(name: str, config: ModelSettings) -> tuple[str, bool]:
    pattern, prefix, transposed = next(r for r in _RULES if re.match(r[0], name))
    match = re.match(pattern, name)
    assert match is not None
    rest = name[match.end() :]
    for theirs, ours in _BLOCK.items():
        if rest.startswith(theirs):
            rest = ours + rest[len(theirs) :]
    rest = rest.replace("base_layer.", "base.").replace(".default.weight", "")
    rest = rest.replace("lora_A", "lora_a").replace("lora_B", "lora_b")
    full = prefix(match) + rest
    # GPT-2 keeps its projections as Conv1D, [in, out] already; its adapters are linear maps.
    conv1d = config.backbone == "gpt2" and ".c_" in full and "lora" not in full
    norm = ".norm." in full or ".norms." in full
    full = re.sub(r"\.weight$", ".scale" if norm else ".kernel", full)
    return full, transposed and not conv1d
