"""Gives memory that is free inside the process back to the system.

The C library keeps much of what a training has freed, some 500 MiB at the plan's size, in pieces
that the large arrays of an evaluation do not fit into.
"""

import contextlib
import ctypes


def give_back() -> None:
    """Gives free memory back where the C library can (glibc); elsewhere it does nothing."""
    # No library of that name, or none that has the function (macOS, Windows, musl).
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
