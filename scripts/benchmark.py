"""How fast training and prediction are on this machine, CPU or GPU; see docs/benchmarks.md.

    python scripts/benchmark.py --size small
    python scripts/benchmark.py --size plan --dtypes float32,bfloat16 --json bench.json
    python scripts/benchmark.py --size plan --variants lora,full --peer PEER_ENV/bin/python

Prints one table and writes all figures, with versions, command and date, as JSON. `--peer` is the
Python of an environment with arc-state 0.11.1 and `transformers<5`; its cases take turns with ours.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarking.case import BACKBONES, DTYPES, LOSSES, SIZES, VARIANTS, Case, cases
from benchmarking.figures import table
from benchmarking.session import Plan, Session, write_record

from wound_jax import cli
from wound_jax.errors import UserError

DIMENSIONS = ("cells", "genes", "hidden", "layers", "heads", "set_len", "sets")


def main(argv: list[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    return cli.run(lambda: _main(arguments))


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--size", choices=sorted(SIZES), default="small")
    for name in DIMENSIONS:
        found.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the size's")
    found.add_argument("--variants", default="full,lora,lora_mhc", help=",".join(VARIANTS))
    found.add_argument("--backbones", default="gpt2", help=",".join(BACKBONES))
    found.add_argument("--losses", default="energy", help=",".join(LOSSES))
    found.add_argument("--dtypes", default="float32", help=",".join(DTYPES))
    found.add_argument("--all", action="store_true", help="all combinations of these four")
    found.add_argument("--rounds", type=int, default=5, help="turns of each case")
    found.add_argument("--steps", type=int, default=10, help="steps of each turn")
    found.add_argument("--together", type=int, default=4, help="cases in memory at a time")
    found.add_argument("--no-cold", action="store_true", help="do not measure an empty cache")
    found.add_argument("--no-predict", action="store_true", help="do not time predictions")
    found.add_argument("--peer", metavar="PYTHON", help="Python of an environment with arc-state")
    found.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change the configs of our cases (repeatable)",
    )
    found.add_argument("--json", type=Path, default=Path("benchmark.json"))
    found.add_argument("--work", type=Path, help="folder for cells, caches and logs")
    return found


def _main(arguments: argparse.Namespace) -> int:
    for name in ("rounds", "steps", "together"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} {getattr(arguments, name)}: at least 1 is needed.")
    changes = {name: getattr(arguments, name) for name in DIMENSIONS}
    plan = Plan(
        cases=_cases(arguments),
        size=SIZES[arguments.size].changed(**changes),
        rounds=arguments.rounds,
        steps=arguments.steps,
        together=arguments.together,
        cold=not arguments.no_cold,
        predict=not arguments.no_predict,
        peer=arguments.peer,
        settings=arguments.set,
    )
    with tempfile.TemporaryDirectory() as temporary:
        lines, found = Session(plan, arguments.work or Path(temporary)).run()
    write_record(found, arguments.json)
    print(table(lines))
    print(f"all figures are in {arguments.json}", file=sys.stderr)
    return 0


def _cases(arguments: argparse.Namespace) -> list[Case]:
    if arguments.all:
        return cases(VARIANTS, BACKBONES, LOSSES, DTYPES)
    axes = (arguments.variants, arguments.backbones, arguments.losses, arguments.dtypes)
    return cases(*(given.split(",") for given in axes))


if __name__ == "__main__":
    sys.exit(main())
