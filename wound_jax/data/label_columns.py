"""Columns of labels: how a column of `obs` becomes text, the same in every command.

Each label is read as `wound_jax.registry.as_read` says; what that changes is told with its count.
Two labels that a person would take for one, and cells that carry none, are errors: a group that is
spelt in two ways would train under one of them and be tested under the other.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd

from wound_jax.data.label_text import alike, is_missing
from wound_jax.errors import UserError, warn_once
from wound_jax.registry import as_read

# Labels that a message lists, at most.
_MOST_LISTED = 6


def read_column(
    obs: pd.DataFrame, column: str, key: str = "", words: Collection[str] = ()
) -> np.ndarray:
    """The labels of all cells in one column of `obs`.

    Args:
        obs: the AnnData's `obs`; has the column.
        column: its name.
        key: the config key that names it, for messages.
        words: labels that are words whatever they look like, such as a control called "none".

    Returns:
        Text `[cells]`, as objects.

    Raises:
        UserError: cells carry no label or a text that stands for none, labels look alike, or the
            column is there twice.
    """
    where = f"obs[{column!r}]" + (f" (data.{key})" if key else "")
    code, texts, written = _values(obs, column)
    counts = np.bincount(code, minlength=len(texts) + 1)
    _refuse_missing(where, column, written, counts, words)
    _refuse_alike(where, _counted(texts, counts), words)
    _tell_mended(where, written, counts)
    return np.array([*texts, ""], dtype=object)[code]


def excluded_labels(obs: pd.DataFrame, column: str) -> np.ndarray:
    """The labels of a column to leave cells out by, text `[cells]`; those of no label are "nan"."""
    code, texts, _ = _values(obs, column)
    return np.array([*texts, "nan"], dtype=object)[code]


def refuse_half_named(where: str, values: Collection[str], present: Collection[str]) -> None:
    """Refuses a filter that leaves a label which looks the same as one that it names.

    Raises:
        UserError: naming both.
    """
    for same in alike(sorted({*present, *values})):
        left = [label for label in same if label not in values]
        if left and len(left) < len(same):
            raise UserError(
                f"{where} names {_listed(set(same) - set(left))}, but the column holds "
                f"{_listed(left)}, which looks the same: name that too, or write each label in one "
                "way in the file."
            )


def refuse_other_spelling(what: str, labels: Collection[str], known: Collection[str]) -> None:
    """Refuses labels of another file that look the same as what a model knows, and are not.

    Args:
        what: of the labels, in words: "cell type".
        labels: of the file.
        known: those that the model was trained on.

    Raises:
        UserError: naming both.
    """
    for same in alike(sorted({*labels, *known})):
        new = [label for label in same if label not in known]
        old = [label for label in same if label in known]
        if new and old:
            raise UserError(
                f"the file holds the {what} {_listed(new)}, and the model was trained on "
                f"{_listed(old)}, which looks the same: write it as in training."
            )


def _values(obs: pd.DataFrame, column: str) -> tuple[np.ndarray, list[str], list[str]]:
    """The place of each cell's label among those of the column, and these: as read, as written.

    Labels that are the same when read have one place each all the same. Cells of no label have the
    place behind the last.
    """
    values = obs[column]
    if isinstance(values, pd.DataFrame):
        raise UserError(
            f"obs holds {values.shape[1]} columns named {column!r}; rename or drop all but one."
        )
    code, unique = pd.factorize(values)
    texts = pd.Series(unique)
    if texts.dtype == object:
        texts = texts.map(_text)
    written = texts.astype(str).tolist()
    return np.where(code < 0, len(written), code), [as_read(text) for text in written], written


def _text(value: object) -> object:
    """Bytes as the text that they hold."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _counted(texts: list[str], counts: np.ndarray) -> dict[str, int]:
    """How many cells carry each label."""
    found: dict[str, int] = {}
    for text, n in zip(texts, counts, strict=False):
        found[text] = found.get(text, 0) + int(n)
    return found


def _refuse_missing(
    where: str, column: str, written: list[str], counts: np.ndarray, words: Collection[str]
) -> None:
    missing = {
        text: n
        for text, n in _counted(written, counts).items()
        if is_missing(text) and as_read(text) not in words
    }
    n_missing = int(counts[-1]) + sum(missing.values())
    if not n_missing:
        return
    said = f" (the text {_with_counts(missing)} stands for no label)" if missing else ""
    names = sorted({*map(as_read, missing), *(["nan"] if counts[-1] else [])})
    raise UserError(
        f"{where} is empty for {n_missing} of {counts.sum()} cells{said}; label them, drop them "
        f"from the file, or leave them out: data.exclude={{{column!r}: {names}}}."
    )


def _refuse_alike(where: str, counts: dict[str, int], words: Collection[str]) -> None:
    found = alike(counts)
    if not found:
        return
    groups = [_with_counts({label: counts[label] for label in same}) for same in found]
    # The one that the config names stays, else the most frequent, of equally many the plainest.
    ranks = {label: (label not in words, -counts[label], len(ascii(label))) for label in found[0]}
    first, *others = sorted(found[0], key=ranks.__getitem__)
    raise UserError(
        f"{where} holds labels that look the same: {'; '.join(groups[:_MOST_LISTED])}. They would "
        "count as different ones. Write each in one way in the file "
        f"(.replace({dict.fromkeys(others, first)})), or so that they differ in more than case, "
        "blanks, hyphens and invisible characters."
    )


def _tell_mended(where: str, written: list[str], counts: np.ndarray) -> None:
    mended = {
        text: int(n) for text, n in zip(written, counts, strict=False) if text != as_read(text)
    }
    if mended:
        warn_once(
            f"{where}: {sum(mended.values())} of {counts.sum()} cells carry a label with blanks at "
            "its ends or in another Unicode form than NFC, which is read without: "
            f"{_with_counts(mended)}."
        )


def _with_counts(counts: dict[str, int]) -> str:
    few = list(counts.items())[:_MOST_LISTED]
    shown = [f"{label!r} ({n} {'cell' if n == 1 else 'cells'})" for label, n in few]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more else "")


def _listed(labels: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(labels)[:_MOST_LISTED]))
