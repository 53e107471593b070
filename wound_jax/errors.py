"""Errors meant for the person at the keyboard: what was given, what was expected, and the fix.

A `UserError` is shown as its message alone by the command line; every other exception is a
defect of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The input is wrong and the message says how to mend it."""


def unknown_name(kind: str, given: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not among `known`, with the nearest ones first.

    Args:
        kind: what the name stands for, in words ("loss", "config key").
        given: the name as it was given.
        known: the names that would have been accepted.

    Returns:
        The error, for the caller to raise.
    """
    names = sorted({str(name) for name in known})
    near = difflib.get_close_matches(str(given), names, n=3, cutoff=0.5)
    guess = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
    shown = ", ".join(names[:30]) + (f", ... ({len(names)} in all)" if len(names) > 30 else "")
    return UserError(f"unknown {kind} {given!r}.{guess} Known: {shown or 'none'}.")
