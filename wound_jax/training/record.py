"""Run record: what is known of a run before its first step, and where its numbers come from.

config.yaml, split.txt and parameters.json are written once; provenance.json holds versions, commit,
command, data and devices, each session in which the run was continued, and when it was finished.
"""

import datetime
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from wound_jax.config.load import dump_config
from wound_jax.config.plugins import changed_plugins, plugin_records
from wound_jax.config.schema import RunConfig
from wound_jax.errors import UserError

if TYPE_CHECKING:
    import wound_jax.data.cells
    import wound_jax.training.loop

# By their whole names: a record is read by what starts without all that trains.
PreparedData: TypeAlias = "wound_jax.data.cells.PreparedData"
Trainable: TypeAlias = "wound_jax.training.loop.Trainable"
PACKAGES = (
    "wound_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ott-jax", "anndata",
    "scanpy", "numpy", "scipy", "scikit-learn",
)  # fmt: skip


def record_start(folder: Path, config: RunConfig, data: PreparedData, run: Trainable) -> dict:
    """Writes what is known of a run before its first step.

    Args:
        folder: the run folder; it exists.
        config: the resolved config.
        data: the prepared cells.
        run: what will be trained.

    Returns:
        How many parameters there are and how many train (`wound_jax.models.partition`).
    """
    (folder / "config.yaml").write_text(dump_config(config))
    # A plan of runs reads records too, and starts without what it takes to make one.
    from wound_jax.data.source import describe_source
    from wound_jax.data.splits import split_table
    from wound_jax.models.partition import parameter_table

    table = split_table(data.split, data.cells.annotations)
    (folder / "split.txt").write_text(table + "\n")
    devices, source = run.devices.mesh.devices.flat, describe_source(config.data)
    write_provenance(folder, new_provenance(data.fingerprint, source, devices, config.plugins))
    parameters = parameter_table(run.model.parameters, run.model.labels)
    (folder / "parameters.json").write_text(json.dumps(parameters, indent=2) + "\n")
    return parameters


def record_resumed(folder: Path, devices: Iterable[Any]) -> None:
    """Notes that the run in `folder` is continued now, by which command, code and devices."""
    record = read_provenance(folder)
    record.setdefault("resumed", []).append(_session(devices))
    write_provenance(folder, record)


def record_finished(folder: Path) -> None:
    """Marks the run in `folder` as finished."""
    write_provenance(folder, {**read_provenance(folder), "finished": _now()})


def add_seconds(folder: Path, seconds: float) -> None:
    """Adds to the time that the run in `folder` has been trained for."""
    record = read_provenance(folder)
    record["training_seconds"] = round(record.get("training_seconds", 0.0) + seconds, 2)
    write_provenance(folder, record)


def finished_at(folder: Path) -> str | None:
    """When the run in `folder` was trained and evaluated to its end; None where it was not."""
    return read_provenance(folder).get("finished")


def require_same_data(folder: Path, fingerprint: str) -> None:
    """Checks that the data are those the run in `folder` was trained on.

    Raises:
        UserError: they are others.
    """
    recorded = read_provenance(folder)["data_fingerprint"]
    if fingerprint != recorded:
        raise UserError(
            f"the data are not those {folder} was trained on (fingerprint {fingerprint}, recorded "
            f"{recorded}); restore the file. New cells: evaluate them by --input, or train on them "
            "by --config."
        )


def new_provenance(
    fingerprint: str, data: str, devices: Iterable[Any], plugins: Sequence[str]
) -> dict[str, Any]:
    """Provenance of a run that starts now.

    Args:
        fingerprint: digest of the data.
        data: what the data are, in words (a path, or the synthetic set).
        devices: the jax devices of the run.
        plugins: modules that its config names.
    """
    recorded = {"data": data, "data_fingerprint": fingerprint, "plugins": plugin_records(plugins)}
    return {**_session(devices), **recorded}


def write_provenance(folder: Path, record: dict[str, Any]) -> None:
    """Writes `provenance.json`."""
    (folder / "provenance.json").write_text(json.dumps(record, indent=2) + "\n")


def read_provenance(folder: Path) -> dict[str, Any]:
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


def warn_of_changed_plugins(folder: Path, plugins: Sequence[str]) -> None:
    """Says on stderr which plug-ins of a run are no longer the code that it was trained with."""
    if not (folder / "provenance.json").is_file():
        return
    changed = changed_plugins(read_provenance(folder).get("plugins", []), plugins)
    if changed:
        print(
            f"warning: {', '.join(changed)} changed since {folder} was trained with it; what it "
            "registers may act otherwise now.",
            file=sys.stderr,
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
