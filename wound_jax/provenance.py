"""Where a run's numbers come from: versions, commit, command, data, devices."""

import datetime
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

PACKAGES = (
    "wound_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ott-jax", "anndata",
    "scanpy", "numpy", "scipy", "scikit-learn",
)  # fmt: skip


def provenance(fingerprint: str, data: str, devices: list[jax.Device]) -> dict[str, Any]:
    """The record of a run that starts now.

    Args:
        fingerprint: digest of the data.
        data: what the data are, in words (a path, or the synthetic set).
        devices: the devices of the run.
    """
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _commit(),
        "data": data,
        "data_fingerprint": fingerprint,
        "devices": [f"{device.platform}:{device.device_kind}" for device in devices],
        "python": platform.python_version(),
        "started": _now(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def finish(folder: Path) -> None:
    """Marks the run in `folder` as finished."""
    record = read(folder)
    record["finished"] = _now()
    write(folder, record)


def write(folder: Path, record: dict[str, Any]) -> None:
    """Writes `provenance.json`."""
    (folder / "provenance.json").write_text(json.dumps(record, indent=2) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """Reads `provenance.json`."""
    return json.loads((folder / "provenance.json").read_text())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the code that runs, with "+" where files differ from it; None outside git."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if changed else "") if tracked else None
    except (OSError, subprocess.CalledProcessError):
        return None
