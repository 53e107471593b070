"""Backbones: stacks of residual sublayers over the cells of a set, `[sets, cells, hidden]`.

A backbone is one file in this folder that defines `FAMILY`; its file name is its name in the
config, and no other file changes when one is added.
"""

import importlib
import pkgutil

from wound_jax.errors import unknown_name
from wound_jax.models.backbones.base import BackboneFamily


def available() -> list[str]:
    """The names of all backbones, from the files in this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def backbone_family(name: str) -> BackboneFamily:
    """The backbone family of that name.

    Raises:
        UserError: there is none; the message lists those there are.
    """
    if name not in available():
        raise unknown_name("backbone", name, available())
    return importlib.import_module(f"{__name__}.{name}").FAMILY
