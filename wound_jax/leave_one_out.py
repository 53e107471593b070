"""`python -m wound_jax.leave_one_out --config FILE`: every label held out once, with intervals.

Trains each variant with each seed in each fold, scores seeds, their ensemble and the share of
linear rules beside all baselines, and writes one table. Interrupted, the same command goes on.
"""

import argparse
import sys
from pathlib import Path

from wound_jax import cli
from wound_jax.errors import UserError
from wound_jax.experiments.spec import load_spec

_EXAMPLES = """examples:
  python -m wound_jax.leave_one_out --config configs/kang_celltype.yaml data.path=kang_ifnb.h5ad
  python -m wound_jax.leave_one_out --config configs/kang_donor.yaml data.path=kang_ifnb.h5ad
  python -m wound_jax.leave_one_out --config configs/synthetic_recipe.yaml \\
      --leave-out timepoint --labels day14
"""
_LEAVE_OUT = ("cell_type", "replicate", "timepoint")


def main(argv: list[str] | None = None) -> int:
    """Runs a leave-one-out; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return cli.run(lambda: _main(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wound_jax.leave_one_out",
        description="Hold out every cell type, replicate or timepoint once, and compare with all "
        "baselines.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", required=True, help="see configs/kang_*.yaml")
    parser.add_argument("--output", metavar="FOLDER", help="where runs and tables go")
    parser.add_argument("--leave-out", choices=_LEAVE_OUT, help="in place of the file's")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="hold out these alone")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for all variants")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    for text in arguments.overrides:
        if "=" not in text:
            raise UserError(f"{text!r} is no override; expected key=value (labels: --labels).")
    from wound_jax.experiments.folds import FoldsSpec
    from wound_jax.experiments.leave_one_out import leave_one_out

    path = Path(arguments.config)
    spec = load_spec(path, FoldsSpec)
    asked = {"leave_out": arguments.leave_out, "labels": arguments.labels}
    spec = spec.model_copy(
        update={
            k: tuple(v) if isinstance(v, list) else v for k, v in asked.items() if v is not None
        }
    )
    folder = Path(arguments.output) if arguments.output else spec.folder
    try:
        print(
            leave_one_out(
                spec, path, arguments.overrides, folder, progress_bar=not arguments.no_progress
            )
        )
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print(f"everything is in {folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
