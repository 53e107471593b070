"""Groups: the cells that may share a set, and the control cells that answer to them.

A group is the treated cells of one (cell type, timepoint, condition), and of one animal where
`match_on` asks for that. Its controls are the control cells that agree on `match_on`. Matching on
the timepoint matters (otherwise day-10 burn meets day-19 sham); matching on the animal is for
paired designs only: where mice are nested in a condition it finds nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wound_jax.data.annotations import NO_LABEL, Annotations
from wound_jax.errors import UserError

_SET_LABELS = ("cell_type", "timepoint", "condition")


@dataclass(frozen=True)
class Group:
    """Cells that may share a set.

    Attributes:
        cell_type: their type.
        timepoint: their timepoint, empty where the data have none.
        condition: their condition.
        targets: positions of the cells.
        controls: positions of the control cells that match them.
    """

    cell_type: str
    timepoint: str
    condition: str
    targets: np.ndarray
    controls: np.ndarray

    def __str__(self) -> str:
        return " / ".join(part for part in (self.condition, self.cell_type, self.timepoint) if part)


def make_groups(
    annotations: Annotations,
    targets: np.ndarray,
    controls: np.ndarray,
    match_on: Sequence[str],
) -> tuple[list[Group], list[Group]]:
    """Groups cells and finds their controls.

    Args:
        annotations: labels of all cells.
        targets: positions of the cells to group.
        controls: positions of the control cells that may be drawn.
        match_on: labels on which a control must agree.

    Returns:
        The groups that have controls and those that have none, each ordered by its labels.
    """
    labels = _SET_LABELS + tuple(name for name in match_on if name not in _SET_LABELS)
    pools = _by_key(annotations, controls, tuple(match_on))
    place = [labels.index(name) for name in match_on]
    nobody = np.zeros(0, dtype=int)
    groups = [
        Group(*key[:3], targets=cells, controls=pools.get(tuple(key[i] for i in place), nobody))
        for key, cells in sorted(_by_key(annotations, targets, labels).items())
    ]
    return [g for g in groups if len(g.controls)], [g for g in groups if not len(g.controls)]


def require_controls(orphans: Sequence[Group], match_on: Sequence[str]) -> None:
    """Refuses groups that no control cell answers to.

    Raises:
        UserError: naming the groups and what can be done.
    """
    if orphans:
        named = "; ".join(f"{group} ({len(group.targets)} cells)" for group in orphans)
        raise UserError(
            f"no control cell agrees on ({', '.join(match_on)}) with: {named}. "
            "Match on fewer labels (data.match_on), share the controls (split.controls=shared), "
            "hold out other units, or leave those cells out (data.exclude)."
        )


def _by_key(
    annotations: Annotations, cells: np.ndarray, labels: tuple[str, ...]
) -> dict[tuple[str, ...], np.ndarray]:
    """Positions of cells by their values of some labels."""
    if not len(cells):
        return {}
    if not labels:
        return {(): cells}
    columns = [annotations.column(name)[cells].astype(str) for name in labels]
    joined = columns[0]
    for column in columns[1:]:
        joined = np.char.add(np.char.add(joined, "\x1f"), column)
    order = np.argsort(joined, kind="stable")
    keys, starts = np.unique(joined[order], return_index=True)
    parts = np.split(cells[order], starts[1:])
    return {tuple(key.split("\x1f")): part for key, part in zip(keys, parts, strict=True)}


def timepoint_or_none(label: str) -> str | None:
    """A timepoint for people and files: None where the data have none."""
    return None if label == NO_LABEL else label
