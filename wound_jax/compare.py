"""`python -m wound_jax.compare --config FILE` or `... RUN RUN ...`: variants side by side.

Trains what a comparison file lists and is not finished yet, or takes finished runs; prints what
sets the variants apart and one table, and writes a folder with all figures and the report page.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wound_jax import cli
from wound_jax.errors import UserError, unknown_name
from wound_jax.experiments.spec import CompareSpec, load_spec
from wound_jax.experiments.variants import (
    PlannedVariant,
    folder_of,
    is_finished,
    plan_variants,
    render_variants,
    require_own_folders,
)

_EXAMPLES = """examples:
  python -m wound_jax.compare --config configs/compare_phases.yaml
  python -m wound_jax.compare --config configs/compare_phases.yaml --dry-run
  python -m wound_jax.compare --config configs/compare_phases.yaml training.max_steps=200
  python -m wound_jax.compare runs/phase1_lora runs/phase2_lora_mhc --output runs/phases

Interrupted, the same command goes on where it was. Exit status 1: some run failed and is left out.
"""
# As in wound_jax.experiments.agreement, which is not imported for --help.
_ASPECTS = ("split", "genes", "scale")


def main(argv: list[str] | None = None) -> int:
    """Compares variants; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return cli.run(lambda: _main(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wound_jax.compare",
        description="Train variants with several seeds, or take finished runs, and compare them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="comparison file; see configs/")
    parser.add_argument("--output", metavar="FOLDER", help="where runs and tables go")
    parser.add_argument(
        "--allow-different",
        metavar="ASPECTS",
        default="",
        help=f"compare runs that differ in these: {','.join(_ASPECTS)}",
    )
    parser.add_argument(
        "--one-by-one", action="store_true", help="do not train seeds in one program"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be trained")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    parser.add_argument(
        "given",
        nargs="*",
        metavar="RUN or key=value",
        help="finished runs; or, with --config, changes to all variants",
    )
    return parser


def _main(arguments: argparse.Namespace) -> int:
    runs = [text for text in arguments.given if "=" not in text]
    overrides = [text for text in arguments.given if "=" in text]
    allowed = [name for name in arguments.allow_different.split(",") if name]
    for name in allowed:
        if name not in _ASPECTS:
            raise unknown_name("aspect of --allow-different", name, _ASPECTS)
    if bool(arguments.config) == bool(runs):
        raise UserError("give either --config FILE or the folders of finished runs.")
    if runs:
        return _compare_runs(arguments, runs, overrides, allowed)
    path = Path(arguments.config)
    spec = load_spec(path)
    folder = Path(arguments.output) if arguments.output else spec.folder
    variants = plan_variants(spec, path, overrides, folder)
    require_own_folders(variants)
    print(render_variants({variant.name: variant.config for variant in variants}), flush=True)
    if arguments.dry_run:
        return _show_plan(variants, folder)
    together = spec.together and not arguments.one_by_one
    return _train_and_compare(arguments, spec, variants, folder, together, allowed)


def _show_plan(variants: Sequence[PlannedVariant], folder: Path) -> int:
    configs = [config for variant in variants for config in variant.runs.values()]
    finished = sum(is_finished(folder_of(config)) for config in configs)
    seeds = len(variants[0].runs)
    print(
        f"\n{len(variants)} variants x {seeds} seeds = {len(configs)} runs, {finished} of them "
        f"finished, in {folder}"
    )
    return 0


def _train_and_compare(
    arguments: argparse.Namespace,
    spec: CompareSpec,
    variants: Sequence[PlannedVariant],
    folder: Path,
    together: bool,
    allowed: Sequence[str],
) -> int:
    # Everything heavy is imported once all configs are known to be sound.
    from wound_jax.devices.compilation import use_compilation_cache
    from wound_jax.experiments.finished import FinishedVariant, read_run
    from wound_jax.experiments.schedule import Schedule

    use_compilation_cache()
    schedule = Schedule(variants, together=together, progress_bar=not arguments.no_progress)
    try:
        schedule.check(allowed)
        schedule.run()
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    found = []
    for variant in variants:
        folders = [folder_of(config) for config in variant.runs.values()]
        runs = tuple(read_run(one) for one in folders if is_finished(one))
        if runs:
            found.append(FinishedVariant(variant.name, runs))
    if not found:
        raise UserError("no run could be trained:\n" + "\n".join(schedule.failures))
    _write(spec.name, found, folder, allowed, schedule.failures)
    return 1 if schedule.failures else 0


def _compare_runs(
    arguments: argparse.Namespace,
    runs: Sequence[str],
    overrides: Sequence[str],
    allowed: Sequence[str],
) -> int:
    if overrides:
        raise UserError(
            f"finished runs stay as they are: {list(overrides)} cannot be changed. Overrides go "
            "with --config."
        )
    from wound_jax.experiments.finished import group_runs, read_run

    variants = group_runs([read_run(run) for run in dict.fromkeys(runs)])
    print(render_variants({variant.name: variant.config for variant in variants}), flush=True)
    if arguments.dry_run:
        print(f"\n{len(variants)} variants, {len(set(runs))} runs, all of them finished")
        return 0
    name = "-".join(Path(variant.name).name for variant in variants)[:80]
    folder = Path(arguments.output) if arguments.output else Path("runs") / f"compare-{name}"
    _write(name, variants, folder, allowed, [])
    return 0


def _write(
    name: str, variants: Sequence, folder: Path, allowed: Sequence[str], failures: Sequence[str]
) -> None:
    """Checks that the runs may be compared, writes the folder, prints the table."""
    from wound_jax.experiments.agreement import between_runs, require_agreement
    from wound_jax.experiments.figures import VariantFigures
    from wound_jax.experiments.results import Comparison
    from wound_jax.experiments.tables import write_comparison
    from wound_jax.report import write_html

    runs = [(str(run.folder), run) for variant in variants for run in variant.runs]
    notes = [*failures, *require_agreement(runs, between_runs, allowed)]
    comparison = Comparison(name, tuple(VariantFigures(one) for one in variants), tuple(notes))
    text = write_comparison(comparison, folder)
    print(f"\n{text}")
    page = write_html(folder)
    print(f"everything is in {folder}; the report is {page}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
