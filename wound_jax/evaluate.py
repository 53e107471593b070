"""`python -m wound_jax.evaluate RUN [key=value ...]`: scores a finished run again.

On any part of its split, on another split of its cells (`split.*` overrides), or on another file
(`--input`). Baselines, genes and components are always fitted on training cells.
"""

import argparse
import sys
from pathlib import Path

from wound_jax import cli
from wound_jax.config import load_config
from wound_jax.config.keys import MOVED
from wound_jax.errors import UserError

_EXAMPLES = """examples:
  python -m wound_jax.evaluate runs/quickstart
  python -m wound_jax.evaluate runs/quickstart --part val
  python -m wound_jax.evaluate runs/quickstart evaluation.min_cells=50
  python -m wound_jax.evaluate runs/kang --input new_donors.h5ad
  python -m wound_jax.evaluate runs/kang --cell-eval
"""
_OPTIONS = ("part", "checkpoint", "missing", "cell_eval")
_CHANGEABLE = (
    "split.", "prediction.", "evaluation.", "data.scale=", *(f"{key}=" for key in MOVED),
)  # fmt: skip


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
    cli.add_overrides(
        parser,
        "changes to split.*, prediction.*, evaluation.*; data.scale, data.path, data.location",
    )
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
                "prediction.* and evaluation.* keys and data.scale, find the cells elsewhere "
                f"({', '.join(MOVED)}), and read another file by --input."
            )
    # A finished run's file is complete, so overrides are judged against it as on a command line.
    from wound_jax.training.run_folder import require_run

    config = load_config(require_run(arguments.run) / "config.yaml", arguments.overrides)
    # Heavy, and needed once the config is right.
    from wound_jax.report.score_run import score_again

    options = {name: getattr(arguments, name) for name in _OPTIONS}
    score_again(Path(arguments.run), config, _folder(arguments), path=arguments.input, **options)
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    """RUN/eval for the plain question, a folder of its own for any other."""
    if arguments.output:
        return Path(arguments.output)
    of = Path(arguments.input).stem if arguments.input else arguments.part
    changes = [text for text in arguments.overrides if text.partition("=")[0] not in MOVED]
    words = [of, *(["last"] if arguments.checkpoint == "last" else []), *changes]
    if words == ["test"] and not arguments.input:
        return Path(arguments.run) / "eval"
    name = "-".join(["eval", *words]).replace("=", "-")
    return Path(arguments.run) / "".join(c if c.isalnum() or c in "-._" else "_" for c in name)


if __name__ == "__main__":
    sys.exit(main())
