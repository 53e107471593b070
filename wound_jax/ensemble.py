"""`python -m wound_jax.ensemble RUN RUN [RUN ...] --output FOLDER`: several runs as one model.

Takes finished runs that differ in their seed alone, averages their cells one by one, scores the
mean on the held-out cells and leaves a folder that `evaluate` and `predict` take as they take a
run's. The runs stay where they are; the folder names them.
"""

import argparse
import sys
from pathlib import Path

from wound_jax import cli
from wound_jax.errors import UserError

_EXAMPLES = """examples:
  python -m wound_jax.ensemble runs/kang runs/kang-2 runs/kang-3 --output runs/kang_ensemble
  python -m wound_jax.predict runs/kang_ensemble --input cells.h5ad --output pred.h5ad \\
      --perturbation stim
"""


def main(argv: list[str] | None = None) -> int:
    """Makes and scores one ensemble; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return cli.run(lambda: _main(arguments))


def _parser() -> argparse.ArgumentParser:
    what = "Average the predictions of runs that differ in their seed, and score them."
    parser = cli.parser("ensemble", what, _EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs")
    place = "folder of the ensemble, new, empty or interrupted"
    parser.add_argument("--output", required=True, help=place)
    return parser


def _main(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.output)
    if len(arguments.runs) < 2:
        raise UserError("one run is no ensemble; give two or more that differ in their seed.")
    # Everything heavy is imported once the arguments are known to be sound.
    from wound_jax.experiments.ensemble import make_ensemble

    print(make_ensemble(arguments.runs, folder))
    print(f"everything is in {folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
