"""`python -m wound_jax.compare --config FILE` or `... RUN RUN ...`: variants side by side.

Trains what a comparison file lists and is not finished yet, or takes finished runs; prints what
sets the variants apart and one table, and writes a folder with all figures and the report page.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wound_jax import cli
from wound_jax.errors import UserError, shown, unknown_name
from wound_jax.experiments.plan import (
    plan_comparison,
    render_size,
    render_variants,
    require_own_folders,
)
from wound_jax.experiments.spec import ASPECTS, load_comparison

_EXAMPLES = """examples:
  python -m wound_jax.compare --config configs/compare_phases.yaml
  python -m wound_jax.compare --config configs/compare_phases.yaml --dry-run
  python -m wound_jax.compare --config configs/compare_phases.yaml training.max_steps=200
  python -m wound_jax.compare runs/phase1_lora runs/phase2_lora_mhc --output runs/phases

Interrupted, the same command goes on where it was. Exit status 1: some run failed and is left out.
"""


def main(argv: list[str] | None = None) -> int:
    """Compares variants; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return cli.run(lambda: _main(arguments), cli.GOES_ON)


def _parser() -> argparse.ArgumentParser:
    what = "Train variants with several seeds, or take finished runs, and compare them."
    parser = cli.parser("compare", what, _EXAMPLES)
    option = parser.add_argument
    option("--config", metavar="FILE", help="comparison file; see configs/")
    option("--output", metavar="FOLDER", help="where runs and tables go")
    aspects = f"compare runs that differ in these: {','.join(ASPECTS)}"
    option("--allow-different", metavar="ASPECTS", default="", help=aspects)
    option("--one-by-one", action="store_true", help="do not train seeds in one program")
    option("--dry-run", action="store_true", help="show what would be trained")
    cli.add_no_progress(parser)
    given = "finished runs; or, with --config, changes to all variants"
    option("given", nargs="*", metavar="RUN or key=value", help=given)
    return parser


def _main(arguments: argparse.Namespace) -> int:
    runs = [text for text in arguments.given if "=" not in text]
    overrides = [text for text in arguments.given if "=" in text]
    allowed = [name for name in arguments.allow_different.split(",") if name]
    for name in allowed:
        if name not in ASPECTS:
            raise unknown_name("aspect of --allow-different", name, ASPECTS)
    if bool(arguments.config) == bool(runs):
        raise UserError("give either --config FILE or the folders of finished runs.")
    if runs and overrides:
        raise UserError(
            f"finished runs stay as they are: {overrides} cannot be changed. Overrides go with "
            "--config."
        )
    if not runs:
        return _train_and_compare(arguments, overrides, allowed)
    from wound_jax.experiments.run import compare_folders

    compare_folders(runs, arguments.output, allowed, dry_run=arguments.dry_run)
    return 0


def _train_and_compare(
    arguments: argparse.Namespace, overrides: Sequence[str], allowed: Sequence[str]
) -> int:
    path = Path(arguments.config)
    spec = load_comparison(path)
    fold = plan_comparison(spec, path, overrides, Path(arguments.output or spec.folder))
    require_own_folders([fold])
    print(shown(render_variants({one.name: one.config for one in fold.variants})), flush=True)
    if arguments.dry_run:
        print(f"\n{render_size(fold)}")
        return 0
    # Everything heavy is imported once all configs are known to be sound.
    from wound_jax.experiments.run import run_comparison

    together = spec.together and not arguments.one_by_one
    bar = not arguments.no_progress
    failures = run_comparison(spec.name, fold, allowed, together=together, progress_bar=bar)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
