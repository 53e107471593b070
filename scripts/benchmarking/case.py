"""What a benchmark measures: a case is a variant, a backbone, a loss and a dtype at one size."""

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wound_jax.errors import unknown_name

VARIANTS = {
    "full": (),
    "lora": ("model.lora.enable=true",),
    "lora_mhc": ("model.lora.enable=true", "model.mhc.enable=true"),
    "velocity": ("model.lora.enable=true", "velocity.enable=true"),
}
BACKBONES = ("gpt2", "llama")
LOSSES = ("energy", "sinkhorn")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Size:
    """The workload.

    Attributes:
        cells: cells of the file.
        genes: genes of the file, and width of the model's input.
        hidden: width of the model.
        layers: layers of the backbone.
        heads: attention heads.
        set_len: cells in a set.
        sets: sets in a step.
    """

    cells: int
    genes: int
    hidden: int
    layers: int
    heads: int
    set_len: int
    sets: int

    def changed(self, **values: int | None) -> "Size":
        """The size with those values that are not None."""
        return replace(self, **{name: v for name, v in values.items() if v is not None})


SIZES = {
    "small": Size(cells=3_000, genes=500, hidden=128, layers=3, heads=4, set_len=64, sets=8),
    "plan": Size(cells=57_298, genes=3_000, hidden=512, layers=8, heads=8, set_len=128, sets=16),
}


@dataclass(frozen=True)
class Case:
    """One line of the table; `impl` is "wound_jax" or "peer"."""

    impl: str
    variant: str
    backbone: str
    loss: str
    dtype: str

    @property
    def name(self) -> str:
        """The name of the line."""
        settings = f"{self.variant}/{self.backbone}/{self.loss}"
        return f"{settings}/{self.dtype}" if self.impl == "wound_jax" else f"peer {settings}"


def cases(
    variants: Iterable[str],
    backbones: Iterable[str],
    losses: Iterable[str],
    dtypes: Iterable[str],
) -> list[Case]:
    """All combinations, in the order given.

    Raises:
        UserError: a name is unknown.
    """
    axes = [
        ("variant", tuple(variants), VARIANTS),
        ("backbone", tuple(backbones), BACKBONES),
        ("loss", tuple(losses), LOSSES),
        ("dtype", tuple(dtypes), DTYPES),
    ]
    for kind, given, known in axes:
        for name in given:
            if name not in known:
                raise unknown_name(kind, name, known)
    return [Case("wound_jax", *names) for names in itertools.product(*(g for _, g, _ in axes))]


def peers_of(of: Iterable[Case]) -> list[Case]:
    """The original's counterparts: it knows full training and LoRA, and one precision."""
    found = (
        replace(case, impl="peer", dtype="medium")
        for case in of
        if case.variant in ("full", "lora")
    )
    return list(dict.fromkeys(found))


def overrides(case: Case, size: Size, path: Path) -> list[str]:
    """The run's config as `key=value` overrides of the defaults."""
    return [
        "data.source=file",
        f"data.path={path}",
        f"data.cell_set_len={size.set_len}",
        "split.kind=random",
        f"model.backbone={case.backbone}",
        f"model.hidden_dim={size.hidden}",
        f"model.layers={size.layers}",
        f"model.heads={size.heads}",
        f"model.dtype={case.dtype}",
        f"loss.name={case.loss}",
        f"training.batch_size={size.sets}",
        "training.optimizer=adam",
        *VARIANTS[case.variant],
    ]


def describe(case: Case, size: Size) -> dict[str, Any]:
    """Both as plain values, for the record."""
    return {"case": asdict(case), "size": asdict(size)}
