"""`python -m wound_jax.train --config CONFIG [key=value ...]`: from cells to an evaluated model.

Reads the cells, shows the split and the parameters, trains, evaluates the best checkpoint on the
held-out cells beside the baselines, and leaves one run folder.
"""

import argparse
import sys
import time
from pathlib import Path

from wound_jax import cli
from wound_jax.config import RunConfig, load_config
from wound_jax.errors import UserError

_EXAMPLES = """examples:
  python -m wound_jax.train --config configs/quickstart.yaml
  python -m wound_jax.train --config configs/burn_sham_gene.yaml data.path=burn.h5ad
  python -m wound_jax.train --resume runs/quickstart
"""


def main(argv: list[str] | None = None) -> int:
    """Trains and evaluates one run; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return cli.run(lambda: _main(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wound_jax.train",
        description="Train and evaluate a set transformer.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config", action="append", help="YAML file; see configs/. Given again, later ones win"
    )
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    if bool(arguments.config) == bool(arguments.resume):
        raise UserError("give either --config CONFIG or --resume RUN.")
    if arguments.resume:
        if arguments.overrides:
            raise UserError(
                f"--resume continues a run as it was: {arguments.overrides} cannot be changed. "
                "Start a new run with --config to change settings."
            )
        return _resume(Path(arguments.resume), progress_bar=not arguments.no_progress)
    config = load_config(arguments.config, arguments.overrides)
    return _start(config, progress_bar=not arguments.no_progress)


def _start(config: RunConfig, *, progress_bar: bool) -> int:
    # Everything heavy is imported once the config is known to be sound.
    from wound_jax.data.prepare import prepare
    from wound_jax.data.source import describe_source
    from wound_jax.data.split_table import split_table
    from wound_jax.lifecycle import record_start, warn_of_warmups
    from wound_jax.optim.parameter_table import format_parameter_table
    from wound_jax.run_folder import new_folder, require_free

    require_free(config)
    print(f"data: {describe_source(config.data)}", file=sys.stderr)
    data = prepare(config)
    print(split_table(data.split, data.cells.annotations), file=sys.stderr)
    run = _assemble(config, data)
    warn_of_warmups(config, run.total_steps)
    folder = new_folder(config)
    parameters = record_start(folder, config, data, run)
    print(format_parameter_table(parameters), file=sys.stderr)
    return _train_and_evaluate(config, data, run, folder, resume=False, progress_bar=progress_bar)


def _resume(folder: Path, *, progress_bar: bool) -> int:
    from wound_jax import provenance
    from wound_jax.data.prepare import prepare
    from wound_jax.run_folder import require_run

    config = load_config(require_run(folder) / "config.yaml")
    data = prepare(config)
    provenance.require_same_data(folder, data.fingerprint)
    run = _assemble(config, data)
    provenance.resume(folder, run.devices.mesh.devices.flat)
    return _train_and_evaluate(config, data, run, folder, resume=True, progress_bar=progress_bar)


def _assemble(config: RunConfig, data):
    from wound_jax.assemble import Run
    from wound_jax.compilation import use_compilation_cache
    from wound_jax.evaluation.held_out import plan_strata

    use_compilation_cache()
    # Test cells too few to be scored are found before the training, not after it.
    plan_strata(data, config.evaluation, "test")
    return Run(config, data)


def _train_and_evaluate(
    config: RunConfig, data, run, folder: Path, *, resume: bool, progress_bar: bool
) -> int:
    from wound_jax.lifecycle import add_seconds, score_run
    from wound_jax.loop import Loop

    print(f"run folder: {folder}", file=sys.stderr)
    start = time.perf_counter()
    try:
        loop = Loop(run, config.training, data.spec, folder, progress_bar=progress_bar)
        progress = loop.train(resume=resume)
    except KeyboardInterrupt:
        print(f"\ninterrupted; continue with --resume {folder}", file=sys.stderr)
        return 130
    finally:
        seconds = time.perf_counter() - start
        add_seconds(folder, seconds)
    print(f"trained in {seconds:.0f} s; {_best(progress)}", file=sys.stderr)
    print(score_run(folder, config, data))
    print(f"everything is in {folder}", file=sys.stderr)
    return 0


def _best(progress) -> str:
    if progress.best_loss is None:
        return "no validation cells, so the last state is evaluated"
    return f"lowest validation loss {progress.best_loss:.4f} at step {progress.best_step}"


if __name__ == "__main__":
    sys.exit(main())
