"""Where a run's numbers come from: versions, commit, command, data, devices."""

import datetime
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wound_jax.errors import UserError

PACKAGES = (
    "wound_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ott-jax", "anndata",
    "scanpy", "numpy", "scipy", "scikit-learn",
)  # fmt: skip


def provenance(fingerprint: str, data: str, devices: Iterable[Any]) -> dict[str, Any]:
    """The record of a run that starts now.

    Args:
        fingerprint: digest of the data.
        data: what the data are, in words (a path, or the synthetic set).
        devices: the jax devices of the run.
    """
    return {
        **_session(devices),
        "data": data,
        "data_fingerprint": fingerprint,
    }


def resume(folder: Path, devices: Iterable[Any]) -> None:
    """Notes that the run in `folder` is continued now, by which command, code and devices."""
    record = read(folder)
    record.setdefault("resumed", []).append(_session(devices))
    write(folder, record)


def finish(folder: Path) -> None:
    """Marks the run in `folder` as finished."""
    record = read(folder)
    record["finished"] = _now()
    write(folder, record)


def finished_at(folder: Path) -> str | None:
    """When the run in `folder` was trained and evaluated to its end; None where it was not."""
    return read(folder).get("finished")


def write(folder: Path, record: dict[str, Any]) -> None:
    """Writes `provenance.json`."""
    (folder / "provenance.json").write_text(json.dumps(record, indent=2) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """Reads `provenance.json`.

    Raises:
        UserError: the run has none.
    """
    path = folder / "provenance.json"
    if not path.is_file():
        raise UserError(
            f"{path} is missing, so it is not known which data {folder} was trained on; start the "
            "run again with --config."
        )
    return json.loads(path.read_text())


def require_same_data(folder: Path, fingerprint: str) -> None:
    """Checks that the data are those the run in `folder` was trained on.

    Raises:
        UserError: they are others.
    """
    recorded = read(folder)["data_fingerprint"]
    if fingerprint != recorded:
        raise UserError(
            f"the data are not those {folder} was trained on (fingerprint {fingerprint}, recorded "
            f"{recorded}); restore the file. New cells: evaluate them by --input, or train on them "
            "by --config."
        )


def _session(devices: Iterable[Any]) -> dict[str, Any]:
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit(),
        "devices": [f"{device.platform}:{device.device_kind}" for device in devices],
        "python": platform.python_version(),
        "started": _now(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def version(package: str) -> str | None:
    """The installed version of a package; None where it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
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
