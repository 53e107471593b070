"""From a matrix on disk to the expression a model is trained on, fitted on training cells only.

`log1p_cp10k` divides each cell by its total over the normalisation genes, scales to 10,000 and
takes log(1 + x), through scanpy; `none` takes log values as they are. `n_hvg` keeps the most
variable genes of the training cells (`wound_jax.data.variable_genes`). Cells may come in blocks,
and their scale is checked (`wound_jax.data.scale`). What was fitted is stored with the model, and a
later file is brought to the same genes **by name**.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import anndata as ad
import numpy as np
import scipy.sparse as sp

from wound_jax.data.scale import Origin, ScaleCheck
from wound_jax.data.scale_kinds import TARGET_SUM, TotalRange
from wound_jax.data.source import row_blocks
from wound_jax.data.stored_matrix import Matrix, n_columns, n_rows
from wound_jax.data.variable_genes import GeneMoments, highly_variable
from wound_jax.devices.host_memory import aligned_table, as_aligned
from wound_jax.errors import UserError


@dataclass(frozen=True)
class Preprocessing:
    """Fitted preprocessing.

    Attributes:
        kind: "none" or "log1p_cp10k".
        genes: the model's genes, in order.
        normalisation_genes: the genes whose sum is a cell's total: all of the training file.
        totals: the range of what log values of that file sum up to over them; None for counts, and
            for models from before it was kept.
    """

    kind: str
    genes: tuple[str, ...]
    normalisation_genes: tuple[str, ...]
    # What is refused hangs on it, what is computed does not.
    totals: TotalRange | None = field(default=None, compare=False)

    def scale_check(
        self, var_names: Sequence[str], origin: Origin | None = None, *, trust: bool = False
    ) -> ScaleCheck:
        """The check of other cells than those that this was fitted on.

        Args:
            var_names: the genes of their columns.
            origin: what they are, for messages.
            trust: whether only finite values are asked for.
        """
        # Genes that training did not have add to a total, and those that are not there take away.
        counted = np.flatnonzero(
            np.isin(np.asarray(var_names, dtype=str), self.normalisation_genes)
        )
        comparable = len(counted) == len(self.normalisation_genes)
        like = self.totals if comparable else None
        return ScaleCheck(self.kind, origin, trust=trust, counted=counted, like=like)

    def apply(
        self,
        values: Matrix,
        var_names: Sequence[str],
        *,
        missing: str = "error",
        origin: Origin | None = None,
        trust: bool = False,
    ) -> tuple[np.ndarray, list[str]]:
        """Brings cells to the model's genes and scale.

        Args:
            values: `[cells, len(var_names)]`, raw counts or log values as `kind` expects; left as
                they are.
            var_names: the genes of its columns.
            missing: "error", or "zero" to count absent genes as zeros.
            origin: what they are, for messages.
            trust: whether their scale is left unchecked (`data.scale`).

        Returns:
            float32 `[cells, genes]` in the order of `self.genes`, aligned for devices
            (`values` itself where it is all that), and the absent genes.

        Raises:
            UserError: the scale is not the expected one, a gene is named twice, or one is missing.
        """
        scale = self.scale_check(var_names, origin, trust=trust)
        for _, block in row_blocks(values):
            scale.add(block)
        scale.require()
        return self.transform(values, var_names, missing=missing)

    def transform(
        self, values: Matrix, var_names: Sequence[str], *, missing: str = "error"
    ) -> tuple[np.ndarray, list[str]]:
        """`apply` to cells whose scale has been checked, or is being checked over all blocks."""
        values, index, absent = self._scaled(values, var_names, missing)
        return _dense(values, index), absent

    def transform_csr(self, values: Matrix, var_names: Sequence[str]) -> sp.csr_matrix:
        """`transform` to CSR, without stored zeros, where no gene may be missing."""
        values, index, _ = self._scaled(values, var_names, "error")
        taken = sp.csr_matrix(_take(values, index), dtype=np.float32, copy=True)
        taken.sum_duplicates()
        taken.eliminate_zeros()
        return taken

    def _scaled(
        self, values: Matrix, var_names: Sequence[str], missing: str
    ) -> tuple[Matrix, np.ndarray, list[str]]:
        """The cells on the model's scale, where its genes are, -1 if absent, and the absent."""
        column = _columns(var_names)
        absent = self._absent(column, missing)
        if self.kind == "log1p_cp10k":
            # The totals are taken over the genes that the training file had, so that a file with
            # more genes gives the same values.
            present = [gene for gene in self.normalisation_genes if gene in column]
            taken = _take(values, np.array([column[gene] for gene in present]))
            values = _log1p_cp10k(taken, owned=taken is not values)
            column = {gene: i for i, gene in enumerate(present)}
        return values, np.array([column.get(gene, -1) for gene in self.genes]), absent

    def _absent(self, column: dict[str, int], missing: str) -> list[str]:
        """The genes that a file lacks. A cell's total needs all it was taken over in training."""
        summed = self.normalisation_genes if self.kind == "log1p_cp10k" else ()
        absent = [gene for gene in dict.fromkeys((*self.genes, *summed)) if gene not in column]
        named = f"{', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}"
        if not any(gene in column for gene in self.genes):
            raise UserError(
                f"the data have none of the model's {len(self.genes)} genes (such as {named}); "
                "var_names have to be names of the same kind as in training."
            )
        if absent and missing != "zero":
            of_model = len(set(absent) & set(self.genes))
            raise UserError(
                f"{len(absent)} genes of the training file are missing from the data ({named}): "
                f"{of_model} of the {len(self.genes)} that the model reads, the others part of "
                "each cell's total. Give a file that has them, or count them as zeros by "
                "--missing zero."
            )
        return absent


