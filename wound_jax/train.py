"""`python -m wound_jax.train --config CONFIG [key=value ...]`: from cells to an evaluated model.

Reads the cells, shows the split and the parameters, trains, evaluates the best checkpoint on the
held-out cells beside the baselines, and leaves one run folder.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from wound_jax import cli
from wound_jax.config import RunConfig, load_config
from wound_jax.errors import UserError

_EXAMPLES = """examples:
  python -m wound_jax.train --config configs/quickstart.yaml
  python -m wound_jax.train --config configs/burn_sham_gene.yaml data.path=burn.h5ad
  python -m wound_jax.train --resume runs/quickstart
  srun python -m wound_jax.train --distributed --config configs/full.yaml training.devices=all
"""

# What says where a run computes, and not what: a run may go on with other values.
_WHERE = ("training.devices", "training.steps_per_dispatch")


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
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes that train this run together (docs/scaling.md)",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the config")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    if bool(arguments.config) == bool(arguments.resume):
        raise UserError("give either --config CONFIG or --resume RUN.")
    if arguments.resume:
        _require_where(arguments.overrides)
    config = None if arguments.resume else load_config(arguments.config, arguments.overrides)
    if not arguments.distributed:
        return _run(arguments, config)
    # Everything heavy is imported once the config is known to be sound.
    from wound_jax.devices import processes

    processes.join()
    with processes.leave_at_once():
        return _run(arguments, config)


def _run(arguments: argparse.Namespace, config: RunConfig | None) -> int:
    from wound_jax.devices import processes

    progress_bar = not arguments.no_progress
    # What trains is local to these calls, so that the evaluation has its memory.
    if config is not None:
        trained = _start(config, progress_bar=progress_bar)
    else:
        folder, overrides = Path(arguments.resume), arguments.overrides
        trained = _resume(folder, overrides, progress_bar=progress_bar)
    if trained is None:
        return 130
    if processes.is_first():
        _evaluate(*trained)
    return 0


def _require_where(overrides: Sequence[str]) -> None:
    """Refuses to change what a run is while it is continued."""
    others = [text for text in overrides if text.partition("=")[0] not in _WHERE]
    if others:
        raise UserError(
            f"--resume continues a run as it was: {others} cannot be changed, only where it "
            f"computes ({', '.join(_WHERE)}). Start a new run with --config to change settings."
        )


def _start(config: RunConfig, *, progress_bar: bool):
    from wound_jax.data.source import describe_source
    from wound_jax.data.splits import split_table
    from wound_jax.devices import processes
    from wound_jax.models.partition import format_parameter_table
    from wound_jax.training.run_folder import new_folder, require_free
    from wound_jax.training.run_record import record_start, warn_of_warmups

    processes.from_first(lambda: require_free(config))
    _say(f"data: {describe_source(config.data)}")
    data = _read(config)
    _say(split_table(data.split, data.cells.annotations))
    run = _assemble(config, data)
    folder = Path(processes.from_first(lambda: str(new_folder(config))))
    if processes.is_first():
        warn_of_warmups(config, run.total_steps)
        _say(format_parameter_table(record_start(folder, config, data, run)))
    return _train(config, data, run, folder, resume=False, progress_bar=progress_bar)


def _resume(folder: Path, overrides: Sequence[str], *, progress_bar: bool):
    from wound_jax.devices import processes
    from wound_jax.training import provenance
    from wound_jax.training.run_folder import require_run, require_single

    def config_text() -> str:
        require_single(require_run(folder), "only a single run can be trained on")
        return (folder / "config.yaml").read_text()

    # The folder may be out of the other processes' reach.
    text = processes.from_first(config_text)
    with tempfile.TemporaryDirectory() as copy:
        (Path(copy) / "config.yaml").write_text(text)
        config = load_config(Path(copy) / "config.yaml", overrides)
    data = _read(config)
    processes.from_first(lambda: provenance.require_same_data(folder, data.fingerprint))
    run = _assemble(config, data)
    if processes.is_first():
        provenance.resume(folder, run.devices.mesh.devices.flat)
    return _train(config, data, run, folder, resume=True, progress_bar=progress_bar)


def _read(config: RunConfig):
    """The cells, once it is known that the devices suffice; the same ones on all processes."""
    from wound_jax.config.load import inline, schema_keys, value_at
    from wound_jax.data.prepare import prepare
    from wound_jax.devices import processes
    from wound_jax.devices.mesh import make_devices

    def settings() -> dict[str, str]:
        return {key: inline(value_at(config, key)) for key in schema_keys()}

    training = config.training
    processes.require_equal("settings", settings)
    make_devices(training.devices, training.batch_size, training.accumulate)
    data = processes.on_all(lambda: prepare(config))
    processes.require_equal("cells", lambda: {"fingerprint": data.fingerprint})
    return data


def _assemble(config: RunConfig, data):
    from wound_jax.data.strata import plan_strata
    from wound_jax.devices.compilation import use_compilation_cache
    from wound_jax.training.setup import Run

    use_compilation_cache()
    # Test cells too few to be scored are found before the training, not after it.
    plan_strata(data, config.evaluation, "test")
    return Run(config, data)


def _train(config: RunConfig, data, run, folder: Path, *, resume: bool, progress_bar: bool):
    """Trains a run; returns its folder, config and cells, or None if it was interrupted."""
    from wound_jax.devices import processes
    from wound_jax.training.loop import Loop
    from wound_jax.training.run_record import add_seconds

    _say(f"run folder: {folder}")
    start = time.perf_counter()
    try:
        loop = Loop(run, config.training, data.spec, folder, progress_bar=progress_bar)
        progress = loop.train(resume=resume)
    except KeyboardInterrupt:
        _say(f"\ninterrupted; continue with --resume {folder}")
        return None
    finally:
        seconds = time.perf_counter() - start
        if processes.is_first():
            add_seconds(folder, seconds)
    _say(f"trained in {seconds:.0f} s; {_best(progress)}")
    return folder, config, data


def _evaluate(folder: Path, config: RunConfig, data) -> None:
    from wound_jax.devices import host_memory as freed_memory
    from wound_jax.report.score_run import score_run

    freed_memory.give_back()
    print(score_run(folder, config, data))
    _say(f"everything is in {folder}")


def _say(text: str) -> None:
    """Tells the person at the keyboard, once for all processes."""
    from wound_jax.devices import processes

    if processes.is_first():
        print(text, file=sys.stderr)


def _best(progress) -> str:
    if progress.best_loss is None:
        return "no validation cells, so the last state is evaluated"
    return f"lowest validation loss {progress.best_loss:.4f} at step {progress.best_step}"


if __name__ == "__main__":
    sys.exit(main())
