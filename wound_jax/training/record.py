"""Run record: what is known of a run before its first step, and where its numbers come from.

config.yaml, split.txt and parameters.json are written once; provenance.json holds versions, commit,
command, data and devices, the digest of the config, each session in which the run was continued,
and when it was finished. config.yaml is written last: with it a folder becomes a run.
"""

import datetime
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from wound_jax.config.load import dump_config
from wound_jax.config.plugins import changed_plugins, plugin_records
from wound_jax.config.schema import RunConfig
from wound_jax.errors import UserError
from wound_jax.files import DamagedFile, read_record, text_digest, write_record, write_text

if TYPE_CHECKING:
    import wound_jax.data.cells
    import wound_jax.training.loop

# By their whole names: a record is read by what starts without all that trains.
PreparedData: TypeAlias = "wound_jax.data.cells.PreparedData"
Trainable: TypeAlias = "wound_jax.training.loop.Trainable"
_PROVENANCE = "provenance.json"
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
    # A plan of runs reads records too, and starts without what it takes to make one.
    from wound_jax.data.splits import split_table
    from wound_jax.models.partition import parameter_table

    table = split_table(data.split, data.cells.annotations)
    write_text(folder / "split.txt", table + "\n")
    parameters = parameter_table(run.model.parameters, run.model.labels)
    write_text(folder / "parameters.json", json.dumps(parameters, indent=2) + "\n")
    record_run(folder, config, data.fingerprint, run.devices.mesh.devices.flat)
    return parameters


def record_run(folder: Path, config: RunConfig, fingerprint: str, devices: Iterable[Any]) -> None:
    """Writes `provenance.json`, and `config.yaml`, which makes the folder that of a run.

    Args:
        folder: the run folder; it exists.
        config: the resolved config.
        fingerprint: digest of the data.
        devices: the jax devices of the run.
    """
    from wound_jax.data.source import describe_source

    text = dump_config(config)
    record = {
        **_session(devices),
        "data": describe_source(config.data),
        "data_fingerprint": fingerprint,
        "config_digest": _config_digest(text),
        "plugins": plugin_records(config.plugins),
    }
    write_record(folder / _PROVENANCE, record)
    write_text(folder / "config.yaml", text)


def record_resumed(folder: Path, devices: Iterable[Any]) -> None:
    """Notes that the run in `folder` is continued now, by which command, code and devices."""
    record = read_provenance(folder)
    record.setdefault("resumed", []).append(_session(devices))
    write_record(folder / _PROVENANCE, record)


def record_finished(folder: Path) -> None:
    """Marks the run in `folder` as finished."""
    write_record(folder / _PROVENANCE, {**read_provenance(folder), "finished": _now()})


def add_seconds(folder: Path, seconds: float) -> None:
    """Adds to the time that the run in `folder` has been trained for."""
    record = read_provenance(folder)
    record["training_seconds"] = round(record.get("training_seconds", 0.0) + seconds, 2)
    write_record(folder / _PROVENANCE, record)


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


def read_provenance(folder: Path) -> dict[str, Any]:
    """Reads `provenance.json`.

    Raises:
        DamagedFile: it is missing, or not as it was written.
    """
    try:
        return read_record(folder / _PROVENANCE)
    except DamagedFile as e:
        raise DamagedFile(
            f"{e} So it is not known which data {folder} was trained on: restore the file, or "
            "start the run again with --config."
        ) from e


def identity(folder: Path) -> dict[str, str | None]:
    """What tells a run from others: the digests of its config and of its data."""
    config, provenance = folder / "config.yaml", folder / _PROVENANCE
    return {
        "config": _config_digest(config.read_text(encoding="utf-8")) if config.is_file() else None,
        "data": read_provenance(folder)["data_fingerprint"] if provenance.is_file() else None,
    }


def _config_digest(text: str) -> str:
    """The digest of a config without the place of the run, which may be moved."""
    lines = text.splitlines(keepends=True)
    return text_digest("".join(line for line in lines if not line.startswith("run_dir:")))


def require_same(folder: Path, of: Mapping[str, Any], what: Path) -> None:
    """Checks that something belongs to the run in `folder`.

    Args:
        folder: the run folder.
        of: the identity of the run that it was made by.
        what: where it lies.

    Raises:
        DamagedFile: it was made by another run, or with another config.
    """
    now = identity(folder)
    others = [name for name in ("config", "data") if of.get(name) != now[name]]
    if others:
        raise DamagedFile(
            f"{what} was not made by this run: its {' and its '.join(others)} is not that of "
            f"{folder}."
        )


def require_own_config(folder: Path) -> None:
    """Checks that a run's config is the one that it was started with.

    Raises:
        DamagedFile: it was changed since.
    """
    if read_provenance(folder).get("config_digest") != identity(folder)["config"]:
        raise DamagedFile(
            f"{folder / 'config.yaml'} is damaged or was edited: it is not the config that the run "
            "was started with. Restore it; to train with other settings, start a new run: python "
            f"-m wound_jax.train --config {folder / 'config.yaml'} run_dir=NEW."
        )


def warn_of_changed_plugins(folder: Path, plugins: Sequence[str]) -> None:
    """Says on stderr which plug-ins of a run are no longer the code that it was trained with."""
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
