"""Ensemble of finished runs that differ in their seed alone: made, scored, and left as a folder.

The runs stay where they are; the folder names them, and their cells are averaged one by one.
"""

from collections.abc import Sequence
from pathlib import Path

import jax

from wound_jax.config.diff import render
from wound_jax.data.prepare import prepare
from wound_jax.devices.compilation import use_compilation_cache
from wound_jax.errors import UserError
from wound_jax.experiments.finished import FinishedRun, group_runs, read_run
from wound_jax.experiments.plan import config_differences, is_finished
from wound_jax.files import make_folder, require_place, write_text
from wound_jax.report.score_run import score_run
from wound_jax.training.record import record_run, require_same_data
from wound_jax.training.run_folder import is_free, members_of, name_members


def make_ensemble(folders: Sequence[str], folder: Path) -> str:
    """Makes an ensemble and scores it on the held-out cells.

    Args:
        folders: of the runs.
        folder: of the ensemble: new, empty or interrupted.

    Returns:
        The tables of the results, and what each run reached by itself.

    Raises:
        UserError: the folder is taken, or the runs are no runs of one config and one data set.
    """
    require_place(folder)
    interrupted = members_of(folder) and not is_finished(folder)
    if not (is_free(folder) or interrupted):
        raise UserError(f"{folder} exists and is not empty; choose another --output.")
    use_compilation_cache()
    runs = [read_run(run) for run in folders]
    first, *others = group_runs(runs).values()
    if others:
        raise UserError(_several_variants(first[0], others[0][0]))
    return f"{_make(runs, folder)}\n{_runs_alone(runs)}"


def _make(runs: Sequence[FinishedRun], folder: Path) -> str:
    """Writes and scores the ensemble; returns the tables of the results."""
    first = runs[0]
    config = first.config.model_copy(update={"name": folder.name, "run_dir": str(folder)})
    data = prepare(config, first.spec)
    for run in runs:
        require_same_data(run.folder, data.fingerprint)
    make_folder(folder)
    name_members(folder, [run.folder for run in runs])
    write_text(folder / "split.txt", first.split_table)
    record_run(folder, config, data.fingerprint, jax.devices())
    return score_run(folder, config, data)


def _several_variants(one: FinishedRun, other: FinishedRun) -> str:
    return (
        f"{one.folder} and {other.folder} differ in more than their seed:\n"
        f"{render(config_differences(one.config, other.config))}\n"
        "Expected runs of one config; python -m wound_jax.compare sets different ones side by side."
    )


def _runs_alone(runs: Sequence[FinishedRun]) -> str:
    """What each run reached by itself, as its own evaluation found."""
    scores = [run.summary["model"] for run in runs]
    figures = (
        f"{name} {', '.join(f'{score[name]:.3f}' for score in scores)}"
        for name in ("pearson_delta", "e_distance_ratio")
    )
    return f"the runs alone: {'; '.join(figures)}"
