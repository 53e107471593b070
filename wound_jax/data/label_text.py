"""Labels as a person sees them: which stand for none, and which look the same.

What differs by case, blanks, invisible characters or the shape of a hyphen is another label to a
computer and the same one to a person, so that a person has to say which it is.
"""

import re
import unicodedata
from collections.abc import Iterable

from wound_jax.registry import SHAPELESS, as_read

# What tables write where nothing is known, in any case (those of pandas.read_csv, without numbers).
_MISSING = frozenset(
    ("", "nan", "-nan", "none", "null", "nil", "na", "n/a", "n.a.", "#na", "#n/a", "<na>", "nat")
)
# Compatibility forms that are the same letter to a person; raised and circled digits are not.
_SAME_LETTER = tuple(f"<{form}>" for form in ("wide", "narrow", "noBreak", "compat", "isolated"))
_QUOTES = str.maketrans("\u2018\u2019\u201b\u02bc\u2032\u201c\u201d\u201f\u2033", "'''''\"\"\"\"")
_WHOLE_NUMBER = re.compile(r"([-+]?\d+)\.0*")


def is_missing(text: str) -> bool:
    """Whether a text stands for a label that is not known, as tables write it."""
    return as_read(text).casefold() in _MISSING


def look(text: str) -> str:
    """What a label looks like to a person: equal for labels that one would take for the same.

    Case, blanks, invisible characters, full and half width, kinds of hyphens and quotes, and the
    point in `1.0` are passed over. A blank between two digits counts: `1 12` is not `11 2`.
    """
    letters = "".join(map(_plain_letter, text)).casefold().translate(_QUOTES)
    letters = re.sub(r"(?<=\d) +(?=\d)", "\n", letters).replace(" ", "")
    whole = _WHOLE_NUMBER.fullmatch(letters)
    return unicodedata.normalize("NFC", whole[1] if whole else letters)


def alike(labels: Iterable[str]) -> list[list[str]]:
    """The labels that look alike, together, in the order in which they come."""
    by_look: dict[str, list[str]] = {}
    for label in dict.fromkeys(labels):
        by_look.setdefault(look(label), []).append(label)
    return [same for same in by_look.values() if len(same) > 1]


def _plain_letter(letter: str) -> str:
    if letter in SHAPELESS:
        return ""
    if letter.isspace():
        return " "
    if unicodedata.category(letter) == "Pd" or letter == "\N{MINUS SIGN}":
        return "-"
    same = unicodedata.decomposition(letter).startswith(_SAME_LETTER)
    return unicodedata.normalize("NFKC", letter) if same else letter
