"""Which cells are trained on, validated on and tested on.

A kind of split is a class of split settings, whose method `roles` gives every cell its role; a new
one is one more class under `register_split`, here or in a plug-in. Whether the control cells of
held-out units may be used in training is decided once, for all kinds, by `split.controls`. The
split as a table (`split_table`) is what people read before training: who is held out, and what is
shared.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import numpy as np

from wound_jax.data.annotations import Annotations
from wound_jax.data.seeding import Use, stream
from wound_jax.data.settings import (
    SPLITS,
    CelltypeSplit,
    FewshotSplit,
    NamedUnits,
    RandomSplit,
    ReplicateSplit,
    SplitSettings,
    TimepointSplit,
)
from wound_jax.errors import UserError, named, on_one_line, unknown_name

PARTS = ("train", "val", "test")


TRAIN, VAL, TEST = range(3)


register_split = SPLITS.register


@runtime_checkable
class SplitKind(Protocol):
    """A kind of split: a class of split settings, registered, that gives every cell its role."""

    def roles(self, annotations: Annotations, treated: np.ndarray) -> np.ndarray:
        """The role of each cell: TRAIN, VAL or TEST.

        Args:
            annotations: labels of all cells.
            treated: boolean [cells], which are no controls.

        Returns:
            int8 [cells].
        """
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """The parts of a data set, as positions of cells.

    Attributes:
        kind: name of the split.
        treated: treated cells of each part; disjoint.
        controls: control cells that each part may draw from; parts may share them.
        leaky: whether cells of one replicate lie on both sides, so that scores flatter.
    """

    kind: str
    treated: dict[str, np.ndarray]
    controls: dict[str, np.ndarray]
    leaky: bool

    @property
    def training_cells(self) -> np.ndarray:
        """Every cell training may look at, sorted."""
        return np.union1d(self.treated["train"], self.controls["train"])

    def shared_controls(self, part: str) -> int:
        """How many of a part's control cells training may use as well."""
        return len(np.intersect1d(self.controls[part], self.controls["train"]))


def make_split(annotations: Annotations, control: str, config: SplitSettings) -> Split:
    """Divides cells into training, validation and test cells.

    Args:
        annotations: labels of all cells.
        control: the control condition.
        config: the kind of split and its units.

    Raises:
        UserError: a named unit does not occur, or a part that is needed stays empty.
    """
    treated = annotations.condition != control
    role = cast(SplitKind, SPLITS.build(config)).roles(annotations, treated)
    held_out = config.controls == "held_out" or (
        config.controls == "auto" and config.kind in ("random", "replicate")
    )
    split = Split(
        kind=config.kind,
        treated={name: np.flatnonzero(treated & (role == r)) for r, name in enumerate(PARTS)},
        controls={name: _controls(treated, role, r, held_out) for r, name in enumerate(PARTS)},
        leaky=config.kind == "random",
    )
    for part in ("train", "test"):
        if not len(split.treated[part]):
            raise UserError(
                f"the {config.kind} split leaves no treated cell for {part}; change split.test, "
                "split.val or their fractions."
            )
    return split


@register_split("random")
class Random(RandomSplit):
    """Cells at random, stratified by type, timepoint and condition: leaky."""

    def roles(self, annotations: Annotations, treated: np.ndarray) -> np.ndarray:
        """The role of each cell, int8 [cells]."""
        role = np.full(len(annotations), TRAIN, dtype=np.int8)
        rng = stream(self.seed, Use.SPLIT_TEST)
        strata = annotations.positions_by(("cell_type", "timepoint", "condition"))
        for _, stratum in sorted(strata.items()):
            cells = rng.permutation(stratum)
            n_test = round(self.test_fraction * len(cells))
            n_val = round(self.val_fraction * len(cells))
            role[cells[:n_test]] = TEST
            role[cells[n_test : n_test + n_val]] = VAL
        return role


@register_split("replicate")
class Replicate(ReplicateSplit):
    """Whole replicates."""

    def roles(self, annotations: Annotations, treated: np.ndarray) -> np.ndarray:
        """The role of each cell, int8 [cells]."""
        test, val = _choose_replicates(annotations, self)
        return _held_out(annotations.replicate, test, val)


@register_split("timepoint")
class Timepoint(TimepointSplit):
    """Whole timepoints."""

    def roles(self, annotations: Annotations, treated: np.ndarray) -> np.ndarray:
        """The role of each cell, int8 [cells]."""
        return _held_out_label(annotations.timepoint, treated, self)


