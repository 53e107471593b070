"""`python -m wound_jax.predict RUN --input cells.h5ad --output pred.h5ad --perturbation Burn`.

Writes one predicted cell for each control cell of the input: same names and columns, the condition
set, expression in the model's genes and scale, and for each cell whether its type, timepoint and
replicate were seen in training. `--with-controls` adds the real controls, so that the file fits the
field's evaluator (cell-eval), which wants both in one file. Cells that `data.exclude` left out of
training are left out here. Files of any size are read and written in parts. A file on another scale
than the model's cells is refused; `data.scale=trust` takes it all the same.
"""

import argparse
import dataclasses
import sys

from wound_jax import cli
from wound_jax.config import load_config
from wound_jax.errors import UserError, unknown_name, warn
from wound_jax.registry import as_read


def main(argv: list[str] | None = None) -> int:
    """Predicts the cells of a file; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return cli.run(lambda: _main(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("predict", "Predict perturbed cells from the control cells of a file.")
    parser.add_argument("run", help="folder of a run or an ensemble")
    parser.add_argument("--input", required=True, help="h5ad file with control cells")
    parser.add_argument("--output", required=True, help="h5ad file to write")
    parser.add_argument("--perturbation", required=True, type=as_read, help="condition to predict")
    parser.add_argument(
        "--with-controls",
        action="store_true",
        help="copy the real controls too, named NAME-control",
    )
    parser.add_argument(
        "--missing",
        choices=("error", "zero"),
        default="error",
        help="model genes that the file lacks: refuse, or fill with zeros",
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    cli.add_no_progress(parser)
    cli.add_overrides(parser, "data.scale=trust: take the file on whatever scale it is")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    for override in arguments.overrides:
        if not override.startswith("data.scale="):
            raise UserError(
                f"{override!r} would change what was trained; a prediction can change data.scale "
                "alone (data.scale=trust)."
            )
    overwrite = arguments.overwrite
    output = cli.new_file(arguments.output, arguments.input, "--input", overwrite=overwrite)
    # Everything heavy is imported once the arguments are known to be sound.
    from wound_jax.devices.compilation import use_compilation_cache
    from wound_jax.prediction.files import predict_file
    from wound_jax.prediction.loaded_run import load_run

    use_compilation_cache()
    run = load_run(arguments.run, arguments.checkpoint)
    if arguments.overrides:
        config = load_config(run.folder / "config.yaml", arguments.overrides)
        run = dataclasses.replace(run, config=config)
    if arguments.perturbation not in run.spec.perturbations:
        raise unknown_name("perturbation", arguments.perturbation, run.spec.perturbations.names)
    if arguments.perturbation == run.spec.control and not run.config.data.control_fraction:
        warn(
            f"{run.spec.control} is the control, which no training set had as its target "
            "(data.control_fraction=0): the model never learned to predict it."
        )
    n_cells, n_columns = predict_file(
        run,
        arguments.input,
        output,
        arguments.perturbation,
        with_controls=arguments.with_controls,
        missing=arguments.missing,
        progress=not arguments.no_progress,
    )
    print(f"{n_cells} cells x {n_columns} genes in {output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
