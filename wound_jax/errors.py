"""Errors meant for the person at the keyboard: what was given, what was expected, and the fix.

A `UserError` is shown as its message alone by the command line; every other exception is a
defect of ours and keeps its traceback.
"""

import difflib
import re
import sys
import unicodedata
from collections.abc import Iterable
from functools import cache

# Marks that turn the direction of what a terminal shows.
_TURNS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
# All that is not plain ASCII; whole reports go through here.
_UNUSUAL = re.compile(r"[^\n\t -~]")


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
    listed = named(names[:30]) + (f", ... ({len(names)} in all)" if len(names) > 30 else "")
    return UserError(f"unknown {kind} {given!r}.{guess} Known: {listed or 'none'}.")


def warn(text: str) -> None:
    """Tells the user something that does not end the command."""
    print(f"warning: {shown(text)}", file=sys.stderr)


@cache
def warn_once(text: str) -> None:
    """`warn`, where the same is found again and again in one command: by each fold, by each run."""
    warn(text)


def shown(text: str) -> str:
    """A text for a terminal: control characters but line ends and tabs are written as escapes."""
    return _UNUSUAL.sub(lambda found: _escaped(found[0]), text)


def on_one_line(label: str) -> str:
    """A label for a table of text: as it is, with what would break the line written as escapes."""
    return shown(label).replace("\n", "\\n").replace("\t", "\\t")


def named(labels: Iterable[str]) -> str:
    """Labels in a sentence, quoted where they would be misread."""
    return ", ".join(label if _is_plain(label) else repr(label) for label in labels)


def _is_plain(label: str) -> bool:
    return bool(label) and label.isprintable() and ", " not in label and label == label.strip()


def _escaped(letter: str) -> str:
    """A character, or its escape where a terminal would act on it in place of showing it."""
    kind = unicodedata.category(letter)
    acts = kind in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(letter) in _TURNS
    return repr(letter)[1:-1] if acts else letter
