"""Kinds of scale that expression comes on, told apart by the cells themselves.

Normalisation makes the totals of all cells equal, and leaves the values of a cell multiples of
what one molecule became; only one function of the values shows either:

    sum_g f(x_cg) = N for every cell c     f: expm1, x, 2^x - 1, 10^x - 1, x^2
    f(x_cg) / min_g f(x_cg) is a whole number

The first says N as well, and needs all genes; the second holds for a selection of genes, of counts
that no correction made fractions of. Where neither is there, what cannot be remains: a sign, whole
numbers, a total above `LOG_TOTAL`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

# Counts are brought to this total. log(1 + x) of them is at most ln 10001 = 9.2104, and the sum of
# x over the genes of a cell at most 10,000; one in a hundred is left to float16.
TARGET_SUM = 1e4
LOG_TOTAL = 1.01 * TARGET_SUM
LOG_HIGHEST = float(np.log1p(LOG_TOTAL))
COUNTS = "integer counts"
EXPECTED = "log1p(CP10K), of which no value exceeds ln 10001 = 9.2104"
# Totals agree within this; of float16 they are off by a few in a thousand.
_EQUAL = 5e-3
# Cells of which the totals have to agree, unless they are as round as only a choice is.
_ENOUGH = 8
# Values by which multiples are believed.
_MULTIPLES = 50
_ROUND = {1.0: "shares of a cell's total", 1e4: "CP10K", 1e6: "CPM"}
_Inverse = Callable[[np.ndarray], np.ndarray]
_INVERSES: dict[str, _Inverse] = {
    "log1p({})": np.expm1,
    "unlogged {}": lambda x: x,
    "log2({} + 1)": lambda x: np.exp2(x) - 1,
    "log10({} + 1)": lambda x: 10.0**x - 1,
    "square roots of {}": np.square,
}


@dataclass(frozen=True, eq=False)
class Evidence:
    """What some cells show under each function.

    Attributes:
        totals: of each cell, float64; infinite where they overflow.
        multiples: how many values are multiples of the smallest in their cell, and how many were
            looked at.
    """

    totals: Float[np.ndarray, "cells kinds"]
    multiples: Int[np.ndarray, "2 kinds"]

    @classmethod
    def of(cls, cells: Float[np.ndarray, "cells genes"]) -> "Evidence":
        """The evidence of some cells, none of which is empty."""
        values = np.asarray(cells, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            found = [inverse(values) for inverse in _INVERSES.values()]
            multiples = np.array([_multiples(x, values > 0) for x in found]).T
            return cls(np.stack([x.sum(axis=1) for x in found], axis=1), multiples)

    @classmethod
    def all(cls, parts: Sequence["Evidence"]) -> "Evidence":
        """That of all cells together."""
        totals = np.concatenate([part.totals for part in parts])
        return cls(totals, np.sum([part.multiples for part in parts], axis=0))

    @property
    def kind(self) -> str | None:
        """What was done to all these cells, in words ("unlogged CPM"), or None."""
        for name, totals in zip(_INVERSES, self.totals.T, strict=True):
            if agree(totals):
                return name.format(_target(float(np.median(totals))))
        near, looked_at = self.multiples
        share = near / np.maximum(looked_at, 1)
        # Of deep cells several functions nearly show it; the likely one is believed then.
        best = 0 if share[0] > 0.9 else int(np.argmax(share))
        if looked_at[best] >= _MULTIPLES and share[best] > 0.9:
            return list(_INVERSES)[best].format("normalised counts")
        return None


def _multiples(x: np.ndarray, stored: np.ndarray) -> tuple[int, int]:
    """How many values are multiples of the smallest in their cell, and of how many."""
    ratio = x / np.where(stored, x, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    # The smallest is one of itself, and of large ones rounding leaves nothing to see.
    ratio = ratio[stored & (ratio > 1.5) & (ratio < 40)]
    return int((np.abs(ratio - np.rint(ratio)) < 0.05).sum()), ratio.size


def is_log1p(kind: str | None) -> bool:
    """Whether a kind is log(1 + x) of normalised counts, whatever they were normalised to."""
    return kind is not None and kind.startswith("log1p(")


def agree(totals: Float[np.ndarray, " cells"]) -> bool:
    """Whether totals are one number, by more cells than chance would make so."""
    if not len(totals) or not np.isfinite(totals).all() or totals.min() <= 0:
        return False
    middle = float(np.median(totals))
    known = any(abs(middle / target - 1) < _EQUAL for target in _ROUND)
    return (known or len(totals) >= _ENOUGH) and totals.max() / totals.min() - 1 < _EQUAL


def _target(total: float) -> str:
    for target, name in _ROUND.items():
        if abs(total / target - 1) < _EQUAL:
            return name
    return f"counts normalised to {total:,.6g} a cell"


def looks_like(cells: Float[np.ndarray, "cells genes"]) -> str:
    """What some cells look like, in words.

    Args:
        cells: finite values; some that are on an unexpected scale.
    """
    if cells.min(initial=0.0) < 0:
        return "scaled values (z-scores)"
    filled = cells[(cells > 0).any(axis=1)]
    if (filled == np.rint(filled)).all():
        return COUNTS
    evidence = Evidence.of(filled)
    if evidence.kind is not None:
        return evidence.kind
    if evidence.totals[:, 0].max() <= LOG_TOTAL:
        return "log-normalised values"
    if cells.max() <= LOG_HIGHEST:
        return "logarithms to another base or total, log2(CP10K + 1) say"
    return "counts that are no integers (ambient-corrected, or normalised), not logged"


@dataclass(frozen=True)
class TotalRange:
    """The sums over genes of expm1(x) of a file's cells, but for the one in a hundred at each end.

    Attributes:
        low: the lowest.
        high: the highest.
    """

    low: float
    high: float

    @classmethod
    def of(cls, totals: Float[np.ndarray, " cells"]) -> "TotalRange | None":
        """The range of cells that are not empty; None without any."""
        totals = totals[totals > 0]
        if not len(totals):
            return None
        # Six digits: the order of a sum is nobody's business.
        low, high = (float(f"{x:.6g}") for x in np.quantile(totals, [0.01, 0.99]))
        return cls(low, high)

    def problem(self, other: "TotalRange") -> str | None:
        """How another file's cells differ in depth from these, if they do."""
        wide, slack = self.high / self.low, 1.5 if self.high < 1.1 * self.low else 3.0
        spread = wide < 1.02 and other.high > 1.25 * other.low
        apart = other.high > slack * self.high or slack * other.low < self.low
        if not (spread or apart):
            return None
        return (
            f"the totals of its cells, the sum of expm1(x) over the genes of the training file, "
            f"lie between {other.low:,.6g} and {other.high:,.6g}; in training they lay between "
            f"{self.low:,.6g} and {self.high:,.6g}"
        )


def listed(names: Sequence[str]) -> str:
    """A few names for a message."""
    return ", ".join(repr(str(name)) for name in names[:3]) + (", ..." if len(names) > 3 else "")
