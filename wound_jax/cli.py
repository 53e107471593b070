"""What all commands share: how a mistake in the input, and an interruption, end a command."""

import os
import sys
from collections.abc import Callable

from wound_jax.errors import UserError


def run(main_body: Callable[[], int]) -> int:
    """Runs the body of a command and turns its end into an exit status.

    A `UserError` is shown as its message alone, without a traceback, since the message says how
    to mend the input. Every other exception is a defect of the program and passes through.

    Args:
        main_body: the command, returning its own exit status.

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
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
