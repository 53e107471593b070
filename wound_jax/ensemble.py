"""`python -m wound_jax.ensemble RUN RUN [RUN ...] --output FOLDER`: several runs as one model.

Takes finished runs that differ in their seed alone, averages their cells one by one, scores the
mean on the held-out cells and leaves a folder that `evaluate` and `predict` take as they take a
run's. The runs stay where they are; the folder names them.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wound_jax import cli
from wound_jax.errors import UserError

if TYPE_CHECKING:
    from wound_jax.experiments.finished import FinishedRun

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
    parser = argparse.ArgumentParser(
        prog="python -m wound_jax.ensemble",
        description="Average the predictions of runs that differ in their seed, and score them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs")
    parser.add_argument(
        "--output", required=True, help="folder of the ensemble, new, empty or interrupted"
    )
    return parser


def _main(arguments: argparse.Namespace) -> int:
    folder = Path(arguments.output)
    if len(arguments.runs) < 2:
        raise UserError("one run is no ensemble; give two or more that differ in their seed.")
    # Everything heavy is imported once the arguments are known to be sound.
    from wound_jax.devices.compilation import use_compilation_cache
    from wound_jax.experiments.finished import group_runs, read_run
    from wound_jax.experiments.variants import is_finished
    from wound_jax.training.run_folder import is_free, members_of

    interrupted = members_of(folder) and not is_finished(folder)
    if not (is_free(folder) or interrupted):
        raise UserError(f"{folder} exists and is not empty; choose another --output.")
    use_compilation_cache()
    runs = [read_run(run) for run in arguments.runs]
    variants = group_runs(runs)
    if len(variants) > 1:
        raise UserError(_several_variants(variants[0].runs[0], variants[1].runs[0]))
    print(_make(runs, folder))
    print(_runs_alone([run.summary["model"] for run in runs]))
    print(f"everything is in {folder}", file=sys.stderr)
    return 0


def _make(runs: Sequence["FinishedRun"], folder: Path) -> str:
    """Writes and scores the ensemble; returns the tables of the results."""
    import jax

    from wound_jax.config.load import dump_config
    from wound_jax.data.prepare import prepare
    from wound_jax.data.source import describe_source
    from wound_jax.report.score_run import score_run
    from wound_jax.training import provenance
    from wound_jax.training.run_folder import name_members

    first = runs[0]
    config = first.config.model_copy(update={"name": folder.name, "run_dir": str(folder)})
    data = prepare(config, first.spec)
    for run in runs:
        provenance.require_same_data(run.folder, data.fingerprint)
    record = provenance.provenance(data.fingerprint, describe_source(config.data), jax.devices())
    folder.mkdir(parents=True, exist_ok=True)
    name_members(folder, [run.folder for run in runs])
    (folder / "config.yaml").write_text(dump_config(config))
    (folder / "split.txt").write_text(first.split_table)
    provenance.write(folder, record)
    return score_run(folder, config, data)


def _several_variants(one: "FinishedRun", other: "FinishedRun") -> str:
    from wound_jax.config.diff import render
    from wound_jax.experiments.variants import config_differences

    return (
        f"{one.folder} and {other.folder} differ in more than their seed:\n"
        f"{render(config_differences(one.config, other.config))}\n"
        "Expected runs of one config; python -m wound_jax.compare sets different ones side by side."
    )


def _runs_alone(summaries: Sequence[Mapping[str, Any]]) -> str:
    """What each run reached by itself, as its own evaluation found."""
    figures = (
        f"{name} {', '.join(f'{summary[name]:.3f}' for summary in summaries)}"
        for name in ("pearson_delta", "e_distance_ratio")
    )
    return f"the runs alone: {'; '.join(figures)}"


if __name__ == "__main__":
    sys.exit(main())
