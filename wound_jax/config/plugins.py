"""Plug-ins: modules of your own whose decorators register losses, splits, metrics and so on.

A plug-in is named in a config (`plugins: [my_lab.losses]`), or by a package that is installed, in
its entry points of the group `wound_jax.plugins`. It is imported when a config is read, before the
sections are, so that its parts can be named in them. A run keeps which code it had.
"""

import hashlib
import importlib
import importlib.metadata
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wound_jax.errors import UserError

GROUP = "wound_jax.plugins"


def load_plugins(modules: Iterable[str], source: str) -> None:
    """Imports plug-ins: those of installed packages, and those named.

    Args:
        modules: names of importable modules.
        source: where they are named, for messages.

    Raises:
        UserError: one of them cannot be imported, or registers a name that is taken.
    """
    for module in _installed():
        _import(module, f"entry point group {GROUP}")
    for module in modules:
        _import(module, source)


def plugin_records(modules: Sequence[str]) -> list[dict[str, Any]]:
    """What a run keeps of its plug-ins: module, distribution and version, file, and its BLAKE2.

    Args:
        modules: those that its config names; those of installed packages are added.
    """
    return [_record(module) for module in dict.fromkeys([*_installed(), *modules])]


def changed_plugins(recorded: Iterable[dict[str, Any]], modules: Sequence[str]) -> list[str]:
    """The plug-ins whose code is not the one that a run recorded, by module."""
    now = {record["module"]: record["blake2"] for record in plugin_records(modules)}
    before = {record["module"]: record["blake2"] for record in recorded}
    # An installed package that the run did not have registers parts it does not use.
    return [m for m in before if now.get(m, before[m]) != before[m]]


def _installed() -> list[str]:
    return sorted({point.module for point in importlib.metadata.entry_points(group=GROUP)})


def _import(module: str, source: str) -> None:
    try:
        importlib.import_module(module)
    except Exception as e:
        raise UserError(
            f"{source}: the plug-in {module!r} cannot be imported: {type(e).__name__}: {e}. "
            "Expected a module that Python finds: install its package, or put its folder on "
            "PYTHONPATH."
        ) from e


def _record(module: str) -> dict[str, Any]:
    file = getattr(sys.modules[module], "__file__", None)
    packages = importlib.metadata.packages_distributions()
    name = next(iter(packages.get(module.partition(".")[0], [])), None)
    return {
        "module": module,
        "distribution": name,
        "version": importlib.metadata.version(name) if name else None,
        "file": file,
        "blake2": _digest(Path(file)) if file else None,
    }


def _digest(file: Path) -> str:
    """Of the module's file; of a package, of all its modules."""
    digest = hashlib.blake2b(digest_size=16)
    package = file.name == "__init__.py"
    for path in sorted(file.parent.rglob("*.py")) if package else [file]:
        digest.update(path.relative_to(file.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
