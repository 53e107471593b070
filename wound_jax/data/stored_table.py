"""Tables of an open h5ad file, `obs` and `var`: read, or refused with the column that is wrong."""

from typing import Any, cast

import pandas as pd
from anndata.io import read_elem

from wound_jax.errors import UserError


def read_table(file: Any, name: str) -> pd.DataFrame:
    """The table of that name.

    Args:
        file: an open h5ad file.
        name: "obs" or "var".

    Raises:
        UserError: it is no table, or one of its columns cannot be read, such as one with two
            categories of the same text.
    """
    try:
        table = read_elem(file[name])
    except (ValueError, TypeError, KeyError, IndexError, OSError) as e:
        raise UserError(
            f"{file.filename}: {_broken_column(file[name], name)} cannot be read ({_first_line(e)})"
            "; write the file anew with it mended, or without it."
        ) from e
    if not isinstance(table, pd.DataFrame):
        raise UserError(f"{file.filename}: {name} is no table: it is not an AnnData file.")
    return cast(pd.DataFrame, table)


def _broken_column(group: Any, name: str) -> str:
    """The first column that cannot be read by itself; the table where each of them can."""
    for column in group:
        try:
            read_elem(group[column])
        except Exception:
            return f"{name}[{column!r}]"
    return name


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
