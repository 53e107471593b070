"""Runs a leave-one-out: fold after fold, what is trained and scored already is not done again."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from wound_jax.config.schema import RunConfig
from wound_jax.data.prepare import labelled_cells
from wound_jax.data.source import describe_source, open_source
from wound_jax.data.strata import large_strata, plan_strata
from wound_jax.errors import UserError
from wound_jax.experiments.fold_figures import FoldFigures, FoldScores
from wound_jax.experiments.fold_scores import HeldOut, VariantScores, score_baselines, score_variant
from wound_jax.experiments.fold_tables import write_folds
from wound_jax.experiments.folds import Fold, FoldsSpec, labels_to_leave_out, plan_folds
from wound_jax.experiments.schedule import jobs
from wound_jax.experiments.shared_cells import SharedCells
from wound_jax.experiments.training import train_only
from wound_jax.experiments.variants import (
    PlannedVariant,
    folder_of,
    plan_variants,
    require_own_folders,
)

_SCORES = "scores.json"


def leave_one_out(
    spec: FoldsSpec, path: Path, overrides: Sequence[str], folder: Path, *, progress_bar: bool
) -> str:
    """Trains and scores all folds, and writes the tables.

    Args:
        spec: the file's content.
        path: of the file.
        overrides: of the command line, for all variants.
        folder: where everything goes; what is finished there is kept.
        progress_bar: whether to draw one.

    Returns:
        The table, as text.

    Raises:
        UserError: a config, the data or a folder does not fit.
    """
    config = plan_variants(spec, path, overrides, folder)[0].config
    labels = _labels(spec, config)
    folds = plan_folds(spec, path, overrides, folder, labels)
    for fold in folds:
        require_own_folders(fold.variants)
    _say(f"data: {describe_source(config.data)}")
    start, scores = time.perf_counter(), []
    for place, fold in enumerate(folds, 1):
        _say(f"[{place}/{len(folds)}] {spec.leave_out} {fold.label} held out")
        cells = SharedCells()
        if not _can_be_scored(fold, cells, asked_for=spec.labels is not None):
            continue
        scores.append(_run_fold(fold, cells, together=spec.together, progress_bar=progress_bar))
        _say(f"    after {(time.perf_counter() - start) / 60:.0f} min")
    if not scores:
        raise UserError(
            f"no {spec.leave_out} has a stratum that is large enough to be scored; lower "
            "evaluation.min_cells."
        )
    return write_folds(FoldFigures(spec.leave_out, scores), folder)


def _labels(spec: FoldsSpec, config: RunConfig) -> list[str]:
    adata = open_source(config.data, {config.data.input})
    _, annotations = labelled_cells(adata, config.data)
    return labels_to_leave_out(spec, annotations, config)


def _can_be_scored(fold: Fold, cells: SharedCells, *, asked_for: bool) -> bool:
    """Whether some held-out stratum is large enough; says so where none is.

    Raises:
        UserError: none is, for a label that was asked for by name.
    """
    config = fold.variants[0].config
    data = cells.of(config)
    if asked_for:
        plan_strata(data, config.evaluation, "test")
    if large_strata(data, config.evaluation, "test")[0]:
        return True
    _say(f"    left out: no stratum of it has {config.evaluation.min_cells} cells in both arms")
    return False


def _run_fold(fold: Fold, cells: SharedCells, *, together: bool, progress_bar: bool) -> FoldScores:
    """One fold: what is missing is trained, then scored."""
    scores = {
        variant.name: _variant_scores(variant, fold.folder, cells, together, progress_bar)
        for variant in fold.variants
    }
    return FoldScores(fold.label, _baseline_scores(fold, cells), scores)


def _variant_scores(
    variant: PlannedVariant, folder: Path, cells: SharedCells, together: bool, progress_bar: bool
) -> VariantScores:
    path = folder / "runs" / variant.name / _SCORES
    if path.is_file():
        return VariantScores.load(path)
    configs = list(variant.runs.values())
    unfinished = [config for config in configs if not _mark(config).is_file()]
    for job in jobs(unfinished, together=together):
        seeds = ", ".join(str(config.seed) for config in job)
        _say(f"    {variant.name}: seeds {seeds}")
        train_only(job, cells.of(job[0]), progress_bar=progress_bar)
        for config in job:
            _mark(config).touch()
    folders = [folder_of(config) for config in configs]
    scores = score_variant(configs[0].prediction, folders, _held_out(configs[0], cells))
    scores.save(path)
    return scores


def _baseline_scores(fold: Fold, cells: SharedCells) -> dict[str, dict[str, float]]:
    path = fold.folder / "baselines.json"
    if path.is_file():
        return json.loads(path.read_text())
    config = next(iter(fold.variants[0].runs.values()))
    scores = score_baselines(_held_out(config, cells))
    path.write_text(json.dumps(scores, indent=1) + "\n")
    return scores


def _held_out(config: RunConfig, cells: SharedCells) -> HeldOut:
    return HeldOut.of(cells.of(config), cells.yardstick(config), config.evaluation)


def _mark(config: RunConfig) -> Path:
    """The file that says that a run was trained to its end."""
    return folder_of(config) / "trained"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
