"""Scale of expression, checked on all cells before a model learns from them or meets them.

What a config says is not believed: counts, values that were never logged, logarithms to another
base and scaled values are told from log1p(CP10K) by the values themselves, as they come by in
blocks (`wound_jax.data.scale_kinds`). What a model was trained on is remembered as the range of
its cells' totals, and cells of another depth are refused. `data.scale: trust` asks only for finite
values, and for no negative ones where logarithms will be taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wound_jax.data.row_figures import (
    any_in_row,
    columns_of,
    dense_rows,
    first_where,
    rows_where,
    some_rows,
    stored_values,
    totals_of_powers,
)
from wound_jax.data.scale_kinds import (
    COUNTS,
    EXPECTED,
    LOG_HIGHEST,
    LOG_TOTAL,
    TARGET_SUM,
    Evidence,
    TotalRange,
    agree,
    is_log1p,
    listed,
    looks_like,
)
from wound_jax.data.stored_matrix import Matrix, n_rows
from wound_jax.errors import UserError

# Cells of a block whose totals are taken under every function.
_SAMPLE = 32
_TRUST = "or set data.scale=trust if they are what you want"
_FIX = (
    "take log(1 + x) of 10,000 x / total, or name counts by data.input=layers/NAME and set "
    "data.preprocess=log1p_cp10k"
)
# Blocks from which cells are kept to say what they look like.
_EXAMPLES = 4
# Share of cells by which a part of them is more than a few odd ones.
_PART = 0.01


@dataclass(frozen=True, eq=False)
class Origin:
    """Where cells come from, for messages.

    Attributes:
        matrix: the file and the matrix.
        cells: names of the cells, in their order; None where none are at hand.
        genes: names of the columns.
        conditions: the condition of each cell.
    """

    matrix: str = "the expression matrix"
    cells: Sequence[str] | np.ndarray | None = None
    genes: Sequence[str] | None = None
    conditions: np.ndarray | None = None

    def cell(self, position: int) -> str:
        """A cell as messages name it."""
        return f"cell {position if self.cells is None else repr(str(self.cells[position]))}"

    def place(self, cell: int, gene: int) -> str:
        """A cell and a gene as messages name them."""
        name = gene if self.genes is None else repr(str(self.genes[gene]))
        return f"{self.cell(cell)}, gene {name}"

    def of(self, cells: np.ndarray) -> str:
        """The conditions that some cells have and no other has; or the first of them.

        Args:
            cells: boolean `[cells]`, not all of them.
        """
        if self.conditions is not None:
            known = np.asarray(self.conditions[: len(cells)])
            alone = sorted(set(known[cells]) - set(known[~cells]))
            if alone:
                return f"all of condition {listed(alone)}"
        return f"such as {self.cell(int(np.flatnonzero(cells)[0]))}"


class ScaleCheck:
    """The scale of cells that come in blocks: no single block need tell counts from logs.

    Args:
        kind: `data.preprocess`: "none" expects log values, "log1p_cp10k" counts.
        origin: what the cells are, for messages.
        trust: whether only finite values are asked for (`data.scale`).
        counted: positions of the columns whose scale matters: the genes that training had; None
            takes all.
        like: the totals of the cells that a model was trained on.
    """

    def __init__(
        self,
        kind: str,
        origin: Origin | None = None,
        *,
        trust: bool = False,
        counted: np.ndarray | None = None,
        like: TotalRange | None = None,
    ):
        self._kind = kind
        self._origin = origin or Origin()
        self._trust = trust
        self._counted = counted
        self._like = like
        self._seen = 0
        self._high = 0.0
        self._negative = 0
        self._lowest: tuple[float, int, int] = (0.0, 0, 0)
        self._totals: list[np.ndarray] = []
        self._samples: list[Evidence] = []
        self._wrong: list[np.ndarray] = []
        self._examples: list[np.ndarray] = []

    def add(self, block: Matrix) -> None:
        """Looks at the cells of a block.

        Args:
            block: `[cells, genes]`.

        Raises:
            UserError: values are not finite, or no counts where counts are expected.
        """
        values = stored_values(block)
        self._require_finite(block, values)
        if self._counted is not None:
            block = columns_of(block, self._counted)
            values = stored_values(block)
        if values.size:
            low = float(values.min())
            if low < 0 and (self._kind == "log1p_cp10k" or not self._trust):
                self._add_negative(block, low)
            if not self._trust:
                self._high = max(self._high, float(values.max()))
        if self._kind == "log1p_cp10k":
            self._require_counts(block, values)
        elif not self._trust:
            self._add_logs(block, values)
        self._seen += n_rows(block)

    def _add_negative(self, block: Matrix, low: float) -> None:
        negative = rows_where(block, lambda x: x < 0)
        self._negative += int(np.count_nonzero(negative))
        if low < self._lowest[0]:
            cell, gene = first_where(block, lambda x: x == low)
            gene = gene if self._counted is None else int(self._counted[gene])
            self._lowest = low, self._seen + cell, gene

    def _require_finite(self, block: Matrix, values: np.ndarray) -> None:
        if np.isfinite(values).all():
            return
        cell, gene = first_where(block, lambda x: ~np.isfinite(x))
        value = dense_rows(block, np.array([cell]))[0, gene]
        raise UserError(
            f"{self._origin.matrix} holds NaN or infinite values ({value} in "
            f"{self._origin.place(self._seen + cell, gene)}), expected numbers; clean the file."
        )

    def _require_counts(self, block: Matrix, values: np.ndarray) -> None:
        """Refuses what are no counts at once: it would be logged otherwise."""
        odd = values[values != np.rint(values)] if not self._trust else values[:0]
        if not odd.size and not self._negative:
            return
        # A sign says more than a fraction, which z-scores have as well.
        wrong = rows_where(block, lambda x: x < 0 if self._negative else x != np.rint(x))
        example = self._lowest[0] if self._negative else odd[0]
        cell = self._origin.cell(self._seen + int(np.flatnonzero(wrong)[0]))
        kept = "" if self._negative else f", {_TRUST}"
        raise UserError(
            "data.preprocess=log1p_cp10k expects integer counts, but "
            f"{self._origin.matrix} holds other values (such as {example:g} in {cell}): they look "
            f"like {looks_like(some_rows(block, wrong))}; set data.preprocess=none if they are "
            f"log-normalised already, or name the counts by data.input=layers/NAME{kept}."
        )

    def _add_logs(self, block: Matrix, values: np.ndarray) -> None:
        fractions = any_in_row(block, values != np.rint(values))
        whole = ~fractions & any_in_row(block, values > 1)
        totals = totals_of_powers(block, values)
        self._totals.append(totals)
        logs = np.flatnonzero(fractions)
        if logs.size:
            some = logs[:: max(1, len(logs) // _SAMPLE)][:_SAMPLE]
            self._samples.append(Evidence.of(dense_rows(block, some)))
        wrong = whole | (totals > LOG_TOTAL)
        self._wrong.append(wrong)
        if wrong.any() and len(self._examples) < _EXAMPLES:
            self._examples.append(some_rows(block, wrong))

    def totals(self) -> TotalRange | None:
        """The range of the totals of all cells; None for counts, or where none was looked at."""
        return TotalRange.of(np.concatenate(self._totals)) if self._totals else None

    def require(self) -> None:
        """Asks, when all blocks have been seen, whether the cells are on the expected scale.

        Raises:
            UserError: they are not, with what they look like.
        """
        if self._trust or not self._totals:
            return
        totals = np.concatenate(self._totals)
        self._refuse_negative()
        self._refuse_other_kinds(totals)
        self._refuse_two_scales(totals)
        found = TotalRange.of(totals)
        if self._like is not None and found is not None:
            problem = self._like.problem(found)
            if problem:
                self._refuse(
                    f"is not on the scale that the model was trained on: {problem}",
                    "normalise it as the training file was",
                )

    def _refuse_negative(self) -> None:
        if self._negative:
            low, cell, gene = self._lowest
            self._refuse(
                f"looks like scaled values (z-scores): {self._negative} of {self._seen} cells "
                f"have values below 0 ({low:g} in {self._origin.place(cell, gene)})",
                "name the log-normalised values or the counts by data.input=layers/NAME",
            )

    def _refuse_other_kinds(self, totals: np.ndarray) -> None:
        """Whole numbers, totals that no log1p(CP10K) has, and totals that another function has."""
        kind = Evidence.all(self._samples).kind if self._samples else None
        wrong = np.concatenate(self._wrong)
        if kind is not None and not is_log1p(kind):
            self._refuse(f"looks like {kind} (up to {self._high:g})", _FIX)
        if self._samples and kind is None and self._high <= 1:
            self._refuse(f"looks like values scaled to at most {self._high:g}", _FIX)
        # By default scanpy normalises to the median total: totals that agree say so.
        other_target = is_log1p(kind) and agree(totals[totals > 0]) and self._high <= LOG_HIGHEST
        if not wrong.any() or other_target:
            return
        what = looks_like(np.concatenate(self._examples))
        fix = "set data.preprocess=log1p_cp10k" if what == COUNTS else _FIX
        what = f"{'holds' if what == COUNTS else 'looks like'} {what} (up to {self._high:g})"
        if not self._samples or wrong[totals > 0].all():
            self._refuse(what, fix)
        self._refuse(
            f"{what} in {wrong.sum()} of {len(wrong)} cells "
            f"({self._origin.of(wrong)}), and not in the rest",
            "bring all cells to one scale, log1p(CP10K) or counts",
        )

    def _refuse_two_scales(self, totals: np.ndarray) -> None:
        """Where some cells have the exact total of a normalisation, all have."""
        filled = totals > 0
        ratio = totals[filled] / TARGET_SUM
        exact, far = np.abs(ratio - 1) < 1e-4, np.abs(ratio - 1) > 0.2
        if exact.size and exact.mean() > 10 * _PART and far.mean() > _PART:
            others = np.zeros(len(totals), dtype=bool)
            others[np.flatnonzero(filled)[far]] = True
            self._refuse(
                f"is on two scales: {exact.sum()} cells are log1p(CP10K) with totals of 10,000, "
                f"{others.sum()} ({self._origin.of(others)}) have totals from "
                f"{totals[others].min():,.6g} to {totals[others].max():,.6g}",
                "normalise all cells alike",
            )

    def _refuse(self, what: str, fix: str) -> None:
        raise UserError(
            f"{self._origin.matrix} {what}, but data.preprocess=none expects {EXPECTED}; {fix}, "
            f"{_TRUST}."
        )
