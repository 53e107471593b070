"""What every run writes at its start and at its end, trained alone or with others.

At the start: config.yaml, split.txt, provenance.json, parameters.json. At the end: eval/ with the
scores on the test cells, the scorecard, pictures and the page, and the mark that it is finished.
"""

import math
from pathlib import Path

from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.evaluation.files import write_report
from wound_jax.evaluation.reference import Yardstick, fit_yardstick
from wound_jax.evaluation.result import evaluate
from wound_jax.evaluation.stability import training_stability
from wound_jax.prediction.calibration.saved import FILE, save_blend
from wound_jax.prediction.loaded_run import load_run
from wound_jax.report import write_run_html
from wound_jax.training.log import read_metrics
from wound_jax.training.record import record_finished
from wound_jax.training.run_folder import members_of


def score_run(
    folder: Path, config: RunConfig, data: PreparedData, yardstick: Yardstick | None = None
) -> str:
    """Evaluates a trained run, or an ensemble, on its test cells and marks it as finished.

    Args:
        folder: the run folder; `eval/` is written into it.
        config: its config.
        data: its prepared cells.
        yardstick: fitted on the same cells (`wound_jax.evaluation.reference`); None fits one.

    Returns:
        The tables of the results.
    """
    yardstick = yardstick or fit_yardstick(data, config.evaluation, config.split.seed)
    loaded = load_run(folder)
    training = training_figures(folder, config, data)
    outcome = evaluate(
        loaded.predictor,
        data,
        yardstick,
        config.evaluation,
        training=training,
        prediction=config.prediction,
    )
    if outcome.share is not None:
        save_blend(folder / FILE, outcome.share)
    outcome.result["run"] = {"steps": list(loaded.steps)}
    tables = write_report(folder / "eval", outcome, yardstick, folder, config)
    record_finished(folder)
    write_run_html(folder)
    return tables


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