@register_split("celltype")
class CellType(CelltypeSplit):
    """Whole cell types: the zero-shot question."""

    def roles(self, annotations: Annotations, treated: np.ndarray) -> np.ndarray:
        """The role of each cell, int8 [cells]."""
        return _held_out_label(annotations.cell_type, treated, self)


@register_split("fewshot")
class FewShot(FewshotSplit):
    """Whole cell types, but for a fraction of their cells that stays in training."""

    def roles(self, annotations: Annotations, treated: np.ndarray) -> np.ndarray:
        """The role of each cell, int8 [cells]."""
        role = _held_out_label(annotations.cell_type, treated, self)
        rng = stream(self.seed, Use.FEW_SHOT)
        for cell_type in sorted(set(self.test or ())):
            for arm in (treated, ~treated):
                cells = np.flatnonzero(arm & (annotations.cell_type == cell_type))
                role[rng.permutation(cells)[: _some(self.fewshot_fraction, len(cells))]] = TRAIN
        return role


def _held_out_label(
    labels: np.ndarray, treated: np.ndarray, config: NamedUnits | FewshotSplit
) -> np.ndarray:
    """Cells that carry held-out labels; without `split.val`, treated validation cells at random."""
    test = config.test
    if test is None and isinstance(config, NamedUnits):
        test = _choose(sorted(set(labels[treated]) - set(config.val or ())), config)
    role = _held_out(labels, test or (), config.val or ())
    if config.val is None:
        rng = stream(config.seed, Use.SPLIT_VAL)
        rest = treated & (role == TRAIN)
        for label in sorted(set(labels[rest])):
            cells = rng.permutation(np.flatnonzero(rest & (labels == label)))
            role[cells[: round(config.val_fraction * len(cells))]] = VAL
    return role


def _held_out(labels: np.ndarray, test: Sequence[str], val: Sequence[str]) -> np.ndarray:
    """Roles by label; everything that is not named trains."""
    for name in (*test, *val):
        if name not in labels:
            raise unknown_name("held-out value in split.test or split.val", name, set(labels))
    both = named(sorted(set(test) & set(val)))
    if both:
        raise UserError(f"{both}: named in split.test and in split.val; name each in one of them.")
    role = np.full(len(labels), TRAIN, dtype=np.int8)
    role[np.isin(labels, val)] = VAL
    role[np.isin(labels, test)] = TEST
    return role


def _choose(names: list[str], config: NamedUnits) -> tuple[str, ...]:
    """A seeded choice of test labels."""
    order = stream(config.seed, Use.SPLIT_TEST).permutation(len(names))
    return tuple(sorted(names[i] for i in order[: _some(config.test_fraction, len(names))]))


