"""`python -m wound_jax.train --config CONFIG [key=value ...]`: from cells to an evaluated model.

Reads the cells, shows the split and the parameters, trains, evaluates the best checkpoint on the
held-out cells beside the baselines, and leaves one run folder.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wound_jax import cli
from wound_jax.config import RunConfig, load_config
from wound_jax.config.keys import MOVED
from wound_jax.errors import UserError, shown

_EXAMPLES = """examples:
  python -m wound_jax.train --config configs/quickstart.yaml
  python -m wound_jax.train --config configs/burn_sham_gene.yaml data.path=burn.h5ad
  python -m wound_jax.train --resume runs/quickstart
  srun python -m wound_jax.train --distributed --config configs/full.yaml training.devices=all
"""

# What says where a run computes and where its cells are: it may go on with other values.
_WHERE = ("training.devices", "training.steps_per_dispatch", *MOVED)


def main(argv: list[str] | None = None) -> int:
    """Trains and evaluates one run; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return cli.run(lambda: _main(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("train", "Train and evaluate a set transformer.", _EXAMPLES)
    parser.add_argument("--config", action="append", help="YAML file; of several later ones win")
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder")
    slots = "what --resume goes on from (default: last)"
    parser.add_argument("--checkpoint", choices=("best", "last"), help=slots)
    together = "one of several processes that train this run together (docs/scaling.md)"
    parser.add_argument("--distributed", action="store_true", help=together)
    cli.add_no_progress(parser)
    cli.add_overrides(parser)
    return parser


def _main(arguments: argparse.Namespace) -> int:
    if bool(arguments.config) == bool(arguments.resume):
        raise UserError("give either --config CONFIG or --resume RUN.")
    if arguments.resume:
        _require_where(arguments.overrides)
    elif arguments.checkpoint:
        raise UserError(f"--checkpoint {arguments.checkpoint} needs --resume RUN.")
    config = None if arguments.resume else load_config(arguments.config, arguments.overrides)
    # Everything heavy is imported once the config is known to be sound.
    from wound_jax.devices import processes

    if not arguments.distributed:
        return _run(arguments, config)
    processes.join()
    with processes.leave_at_once():
        return _run(arguments, config)


def _require_where(overrides: Sequence[str]) -> None:
    """Refuses to change what a run is while it is continued."""
    others = [text for text in overrides if text.partition("=")[0] not in _WHERE]
    if others:
        raise UserError(
            f"--resume continues a run as it was: {others} cannot be changed, only where it "
            f"computes and where its cells are ({', '.join(_WHERE)}). Start a new run with "
            "--config to change settings."
        )


def _run(arguments: argparse.Namespace, config: RunConfig | None) -> int:
    from wound_jax.devices import processes
    from wound_jax.devices.host_memory import give_back
    from wound_jax.report.score_run import score_run
    from wound_jax.training import launch

    bar = not arguments.no_progress
    # What trains is local to these calls, so that the evaluation has its memory.
    if config is not None:
        trained = launch.start(config, progress_bar=bar)
    else:
        slot = arguments.checkpoint or "last"
        trained = launch.resume(Path(arguments.resume), arguments.overrides, slot, progress_bar=bar)
    if trained is None:
        return 130
    if processes.is_first():
        give_back()
        print(shown(score_run(trained.folder, trained.config, trained.data)))
        launch.say(f"everything is in {trained.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
