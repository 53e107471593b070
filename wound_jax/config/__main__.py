"""`python -m wound_jax.config`: print a resolved config, or what differs between two runs.

Nothing here imports jax, so that both answer at once.
"""

import argparse
import sys

from wound_jax import cli
from wound_jax.config.diff import diff_runs, has_provenance, render
from wound_jax.config.load import dump_config, load_config

EXAMPLES = """examples:
  %(prog)s show configs/burn_sham_gene.yaml
  %(prog)s show configs/burn_sham_gene.yaml training.learning_rate=1e-3 split.test='[NK cells]'
  %(prog)s diff configs/burn_sham_gene.yaml runs/my_run
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        argv: the arguments, without the program's name; None takes those of the process.

    Returns:
        The exit status: 0; 1 when `diff` found differences; 2 when the input is wrong.
    """
    args = _parser().parse_args(argv)
    if args.command == "show":
        return cli.run(lambda: _show(args.config, args.overrides))
    return cli.run(lambda: _diff(args.a, args.b))


def _parser() -> argparse.ArgumentParser:
    what = "Print a resolved config, or what differs between two runs."
    parser = cli.parser("config", what, EXAMPLES)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{show,diff}")
    show = commands.add_parser("show", help="print every key of a config with its value")
    show.add_argument("config", nargs="?", help="a YAML file; without one, the defaults")
    cli.add_overrides(show, "changes to the config, values in YAML")
    diff = commands.add_parser("diff", help="print what differs; exit 1 if anything does")
    diff.add_argument("a", help="a YAML config, or the folder of a run")
    diff.add_argument("b", help="another one")
    return parser


def _show(config: str | None, overrides: list[str]) -> int:
    print(dump_config(load_config(config, overrides)), end="")
    return 0


def _diff(a: str, b: str) -> int:
    differences = diff_runs(a, b)
    recorded = [side for side in (a, b) if has_provenance(side)]
    if len(recorded) == 1:
        print(f"only {recorded[0]} has a provenance.json: data, versions and commit not compared")
    print(render(differences) or "no differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