# A run on an embedding without a gene decoder knows no genes.
NO_GENES = Preprocessing(kind="none", genes=(), normalisation_genes=())


def fit_preprocessing(
    values: Matrix,
    var_names: Sequence[str],
    training: np.ndarray,
    kind: str,
    n_hvg: int | None,
    *,
    origin: Origin | None = None,
    trust: bool = False,
) -> Preprocessing:
    """Chooses the genes of a model on its training cells.

    Args:
        values: `[cells, genes]`, raw counts for "log1p_cp10k", log values for "none".
        var_names: names of the genes.
        training: positions of the cells that may be looked at.
        kind: "none" or "log1p_cp10k".
        n_hvg: how many of the most variable genes to keep, in the order of the file; None keeps
            all.
        origin: what the cells are, for messages.
        trust: whether their scale is left unchecked (`data.scale`).

    Raises:
        UserError: the scale is not the expected one, a gene is named twice, or there are too few.
    """
    fit = PreprocessingFit(var_names, kind, n_hvg, origin=origin, trust=trust)
    trains = np.zeros(n_rows(values), dtype=bool)
    trains[training] = True
    for rows, block in row_blocks(values):
        fit.add(block, trains[rows])
    return fit.result()


class PreprocessingFit:
    """`fit_preprocessing` of cells that come in blocks.

    Args:
        var_names: names of the genes.
        kind: "none" or "log1p_cp10k".
        n_hvg: how many of the most variable genes to keep; None keeps all.
        origin: what the cells are, for messages.
        trust: whether their scale is left unchecked (`data.scale`).

    Raises:
        UserError: a gene is named twice, or there are too few.
    """

    def __init__(
        self,
        var_names: Sequence[str],
        kind: str,
        n_hvg: int | None,
        *,
        origin: Origin | None = None,
        trust: bool = False,
    ):
        self._names = tuple(map(str, var_names))
        self._kind = kind
        self._n_hvg = n_hvg
        self._scale = ScaleCheck(kind, origin, trust=trust)
        self._moments = GeneMoments(len(self._names))
        _columns(self._names)
        if n_hvg is not None and n_hvg > len(self._names):
            raise UserError(f"data.n_hvg={n_hvg}, but the data have {len(self._names)} genes.")

    def add(self, block: Matrix, training: np.ndarray) -> None:
        """Looks at the scale of all cells of a block, and at the genes of the training cells.

        Args:
            block: `[cells, genes]`.
            training: boolean `[cells]`, which of them may be looked at.

        Raises:
            UserError: the scale is seen not to be the expected one.
        """
        self._scale.add(block)
        if self._n_hvg is None or not training.any():
            return
        log_values = block[training]
        if self._kind == "log1p_cp10k":
            log_values = _log1p_cp10k(log_values, owned=True)
        # Of counts that were given for log values; they are refused when all have been seen.
        with np.errstate(over="ignore", invalid="ignore"):
            self._moments.add(cast(Matrix, log_values.astype(np.float32, copy=False)))

    def result(self) -> Preprocessing:
        """What was fitted.

        Raises:
            UserError: the scale is not the expected one, or too few genes vary.
        """
        self._scale.require()
        genes = self._names
        if self._n_hvg is not None:
            genes = tuple(genes[i] for i in highly_variable(self._moments, self._n_hvg))
        return Preprocessing(self._kind, genes, self._names, self._scale.totals())


def _columns(names: Sequence[str]) -> dict[str, int]:
    column = {str(name): i for i, name in enumerate(names)}
    if len(column) != len(names):
        seen: set[str] = set()
        twice = next(str(n) for n in names if str(n) in seen or seen.add(str(n)))
        raise UserError(
            f"gene {twice!r} is named more than once; make var_names unique "
            "(adata.var_names_make_unique())."
        )
    return column


def _log1p_cp10k(counts: Matrix, *, owned: bool) -> Matrix:
    """log(1 + 10,000 x / total of the cell); `counts` are overwritten only if they are `owned`."""
    import scanpy as sc

    cells = ad.AnnData(counts.astype(np.float32, copy=not owned))
    sc.pp.normalize_total(cells, target_sum=TARGET_SUM)
    sc.pp.log1p(cells)
    return cast(Matrix, cells.X)


def _take(values: Matrix, index: np.ndarray) -> Matrix:
    """Columns of a matrix by position: the matrix itself where these are all, in order.

    Position -1 gives the last column, for the caller to blank.
    """
    if len(index) == n_columns(values) and (index == np.arange(len(index))).all():
        return values
    # np.take keeps rows contiguous, which `values[:, index]` does not.
    return np.take(values, index, axis=1) if isinstance(values, np.ndarray) else values[:, index]


def _dense(values: Matrix, index: np.ndarray) -> np.ndarray:
    """float32 `[cells, len(index)]`; column -1 is zeros."""
    taken = _take(values, index)
    if isinstance(taken, np.ndarray):
        dense = as_aligned(taken)
    else:
        dense = aligned_table(n_rows(taken), n_columns(taken))
        taken.astype(np.float32, copy=False).toarray(out=dense)
    if (index < 0).any():
        dense[:, index < 0] = 0.0
    return dense