def _choose_replicates(
    annotations: Annotations, config: ReplicateSplit
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The held-out replicates: as named, or chosen by seed.

    Test replicates come from each design cell, so that each day is tested. Validation replicates
    come from as few days as their fraction allows, all conditions of a day together: replicates
    are few, and each one that only chooses a checkpoint is one less to learn from.
    """
    rng = stream(config.seed, Use.SPLIT_TEST)
    test, val = list(config.test or ()), list(config.val or ())
    design = _design_cells(annotations, {*test, *val})
    days: dict[tuple[str, ...], list[list[str]]] = {}
    for timepoints, replicates in design:
        left = [replicates[i] for i in rng.permutation(len(replicates))]
        n_test = _some(config.test_fraction, len(left)) if config.test is None else 0
        test += left[:n_test]
        days.setdefault(timepoints, []).append(left[n_test:])
    if config.val is None:
        val += _validation_replicates(
            days, config, sum(len(replicates) for _, replicates in design)
        )
    return tuple(test), tuple(val)


def _validation_replicates(
    days: dict[tuple[str, ...], list[list[str]]], config: ReplicateSplit, total: int
) -> list[str]:
    """One replicate of each condition, day by day, up to the fraction; one stays to train.

    Days with all conditions come first, and of these the ones with most replicates.
    """
    wanted = max(1, round(config.val_fraction * total)) if config.val_fraction else 0
    least = {day: min(len(replicates) for replicates in cells) for day, cells in days.items()}
    fullest = sorted(days, key=lambda day: (-len(days[day]), -least[day]))
    chosen: list[str] = []
    for place in range(max(least.values(), default=0) - 1):
        for day in fullest:
            if place < least[day] - 1 and len(chosen) < wanted:
                chosen += [replicates[place] for replicates in days[day]]
    return chosen


def _design_cells(
    annotations: Annotations, but: set[str]
) -> list[tuple[tuple[str, ...], list[str]]]:
    """Replicates that have the same conditions and timepoints together, with these timepoints."""
    profiles: dict[str, list[tuple[str, ...]]] = {}
    for replicate, *profile in sorted(
        annotations.positions_by(("replicate", "condition", "timepoint"))
    ):
        if replicate not in but:
            profiles.setdefault(replicate, []).append(tuple(profile))
    design: dict[tuple, list[str]] = {}
    for replicate, profile in profiles.items():
        design.setdefault(tuple(profile), []).append(replicate)
    return [
        (tuple(sorted({timepoint for _, timepoint in profile})), design[profile])
        for profile in sorted(design)
    ]


def _some(fraction: float, n: int) -> int:
    """A fraction of n things, but at least one, and one less than all; none of a single one.

    A fraction of 0 asks for none.
    """
    return min(max(1, round(fraction * n)), n - 1) if fraction and n > 1 else 0


def _controls(treated: np.ndarray, role: np.ndarray, part: int, held_out: bool) -> np.ndarray:
    """The control cells a part may draw from: its own where it has any, else training's.

    A part without treated cells needs none.
    """
    control = ~treated
    own = control & (role == part)
    if part == TRAIN:
        return np.flatnonzero(own if held_out else control)
    if not (treated & (role == part)).any():
        return np.zeros(0, dtype=int)
    if own.any():
        return np.flatnonzero(own)
    return np.flatnonzero(control & (role == TRAIN) if held_out else control)


_HEADING = "cell type, timepoint, condition"


# (cell type, timepoint, condition)
Stratum = tuple[str, ...]


def split_table(split: Split, annotations: Annotations) -> str:
    """Cells per type, timepoint and condition in each part, replicates, and shared controls.

    A star marks held-out control cells that training may use as well.
    """
    columns = [_column(split, annotations, part) for part in PARTS]
    rows = sorted(set().union(*columns))
    width = max(len(_HEADING), *(len(_name(row)) for row in rows))
    leaky = " (LEAKY: cells of one replicate on both sides)" if split.leaky else ""
    lines = [f"split: {split.kind}{leaky}", _line(_HEADING, width, [f"{part} " for part in PARTS])]
    lines += [_line(_name(row), width, [c.get(row, "- ") for c in columns]) for row in rows]
    if any(split.shared_controls(part) for part in PARTS[1:]):
        lines.append("* control cells that training may use as well")
    lines += [_part_line(split, annotations, part) for part in PARTS]
    return "\n".join(lines)


def _column(split: Split, annotations: Annotations, part: str) -> dict[Stratum, str]:
    """What the table says of one part: its cells in each stratum."""
    treated, controls = split.treated[part], split.controls[part]
    counts = _counts(annotations, np.union1d(treated, controls))
    shared: set[Stratum] = set()
    if part != "train":
        shared = set(_counts(annotations, np.intersect1d(controls, split.controls["train"])))
    return {row: f"{n}{'*' if row in shared else ' '}" for row, n in counts.items()}


def _counts(annotations: Annotations, cells: np.ndarray) -> Counter[Stratum]:
    labels = annotations.take(cells)
    return Counter(zip(labels.cell_type, labels.timepoint, labels.condition, strict=True))


def _name(row: Stratum) -> str:
    return ", ".join(on_one_line(label) for label in row if label)


def _line(name: str, width: int, cells: list[str]) -> str:
    return f"{name:<{width}}{''.join(f'{cell:>9}' for cell in cells)}".rstrip()


def _part_line(split: Split, annotations: Annotations, part: str) -> str:
    """One line on a part: its cells, its replicates, how many of its controls training sees too."""
    treated, controls = split.treated[part], split.controls[part]
    replicates = sorted(set(annotations.replicate[treated]) - {""})
    of_whom = f"; treated replicates: {named(replicates)}" if replicates else ""
    shared = "" if part == "train" else f", {split.shared_controls(part)} of them shared with train"
    return f"{part}: {len(treated)} treated, {len(controls)} control cells{shared}{of_whom}"
