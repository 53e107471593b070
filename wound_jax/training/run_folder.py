"""Run folder: where a new run goes, and what tells that of a run from that of an ensemble.

config.yaml, provenance.json, parameters.json, split.txt, metrics.jsonl, tb/, checkpoints/, eval/;
diverged.json where training came to a figure that is not finite

An ensemble is the folder of a run without training: in place of checkpoints it holds ensemble.json,
which names the runs whose predictions are averaged.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from wound_jax.config.schema import RunConfig
from wound_jax.errors import UserError
from wound_jax.files import make_folder, read_record, require_place, write_record
from wound_jax.training.record import finished_at

_ENSEMBLE = "ensemble.json"
# What is written before config.yaml, which makes a folder that of a run.
_BEFORE = ("split.txt", "parameters.json", "provenance.json")
_BEGUN = {*_BEFORE, *(f"{name}.part" for name in (*_BEFORE, "config.yaml"))}


def new_folder(config: RunConfig) -> Path:
    """Makes the folder of a new run; never writes into one that exists.

    Without `run_dir` it is `runs/NAME`, or the first free `runs/NAME-2`, `runs/NAME-3`, ...

    Raises:
        UserError: `run_dir` names a folder that is not empty.
    """
    require_free(config)
    if config.run_dir is None:
        return _first_free(config.name)
    folder = Path(config.run_dir)
    make_folder(folder)
    return folder


def require_free(config: RunConfig) -> None:
    """Refuses a `run_dir` that holds something already, or a place that cannot be written.

    Raises:
        UserError: it is not empty, or cannot be written.
    """
    folder = Path("runs" if config.run_dir is None else config.run_dir)
    require_place(folder)
    if config.run_dir is None:
        return
    if not is_free(folder):
        raise UserError(
            f"run_dir={folder} exists and is not empty; choose another, or continue that run "
            f"by --resume {folder}."
        )


def is_free(folder: Path) -> bool:
    """Whether nothing is there, an empty folder, or one that a start left when it was killed."""
    if not folder.exists():
        return True
    return folder.is_dir() and {path.name for path in folder.iterdir()} <= _BEGUN


def _first_free(name: str) -> Path:
    """Makes `runs/NAME`, or the first free one of those that end in a number."""
    folder, n = Path("runs") / name, 1
    while True:
        try:
            # Of two runs that start at once only one makes the folder.
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            n += 1
            folder = Path("runs") / f"{name}-{n}"


def require_run(folder: str | Path) -> Path:
    """The folder of an existing run.

    Raises:
        UserError: there is no run in it.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        parent = folder.parent
        runs = (
            sorted(p.parent.name for p in parent.glob("*/config.yaml")) if parent.is_dir() else []
        )
        raise UserError(
            f"{folder} is no run folder (no config.yaml). Runs in {parent}: "
            f"{', '.join(runs) or 'none'}."
        )
    return folder


def name_members(folder: Path, members: Sequence[Path]) -> None:
    """Makes a folder the ensemble of some finished runs.

    They are named by where they lie from there, and with when they were finished, by which a run
    that is trained anew in the same place is told.
    """
    runs = [
        {"folder": os.path.relpath(member, folder), "finished": finished_at(member)}
        for member in members
    ]
    write_record(folder / _ENSEMBLE, {"runs": runs})


def members_of(folder: Path) -> list[Path]:
    """The runs of an ensemble; none where the folder is that of a single run."""
    return [path for path, _ in recorded_members(folder)]


def recorded_members(folder: Path) -> list[tuple[Path, str]]:
    """The runs of an ensemble, and when each had been finished."""
    path = folder / _ENSEMBLE
    if not path.is_file():
        return []
    runs = read_record(path)["runs"]
    return [(Path(os.path.normpath(folder / run["folder"])), run["finished"]) for run in runs]


def require_single(folder: Path, purpose: str) -> None:
    """Refuses an ensemble.

    Args:
        folder: of an existing run.
        purpose: what only a single run can be used for, in words.

    Raises:
        UserError: it is an ensemble.
    """
    members = members_of(folder)
    if members:
        raise UserError(
            f"{folder} is an ensemble, and {purpose}; expected one of its runs: "
            f"{', '.join(map(str, members))}."
        )
