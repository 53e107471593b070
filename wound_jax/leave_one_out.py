"""`python -m wound_jax.leave_one_out --config FILE`: every label held out once, with intervals.

Trains each variant with each seed in each fold, scores seeds, their ensemble and the share of
linear rules beside all baselines, and writes one table. Interrupted, the same command goes on.
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from wound_jax import cli
from wound_jax.errors import UserError
from wound_jax.experiments.spec import LeaveOut, load_leave_one_out
from wound_jax.registry import as_read

_EXAMPLES = """examples:
  python -m wound_jax.leave_one_out --config configs/kang_celltype.yaml data.path=kang_ifnb.h5ad
  python -m wound_jax.leave_one_out --config configs/kang_donor.yaml data.path=kang_ifnb.h5ad
  python -m wound_jax.leave_one_out --config configs/synthetic_recipe.yaml \\
      --leave-out timepoint --labels day14
"""


def main(argv: list[str] | None = None) -> int:
    """Runs a leave-one-out; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return cli.run(lambda: _main(arguments), cli.GOES_ON)


def _parser() -> argparse.ArgumentParser:
    what = "Hold out every cell type, replicate or timepoint once, and compare with all baselines."
    parser = cli.parser("leave_one_out", what, _EXAMPLES)
    option = parser.add_argument
    option("--config", metavar="FILE", required=True, help="see configs/kang_*.yaml")
    option("--output", metavar="FOLDER", help="where runs and tables go")
    option("--leave-out", choices=get_args(LeaveOut), help="in place of the file's")
    option("--labels", nargs="+", type=as_read, metavar="LABEL", help="hold out these alone")
    cli.add_no_progress(parser)
    cli.add_overrides(parser, "for all variants")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    for text in arguments.overrides:
        if "=" not in text:
            raise UserError(f"{text!r} is no override; expected key=value (labels: --labels).")
    path, bar = Path(arguments.config), not arguments.no_progress
    spec = load_leave_one_out(path, arguments.leave_out, arguments.labels)
    folder = Path(arguments.output or spec.folder)
    from wound_jax.experiments.run import run_leave_one_out

    run_leave_one_out(spec, path, arguments.overrides, folder, progress_bar=bar)
    return 0


if __name__ == "__main__":
    sys.exit(main())
