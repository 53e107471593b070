"""`python -m wound_jax.evaluate RUN [key=value ...]`: scores a finished run again.

On any part of its split, on another split of its cells (`split.*` overrides), or on another file
(`--input`). Baselines, genes and components are always fitted on training cells.
"""

import argparse
import sys
from pathlib import Path

from wound_jax import cli
from wound_jax.config import RunConfig, load_config
from wound_jax.errors import UserError

_EXAMPLES = """examples:
  python -m wound_jax.evaluate runs/quickstart
  python -m wound_jax.evaluate runs/quickstart --part val
  python -m wound_jax.evaluate runs/quickstart evaluation.min_cells=50
  python -m wound_jax.evaluate runs/kang --input new_donors.h5ad
  python -m wound_jax.evaluate runs/kang --cell-eval
"""
_CHANGEABLE = ("split.", "prediction.", "evaluation.")


def main(argv: list[str] | None = None) -> int:
    """Scores one run; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return cli.run(lambda: _main(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("evaluate", "Score a trained run on held-out cells.", _EXAMPLES)
    parser.add_argument("run", help="folder of a run or an ensemble")
    parser.add_argument("--part", choices=("test", "val", "train"), default="test")
    parser.add_argument("--input", help="score all treated cells of this h5ad file instead")
    parser.add_argument(
        "--missing",
        choices=("error", "zero"),
        default="error",
        help="model genes that --input lacks: refuse, or fill with zeros",
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument(
        "--cell-eval",
        action="store_true",
        help="also write the pair of files that cell-eval reads, and run it (extra [cell-eval])",
    )
    parser.add_argument("--output", help="folder for the results; default RUN/eval or RUN/eval-...")
    cli.add_overrides(parser, "changes to split.*, prediction.* and evaluation.*")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    if arguments.input and arguments.part != "test":
        raise UserError(
            f"--part {arguments.part} is a part of the run's own split, and --input scores all "
            "treated cells of another file; give one of them."
        )
    for override in arguments.overrides:
        if not override.startswith(_CHANGEABLE):
            raise UserError(
                f"{override!r} would change what was trained; an evaluation can change split.*, "
                "prediction.* and evaluation.* keys, and read another file by --input."
            )
    # A finished run's file is complete, so overrides are judged against it as on a command line.
    from wound_jax.training.run_folder import require_run

    config = load_config(require_run(arguments.run) / "config.yaml", arguments.overrides)
    return _evaluate(arguments, config)


def _evaluate(arguments: argparse.Namespace, config: RunConfig) -> int:
    from wound_jax.data.prepare import prepare, read_external, resplit
    from wound_jax.data.timepoints import require_times
    from wound_jax.devices.compilation import use_compilation_cache
    from wound_jax.evaluation.files import write_report
    from wound_jax.evaluation.reference import fit_yardstick
    from wound_jax.evaluation.result import evaluate
    from wound_jax.prediction.calibration.saved import FILE, save_blend
    from wound_jax.prediction.loaded_run import load_run
    from wound_jax.report import write_run_html
    from wound_jax.report.score_run import training_figures
    from wound_jax.training.record import require_same_data

    use_compilation_cache()
    loaded = load_run(arguments.run, arguments.checkpoint)
    trained = prepare(loaded.config, loaded.spec)
    require_same_data(loaded.folder, trained.fingerprint)
    data = resplit(trained, config.split)
    yardstick = fit_yardstick(data, config.evaluation, config.split.seed)
    if arguments.input:
        data = read_external(arguments.input, config.data, loaded.spec, missing=arguments.missing)
        if config.model.timepoint_embedding == "continuous":
            require_times(data.cells.annotations.timepoint)
    outcome = evaluate(
        loaded.predictor,
        data,
        yardstick,
        config.evaluation,
        arguments.part,
        training=training_figures(loaded.folder, loaded.config, trained),
        prediction=config.prediction,
    )
    if outcome.share is not None and config.split == loaded.config.split:
        save_blend(loaded.folder / FILE, outcome.share)
    seen = 0 if arguments.input else trained.trained_on(data, arguments.part)
    outcome.result["split"]["trained_on"] = seen
    outcome.result["run"] = {"folder": str(arguments.run), "steps": list(loaded.steps)}
    folder = Path(arguments.output) if arguments.output else _default_folder(arguments)
    print(write_report(folder, outcome, yardstick, loaded.folder, config))
    if folder.parent == loaded.folder:
        write_run_html(loaded.folder, folder.name)
    if seen:
        print(
            f"warning: {seen} of the scored treated cells were trained on; these figures flatter.",
            file=sys.stderr,
        )
    if arguments.cell_eval:
        _cell_eval(folder / "cell_eval", outcome, config)
    print(f"everything is in {folder}", file=sys.stderr)
    return 0


def _cell_eval(folder: Path, outcome, config: RunConfig) -> None:
    """Writes the pair of files of the field's evaluator, and runs it where it is installed."""
    from wound_jax.evaluation.cell_eval import run_cell_eval, write_pair

    if not outcome.genes:
        raise UserError(
            "--cell-eval needs predicted genes, and this run predicts an embedding; expected a "
            "model of genes, or one with a gene decoder (model.decoder.enable=true)."
        )
    pair = write_pair(
        folder,
        outcome.strata,
        outcome.predicted,
        outcome.genes,
        scale=config.data.preprocess,
        control_label=config.data.control,
    )
    print(f"cell-eval: {run_cell_eval(pair, folder)}", file=sys.stderr)


def _default_folder(arguments: argparse.Namespace) -> Path:
    """RUN/eval for the plain question, a folder of its own for any other."""
    of = Path(arguments.input).stem if arguments.input else arguments.part
    words = [of, *(["last"] if arguments.checkpoint == "last" else []), *arguments.overrides]
    if words == ["test"] and not arguments.input:
        return Path(arguments.run) / "eval"
    name = "-".join(["eval", *words]).replace("=", "-")
    return Path(arguments.run) / "".join(c if c.isalnum() or c in "-._" else "_" for c in name)


if __name__ == "__main__":
    sys.exit(main())
