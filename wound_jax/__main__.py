"""`wound_jax COMMAND ...`, or `python -m wound_jax COMMAND ...`: hands over to one command.

A command is a module with `main(argv) -> int`, imported only when it is asked for, so that help
costs nothing. A new command is one more line of `COMMANDS`.
"""

import sys
from importlib import import_module

from wound_jax.cli import run
from wound_jax.errors import unknown_name

# Name -> (module, one line for the help).
COMMANDS = {
    "train": ("wound_jax.train", "train a model from a config"),
    "evaluate": ("wound_jax.evaluate", "score a trained run on its held-out cells"),
    "compare": ("wound_jax.compare", "train variants over seeds and compare them, or compare runs"),
    "leave-one-out": ("wound_jax.leave_one_out", "hold out every type or replicate once, in turn"),
    "ensemble": ("wound_jax.ensemble", "average runs that differ in their seed, and score them"),
    "predict": ("wound_jax.predict", "predict perturbed cells from control cells"),
    "convert": ("wound_jax.convert", "rewrite a file as a training store, to train from disk"),
    "config": ("wound_jax.config.__main__", "print a resolved config, or compare two runs"),
    "velocity": (
        "wound_jax.velocity",
        "add RNA velocity to a file, or ask whether it carries signal",
    ),
    "synthetic": ("wound_jax.synthetic", "write the synthetic wound set to a file"),
}


def main(argv: list[str] | None = None) -> int:
    """Hands the arguments to the command they name.

    Args:
        argv: the arguments, without the program's name; None takes those of the process.

    Returns:
        The exit status of the command; 0 after `--help`; 2 for no command or an unknown one.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    return run(lambda: _dispatch(arguments[0], arguments[1:]))


def _dispatch(command: str, arguments: list[str]) -> int:
    if command not in COMMANDS:
        raise unknown_name("command", command, COMMANDS)
    module, _ = COMMANDS[command]
    return import_module(module).main(arguments)


def _help() -> str:
    lines = [f"  {name:<14} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: wound_jax COMMAND ...",
            "",
            *lines,
            "",
            "`wound_jax COMMAND --help` explains one command.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
