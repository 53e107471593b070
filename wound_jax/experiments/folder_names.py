"""Folders of labels: a name for each label that is held out, safe on any disk."""

import hashlib
import re
from collections.abc import Sequence

# Letters of a name that a label makes, at most, without the digest.
_LONGEST_NAME = 60
_PLAIN_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+ -]*")


def folder_names(labels: Sequence[str]) -> list[str]:
    """A name of a folder for each label: safe on any disk, and another one for each.

    Letters, digits and `._-` stay, anything else is `_`. A label that has more in it than blanks
    and `+` beside these, is long, or shares its name with another one, ends in its digest.

    Args:
        labels: each one once.
    """
    plain = [_plain_name(label) for label in labels]
    times = {name: plain.count(name) for name in plain}
    return [
        name if name and times[name] == 1 else _name_with_digest(label)
        for label, name in zip(labels, plain, strict=True)
    ]


def _slug(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", label).strip("_")


def _plain_name(label: str) -> str:
    """The name without a digest; empty where one is needed."""
    fits = _PLAIN_LABEL.fullmatch(label) and len(label) <= _LONGEST_NAME
    # A name with such an end is that of a file beside the folder.
    ends = (".", ".txt", ".csv", ".json", ".html", ".part")
    return _slug(label) if fits and not label.casefold().endswith(ends) else ""


def _name_with_digest(label: str) -> str:
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    start = _slug(label)[:_LONGEST_NAME].strip("._-")
    return f"{start or 'label'}-{digest}"
