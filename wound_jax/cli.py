"""What all commands share: a parser with examples, and how a mistake or Ctrl-C ends a command."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from wound_jax.errors import UserError, shown
from wound_jax.files import require_place

LARGEST_SEED = 2**32 - 1
GOES_ON = "\ninterrupted; the same command goes on from here"


def parser(command: str, description: str, examples: str = "") -> argparse.ArgumentParser:
    """The parser of a command, with its examples below the help.

    Args:
        command: the module's name inside the package.
        description: one sentence.
        examples: lines that can be run, as they stand.
    """
    return argparse.ArgumentParser(
        prog=f"python -m wound_jax.{command}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_overrides(parser: argparse.ArgumentParser, what: str = "changes to the config") -> None:
    """Adds `key=value ...`, overrides of config keys, as `overrides`."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=what)


def add_no_progress(parser: argparse.ArgumentParser) -> None:
    """Adds `--no-progress`."""
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")


def seed(text: str) -> int:
    """A seed as an argument of a command: what a config accepts (`wound_jax.registry.Seed`)."""
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"got {text}, expected an integer from 0 to 2**32 - 1")
    return int(text)


def count(text: str) -> int:
    """An integer of at least 1 as an argument of a command."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected an integer >= 1")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0 as an argument of a command."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, expected a number > 0")
    return value


def new_file(output: str, source: str | None, option: str, *, overwrite: bool) -> Path:
    """The file that a command writes.

    Args:
        output: as it was given.
        source: the file that is read.
        option: what names `source`.
        overwrite: whether a file may be replaced.

    Raises:
        UserError: it is the file that is read, it exists, or it cannot be written there.
    """
    path = Path(output)
    if path.resolve() == Path(str(source)).resolve():
        raise UserError(f"{option} and --output are both {path}; write to another file.")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; choose another --output, or give --overwrite.")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} to write {path.name} into.")
    require_place(path)
    return path


def run(main_body: Callable[[], int], interrupted: str = "interrupted") -> int:
    """Runs the body of a command and turns its end into an exit status.

    A `UserError` is shown as its message alone, without a traceback, since the message says how
    to mend the input. Every other exception is a defect of the program and passes through.

    Args:
        main_body: the command, returning its own exit status.
        interrupted: what is said after Ctrl-C.

    Returns:
        The status of the body; 2 after a `UserError`; 130 after an interruption and 141 where the
        reader of the output went away (`... | head`), as shells do.
    """
    try:
        status = main_body()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Python flushes once more at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UserError as e:
        print(f"error: {shown(str(e))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
