"""What hyper-connections keep for the backward pass, with and without recomputing their maps.

    python scripts/mhc_memory.py
    python scripts/mhc_memory.py --hidden 512 --layers 8 --sets 16 --cells 128

Counts the arrays that `jax.vjp` of the backbone holds, by shape alone: nothing is computed, so the
figures are exact and the same on every machine. A compiler may keep less.
"""

import argparse

import jax
import jax.numpy as jnp
from flax import nnx

from wound_jax.models.backbones.base import Backbone, backbone_family
from wound_jax.models.functional import bind, split
from wound_jax.models.settings import BACKBONES, LoraSettings, MhcSettings

FORMS = {
    "no mHC": MhcSettings(),
    "identity": MhcSettings(enable=True, h_res="identity"),
    "birkhoff": MhcSettings(enable=True, h_res="birkhoff"),
    "sinkhorn, 10 iterations": MhcSettings(enable=True),
    "sinkhorn, recomputed": MhcSettings(enable=True, remat=True),
}


def kept_mib(mhc: MhcSettings, sizes: argparse.Namespace) -> float:
    """MiB of residuals of the backbone's backward pass, parameters left out."""
    config = BACKBONES.settings(sizes.backbone)(
        hidden_dim=sizes.hidden,
        layers=sizes.layers,
        heads=sizes.heads,
        lora=LoraSettings(),
        mhc=mhc,
    )
    family = backbone_family(config)
    backbone = nnx.eval_shape(
        lambda: Backbone(family, config, jnp.dtype(jnp.float32), rngs=nnx.Rngs(0))
    )
    graphdef, parameters = split(backbone)
    x = jax.ShapeDtypeStruct((sizes.sets, sizes.cells, sizes.hidden), jnp.float32)
    mask = jax.ShapeDtypeStruct((sizes.sets, sizes.cells), jnp.bool_)

    def residuals(parameters, x, mask):
        return jax.vjp(lambda p, x: bind(graphdef, p)(x, mask)[0], parameters, x)[1]

    leaves = jax.tree.leaves(jax.eval_shape(residuals, parameters, x, mask))
    total = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    own = sum(p.size * p.dtype.itemsize for p in jax.tree.leaves(parameters))
    return (total - own) / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--backbone", default="gpt2")
    for name, default in {"hidden": 512, "layers": 8, "heads": 8, "sets": 16, "cells": 128}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = parser.parse_args()
    plain = kept_mib(FORMS["no mHC"], sizes)
    print("| form | kept for the backward pass | times no mHC |\n|---|---|---|")
    for form, mhc in FORMS.items():
        kept = kept_mib(mhc, sizes)
        print(f"| {form} | {kept:,.0f} MiB | {kept / plain:.2f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
