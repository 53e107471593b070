"""What all commands share: how a mistake in the input, and an interruption, end a command."""

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
        The status of the body; 2 after a `UserError`; 130 after an interruption, as shells do.
    """
    try:
        return main_body()
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
