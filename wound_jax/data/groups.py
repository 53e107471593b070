"""Groups: the cells that may share a set, and the control cells that answer to them.

A group is the treated cells of one (cell type, timepoint, condition), and of one replicate where
`match_on` asks for that. Its controls are the control cells that agree on `match_on`. Matching on
the timepoint matters (otherwise day-10 burn meets day-19 sham); matching on the replicate is for
paired designs only: where mice are nested in a condition it finds nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wound_jax.data.annotations import NO_LABEL, Annotations
from wound_jax.errors import UserError

_SET_LABELS = ("cell_type", "timepoint", "condition")
# Groups that an error names; a match on the wrong label can orphan hundreds.
_NAMED = 20


# Compared by identity: two groups may have the same labels and differ in the replicate.
@dataclass(frozen=True, eq=False)
class Group:
    """Cells that may share a set.

    Attributes:
        cell_type: their type.
        timepoint: their timepoint, empty where the data have none.
        condition: their condition.
        targets: positions of the cells.
        controls: positions of the control cells that match them.
        replicate: their replicate where controls must agree on it, else empty.
    """

    cell_type: str
    timepoint: str
    condition: str
    targets: np.ndarray
    controls: np.ndarray
    replicate: str = NO_LABEL

    def __str__(self) -> str:
        labels = (self.condition, self.cell_type, self.timepoint, self.replicate)
        return " / ".join(label for label in labels if label)


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
    pools = annotations.positions_by(match_on, controls)
    place = [labels.index(name) for name in match_on]
    nobody = np.zeros(0, dtype=int)
    groups = []
    for key, cells in sorted(annotations.positions_by(labels, targets).items()):
        cell_type, timepoint, condition, *replicate = key
        matched = pools.get(tuple(key[i] for i in place), nobody)
        groups.append(Group(cell_type, timepoint, condition, cells, matched, *replicate))
    return [g for g in groups if len(g.controls)], [g for g in groups if not len(g.controls)]


def control_pairs(
    annotations: Annotations, controls: np.ndarray, match_on: Sequence[str]
) -> list[Group]:
    """Groups of control cells that can be cut in two, for control-to-control sets.

    Args:
        annotations: labels of all cells.
        controls: positions of the control cells.
        match_on: labels on which both halves must agree, beside the labels of a set.
    """
    groups, _ = make_groups(annotations, controls, controls, match_on)
    return [group for group in groups if len(group.targets) > 1]


def require_controls(orphans: Sequence[Group], match_on: Sequence[str]) -> None:
    """Refuses groups that no control cell answers to.

    Raises:
        UserError: naming the groups and what can be done.
    """
    if orphans:
        named = "; ".join(f"{group} ({len(group.targets)} cells)" for group in orphans[:_NAMED])
        more = f"; and {len(orphans) - _NAMED} more groups" if len(orphans) > _NAMED else ""
        raise UserError(
            f"no control cell agrees on ({', '.join(match_on)}) with: {named}{more}. "
            "Match on fewer labels (data.match_on), share the controls (split.controls=shared), "
            "hold out other units, or leave those cells out (data.exclude)."
        )


def timepoint_or_none(label: str) -> str | None:
    """A timepoint for people and files: None where the data have none."""
    return None if label == NO_LABEL else label
