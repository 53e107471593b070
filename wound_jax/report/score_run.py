"""Scoring a run: after its training, and again on any part, split or file.

Writes eval/ with the scores on held-out cells, the scorecard, pictures and the page. Baselines,
genes and components are always fitted on training cells.
"""

import math
import sys
from pathlib import Path

from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.prepare import prepare, read_external, resplit
from wound_jax.data.timepoints import require_times
from wound_jax.devices.compilation import use_compilation_cache
from wound_jax.errors import UserError, shown
from wound_jax.evaluation.cell_eval import run_cell_eval, write_pair
from wound_jax.evaluation.files import write_report
from wound_jax.evaluation.reference import Reference, fit_reference
from wound_jax.evaluation.result import Result, evaluate_model
from wound_jax.evaluation.stability import training_stability
from wound_jax.files import require_place
from wound_jax.prediction.calibration.calibration import FILE, save_calibration
from wound_jax.prediction.loaded_run import LoadedRun, load_run
from wound_jax.report import write_run_html
from wound_jax.training.log import read_metrics
from wound_jax.training.record import record_finished, require_same_data
from wound_jax.training.run_folder import members_of


def score_run(
    folder: Path, config: RunConfig, data: PreparedData, reference: Reference | None = None
) -> str:
    """Evaluates a trained run, or an ensemble, on its test cells and marks it as finished.

    Args:
        folder: the run folder; `eval/` is written into it.
        config: its config.
        data: its prepared cells.
        reference: fitted on the same cells (`wound_jax.evaluation.reference`); None fits one.

    Returns:
        The tables of the results.
    """
    reference = reference or fit_reference(data, config.evaluation, config.split.seed)
    loaded = load_run(folder)
    training = training_figures(folder, config, data)
    result = evaluate_model(
        loaded.predictor, reference.held_out(), config.prediction, training=training
    )
    save_calibration(folder, result.calibration)
    result.figures["run"] = {"steps": list(loaded.steps)}
    tables = write_report(folder / "eval", result, reference, config)
    record_finished(folder)
    write_run_html(folder, pictures=config.evaluation.plots)
    return tables


def score_again(
    run: Path,
    config: RunConfig,
    folder: Path,
    *,
    part: str = "test",
    checkpoint: str = "best",
    path: str | None = None,
    missing: str = "error",
    cell_eval: bool = False,
) -> Result:
    """Evaluates a finished run, or an ensemble, once more, and prints its tables.

    Args:
        run: its folder.
        config: its config, with changes to `split.*`, `prediction.*`, `evaluation.*`,
            `data.scale` and where its cells are at most.
        folder: where the results go.
        part: "train", "val" or "test".
        checkpoint: "best" or "last".
        path: a file whose treated cells are scored instead of a part of the split.
        missing: "error" or "zero", for genes that the file lacks.
        cell_eval: whether to run the field's evaluator as well.

    Raises:
        UserError: the cells are not those of the run, or there is nothing to score.
    """
    require_place(folder)
    use_compilation_cache()
    loaded = load_run(run, checkpoint)
    as_trained = loaded.config.model_copy(update={"data": config.data})
    trained = prepare(as_trained, loaded.spec)
    require_same_data(loaded.folder, trained.fingerprint)
    data = resplit(trained, config.split)
    reference = fit_reference(data, config.evaluation, config.split.seed)
    if path:
        data = read_external(path, config.data, loaded.spec, missing=missing)
        if config.model.timepoint_embedding == "continuous":
            require_times(data.cells.annotations.timepoint)
    result = evaluate_model(
        loaded.predictor,
        reference.held_out(part, data),
        config.prediction,
        training=training_figures(loaded.folder, loaded.config, trained),
    )
    if not path and part == "test" and config == as_trained and _lost(loaded, checkpoint):
        save_calibration(loaded.folder, result.calibration)
    seen = 0 if path else trained.trained_on(data, part)
    result.figures["split"]["trained_on"] = seen
    result.figures["run"] = {"folder": str(run), "steps": list(loaded.steps)}
    print(shown(write_report(folder, result, reference, config)))
    write_run_html(loaded.folder, folder.resolve(), pictures=config.evaluation.plots)
    if seen:
        _say(f"warning: {seen} of the scored treated cells were trained on; these figures flatter.")
    if cell_eval:
        _say(f"cell-eval: {_cell_eval(folder / 'cell_eval', result, config)}")
    _say(f"everything is in {folder}")
    return result


def _lost(loaded: LoadedRun, checkpoint: str) -> bool:
    """Whether a run lost its calibration, and the state is there that its training fitted it for.

    A calibration that is there is never written over: it belongs to what predicts.
    """
    return checkpoint == "best" and not (loaded.folder / FILE).exists()


def _cell_eval(folder: Path, result: Result, config: RunConfig) -> Path:
    """Writes the pair of files of the field's evaluator, and runs it where it is installed."""
    if not result.genes:
        raise UserError(
            "--cell-eval needs predicted genes, and this run predicts an embedding; expected a "
            "model of genes, or one with a gene decoder (model.decoder.enable=true)."
        )
    pair = write_pair(
        folder,
        result.strata,
        result.predicted,
        result.genes,
        scale=config.data.preprocess,
        control_label=config.data.control,
    )
    return run_cell_eval(pair, folder)


def _say(text: str) -> None:
    print(shown(text), file=sys.stderr)


def training_figures(
    folder: Path, config: RunConfig, data: PreparedData
) -> dict[str, float] | None:
    """How smoothly a run trained and how far its validation loss fell, from its log.

    Args:
        folder: the run folder, with `metrics.jsonl`.
        config: its config.
        data: the cells it was trained on.

    Returns:
        None for an ensemble, which was not trained itself.
    """
    if members_of(folder):
        return None
    training, records = config.training, read_metrics(folder)
    sets = data.plan_builder("train", config.data, config.seed).sets_per_epoch()
    identity = [r["val/identity_loss"] for r in records if r.get("val/identity_loss") is not None]
    return training_stability(
        records,
        clip_norm=training.clip_norm,
        warmup_steps=training.warmup_steps,
        steps_per_epoch=math.ceil(sets / training.batch_size),
        identity_loss=identity[0] if identity else None,
    )
