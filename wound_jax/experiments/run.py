"""Run of an experiment: what is missing is trained and scored, then its tables are written.

A comparison trains and evaluates every run and sets its variants side by side. A leave-one-out
takes fold after fold: trains its variants, scores their seeds and ensembles beside the baselines,
and forgets its cells. What is finished is not done again.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.prepare import labelled_cells
from wound_jax.data.source import describe_source, open_source
from wound_jax.data.splits import split_table
from wound_jax.data.strata import large_strata, plan_strata
from wound_jax.devices.compilation import use_compilation_cache
from wound_jax.devices.mesh import make_devices
from wound_jax.errors import UserError, named, shown, unknown_name
from wound_jax.evaluation.reference import HeldOut
from wound_jax.experiments.cells import (
    SharedCells,
    between_data,
    between_runs,
    require_agreement,
)
from wound_jax.experiments.figures import FoldFigures, FoldScores, VariantFigures
from wound_jax.experiments.finished import FinishedRun, group_runs, read_run
from wound_jax.experiments.plan import (
    Fold,
    PlannedVariant,
    folder_of,
    is_finished,
    plan_comparison,
    plan_folds,
    render_variants,
    require_own_folders,
)
from wound_jax.experiments.rows import VariantTable
from wound_jax.experiments.schedule import Schedule, say
from wound_jax.experiments.scores import VariantScores, score_baselines, score_variant
from wound_jax.experiments.spec import ExperimentSpec
from wound_jax.experiments.tables import write_comparison, write_folds
from wound_jax.files import read_record, require_place, write_record
from wound_jax.models.build import model_dims
from wound_jax.models.functional import abstract_model
from wound_jax.report import write_html
from wound_jax.report.score_run import score_run
from wound_jax.training.loop import require_validation
from wound_jax.training.record import require_same_data
from wound_jax.training.setup import build_objective


def run_comparison(
    name: str, fold: Fold, allowed: Collection[str], *, together: bool, progress_bar: bool
) -> list[str]:
    """Trains and evaluates what is missing of a comparison, and writes it.

    Args:
        name: of the comparison.
        fold: its variants.
        allowed: in what their cells may differ (`wound_jax.experiments.cells`).
        together: whether the seeds of a variant may train in one program.
        progress_bar: whether to draw one.

    Returns:
        One line for each run that could not be trained and is left out.

    Raises:
        UserError: a variant cannot be trained or scored, a broken run was trained on other cells,
            the variants cannot be compared, or no run could be trained.
    """
    require_place(fold.folder)
    use_compilation_cache()
    cells = SharedCells()
    schedule = Schedule(
        fold.variants, _is_evaluated, _evaluate, together=together, progress_bar=progress_bar
    )
    _check({variant.name: schedule.missing(variant) for variant in fold.variants}, cells, allowed)
    found = {}
    for variant in fold.variants:
        schedule.train(variant, cells)
        folders = [folder_of(config) for config in variant.runs.values()]
        found[variant.name] = [read_run(folder) for folder in folders if is_finished(folder)]
    found = {variant: runs for variant, runs in found.items() if runs}
    if not found:
        raise UserError("no run could be trained:\n" + "\n".join(schedule.failures))
    _write_comparison(name, found, fold.folder, allowed, schedule.failures)
    return schedule.failures


def compare_folders(
    folders: Sequence[str], output: str | None, allowed: Collection[str], *, dry_run: bool
) -> None:
    """Sets finished runs side by side that are given by their folders.

    Args:
        folders: of the runs; those that differ in their seed alone are one variant.
        output: where to; None takes a folder in `runs`, named after the variants.
        allowed: in what their cells may differ (`wound_jax.experiments.cells`).
        dry_run: only shows what sets the variants apart.

    Raises:
        UserError: a folder holds no finished run, or the runs cannot be compared.
    """
    if output is not None:
        require_place(output)
    runs = [read_run(folder) for folder in dict.fromkeys(folders)]
    variants = group_runs(runs)
    text = render_variants({name: group[0].config for name, group in variants.items()})
    print(shown(text), flush=True)
    if dry_run:
        print(f"\n{len(variants)} variants, {len(runs)} runs, all of them finished")
        return
    name = "-".join(Path(variant).name for variant in variants)[:80]
    _write_comparison(name, variants, Path(output or f"runs/compare-{name}"), allowed)


def run_leave_one_out(
    spec: ExperimentSpec, path: Path, overrides: Sequence[str], folder: Path, *, progress_bar: bool
) -> None:
    """Trains and scores all folds, prints the table and writes the folder.

    Args:
        spec: the file's content, with `leave_out`.
        path: of the file.
        overrides: of the command line, for all variants.
        folder: where everything goes; what is finished there is kept.
        progress_bar: whether to draw one.

    Raises:
        UserError: a config, the data or a folder does not fit, or a run could not be trained.
    """
    require_place(folder)
    use_compilation_cache()
    config = plan_comparison(spec, path, overrides, folder).variants[0].config
    folds = plan_folds(spec, path, overrides, folder, labels_to_leave_out(spec, config))
    require_own_folders(folds)
    say(f"data: {describe_source(config.data)}")
    variants = [variant for fold in folds for variant in fold.variants]
    schedule = Schedule(
        variants, _is_trained, _mark_trained, together=spec.together, progress_bar=progress_bar
    )
    start, scores = time.perf_counter(), []
    for place, fold in enumerate(folds, 1):
        say(f"[{place}/{len(folds)}] {spec.leave_out} {fold.label} held out")
        cells = SharedCells()
        if not _can_be_scored(fold, cells, asked_for=spec.labels is not None):
            schedule.drop(fold.variants)
            continue
        scores.append(_run_fold(fold, cells, schedule))
        say(f"    after {(time.perf_counter() - start) / 60:.0f} min")
    if not scores:
        raise UserError(
            f"no {spec.leave_out} has a stratum that is large enough to be scored; lower "
            "evaluation.min_cells."
        )
    print(shown(write_folds(FoldFigures(str(spec.leave_out), scores), folder)))
    say(f"everything is in {folder}")


def labels_to_leave_out(spec: ExperimentSpec, config: RunConfig) -> list[str]:
    """The labels that are held out: those that are asked for, or all that have treated cells.

    Raises:
        UserError: one that is asked for has no treated cell, or there are fewer than two labels.
    """
    of = str(spec.leave_out)
    _, annotations = labelled_cells(open_source(config.data, {config.data.input}), config.data)
    treated = annotations.condition != config.data.control
    known = [str(label) for label in np.unique(getattr(annotations, of)[treated]) if label]
    if len(known) < 2:
        raise UserError(
            f"leave_out: {of}, but treated cells have {len(known)} labels of it "
            f"({named(known) or 'none'}); expected two at least. Check data.{of}_col."
        )
    for label in spec.labels or ():
        if label not in known:
            raise unknown_name(f"{of} with treated cells", label, known)
    return list(spec.labels or known)


# Runs of a comparison are each evaluated


def _is_evaluated(config: RunConfig) -> bool:
    return is_finished(folder_of(config))


def _evaluate(config: RunConfig, cells: SharedCells) -> None:
    score_run(folder_of(config), config, cells.of(config), cells.reference(config))


def _check(
    missing: Mapping[str, Sequence[RunConfig]], cells: SharedCells, allowed: Collection[str]
) -> None:
    """Prepares the cells of what is missing and builds every model, before anything trains."""
    sides: list[tuple[str, PreparedData]] = []
    for name, configs in missing.items():
        if not configs:
            continue
        data = cells.of(configs[0])
        if not sides:
            say(f"data: {describe_source(configs[0].data)}")
            say(split_table(data.split, data.cells.annotations))
        _require_trainable(configs[0], data)
        for config in configs:
            if (folder_of(config) / "provenance.json").is_file():
                require_same_data(folder_of(config), cells.of(config).fingerprint)
        sides.append((name, data))
    if sides:
        require_agreement(sides, between_data, allowed)


def _require_trainable(config: RunConfig, data: PreparedData) -> None:
    """What would otherwise end a run only when its turn comes."""
    plan_strata(data, config.evaluation, "test")
    require_validation(config.training, bool(data.groups("val")[0]))
    training = config.training
    devices = make_devices(training.devices, training.batch_size, training.accumulate)
    graphdef, _ = abstract_model(config.model, model_dims(data.spec))
    build_objective(config, graphdef, devices)


def _write_comparison(
    name: str,
    variants: Mapping[str, Sequence[FinishedRun]],
    folder: Path,
    allowed: Collection[str],
    failures: Sequence[str] = (),
) -> None:
    """Checks that the runs may be compared, prints the table, writes the folder and its page."""
    sides = [(str(run.folder), run) for runs in variants.values() for run in runs]
    notes = [*failures, *require_agreement(sides, between_runs, allowed)]
    figures = [VariantFigures(variant, runs) for variant, runs in variants.items()]
    text = write_comparison(VariantTable(name, figures, notes), folder)
    print(f"\n{shown(text)}")
    say(f"everything is in {folder}; the report is {write_html(folder)}")


# Runs of a leave-one-out are trained, and scored together with their fold


def _is_trained(config: RunConfig) -> bool:
    return _mark(config).is_file() or _scores_file(config).is_file()


def _mark_trained(config: RunConfig, cells: SharedCells) -> None:
    _mark(config).touch()


def _mark(config: RunConfig) -> Path:
    return folder_of(config) / "trained"


def _scores_file(config: RunConfig) -> Path:
    """The scores of a variant in a fold, beside its runs."""
    return folder_of(config).parent / "scores.json"


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
    say(f"    left out: no stratum of it has {config.evaluation.min_cells} cells in both arms")
    return False


def _run_fold(fold: Fold, cells: SharedCells, schedule: Schedule) -> FoldScores:
    """One fold: what is missing is trained, then scored."""
    scores = {}
    for variant in fold.variants:
        schedule.train(variant, cells)
        if schedule.failures:
            raise UserError("\n".join(schedule.failures))
        scores[variant.name] = _variant_scores(variant, cells)
    return FoldScores(str(fold.label), _baseline_scores(fold, cells), scores)


def _variant_scores(variant: PlannedVariant, cells: SharedCells) -> VariantScores:
    configs = list(variant.runs.values())
    path = _scores_file(configs[0])
    if path.is_file():
        return VariantScores.load(path)
    folders = [folder_of(config) for config in configs]
    scores = score_variant(configs[0].prediction, folders, _held_out(configs[0], cells))
    scores.save(path)
    return scores


def _baseline_scores(fold: Fold, cells: SharedCells) -> dict[str, dict[str, float]]:
    path = fold.folder / "baselines.json"
    if path.is_file():
        return read_record(path)
    config = next(iter(fold.variants[0].runs.values()))
    scores = score_baselines(_held_out(config, cells))
    write_record(path, scores)
    return scores


def _held_out(config: RunConfig, cells: SharedCells) -> HeldOut:
    return cells.reference(config).held_out()
