"""From a matrix on disk to the expression a model is trained on, fitted on training cells only.

`log1p_cp10k` divides each cell by its total over the normalisation genes, scales to 10,000 and
takes log(1 + x), through scanpy; `n_hvg` keeps the most variable genes of the training cells
(`seurat` flavour on log values). What was fitted is stored with the model, and a later file is
brought to the same genes **by name**.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import anndata as ad
import numpy as np
import scipy.sparse as sp

from wound_jax.data.source import Matrix
from wound_jax.errors import UserError

TARGET_SUM = 1e4
_CHECKED_CELLS = 2_000


@dataclass(frozen=True)
class Preprocessing:
    """Fitted preprocessing.

    Attributes:
        kind: "none" or "log1p_cp10k".
        genes: the model's genes, in order.
        normalisation_genes: the genes whose sum is a cell's total.
    """

    kind: str
    genes: tuple[str, ...]
    normalisation_genes: tuple[str, ...]

    def apply(
        self, values: Matrix, var_names: Sequence[str], *, missing: str = "error"
    ) -> tuple[np.ndarray, list[str]]:
        """Brings cells to the model's genes and scale.

        Args:
            values: `[cells, len(var_names)]`, raw counts or log values as `kind` expects.
            var_names: the genes of its columns.
            missing: "error", or "zero" to fill model genes that are absent with zeros.

        Returns:
            float32 `[cells, genes]` in the order of `self.genes`, and the absent genes.

        Raises:
            UserError: the scale is not the expected one, a gene is named twice, or one is missing.
        """
        check_scale(values, self.kind)
        column = _columns(var_names)
        absent = [gene for gene in self.genes if gene not in column]
        if absent and missing != "zero":
            raise UserError(
                f"{len(absent)} of the model's {len(self.genes)} genes are missing from the data "
                f"({', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}); give a file that "
                "has them, or fill them with zeros by --missing zero."
            )
        # The totals are taken over the genes that the training file had, so that a file with more
        # genes gives the same values.
        present = [gene for gene in self.normalisation_genes if gene in column]
        if len(present) < len(column) or present != list(column):
            values = values[:, [column[gene] for gene in present]]
        if self.kind == "log1p_cp10k":
            values = _log1p_cp10k(values)
        place = {gene: i for i, gene in enumerate(present)}
        return _select(values, [place.get(gene, -1) for gene in self.genes]), absent


# A run on an embedding without a gene decoder knows no genes.
NO_GENES = Preprocessing(kind="none", genes=(), normalisation_genes=())


def fit_preprocessing(
    values: Matrix, var_names: Sequence[str], training: np.ndarray, kind: str, n_hvg: int | None
) -> Preprocessing:
    """Chooses the genes of a model on its training cells.

    Args:
        values: `[cells, genes]`, raw counts for "log1p_cp10k", log values for "none".
        var_names: names of the genes.
        training: positions of the cells that may be looked at.
        kind: "none" or "log1p_cp10k".
        n_hvg: how many of the most variable genes to keep; None keeps all.

    Raises:
        UserError: the scale is not the expected one, a gene is named twice, or there are too few.
    """
    names = tuple(map(str, var_names))
    _columns(names)
    check_scale(values, kind)
    genes = names
    if n_hvg is not None:
        if n_hvg > len(names):
            raise UserError(f"data.n_hvg={n_hvg}, but the data have {len(names)} genes.")
        log_values = values[training]
        if kind == "log1p_cp10k":
            log_values = _log1p_cp10k(log_values)
        genes = tuple(np.asarray(names)[_highly_variable(log_values, n_hvg)])
    return Preprocessing(kind=kind, genes=genes, normalisation_genes=names)


def check_scale(values: Matrix, kind: str) -> None:
    """Refuses counts where log values are expected, and the reverse.

    Raises:
        UserError: naming what was found and the setting that fits it.
    """
    sample = values[:_CHECKED_CELLS]
    data = np.asarray(sample.data if sp.issparse(sample) else sample)
    if data.size and not np.isfinite(data).all():
        raise UserError("the expression matrix holds NaN or infinite values; clean the file first.")
    counts = bool(data.size) and bool((data == np.round(data)).all()) and data.max() > 1
    if kind == "none" and counts:
        raise UserError(
            f"the expression matrix holds integer counts (up to {data.max():g}), but "
            "data.preprocess=none expects log-normalised values; set data.preprocess=log1p_cp10k."
        )
    if kind == "log1p_cp10k" and not counts:
        raise UserError(
            "data.preprocess=log1p_cp10k expects integer counts, but the expression matrix holds "
            f"other values (e.g. {_non_integer_example(data)}); set data.preprocess=none if they "
            "are log-normalised already, or name the counts by data.input=layers/NAME."
        )


def _non_integer_example(data: np.ndarray) -> str:
    odd = data[data != np.round(data)]
    return f"{odd.flat[0]:g}" if odd.size else "no value above 1"


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


def _log1p_cp10k(counts: Matrix) -> Matrix:
    """log(1 + 10,000 x / total of the cell)."""
    import scanpy as sc

    cells = ad.AnnData(counts.astype(np.float32))
    sc.pp.normalize_total(cells, target_sum=TARGET_SUM)
    sc.pp.log1p(cells)
    return cells.X


def _highly_variable(log_values: Matrix, n_hvg: int) -> np.ndarray:
    """Which genes vary most, boolean `[genes]`, in scanpy's `seurat` flavour."""
    import scanpy as sc

    cells = ad.AnnData(log_values.astype(np.float32))
    found = sc.pp.highly_variable_genes(cells, n_top_genes=n_hvg, flavor="seurat", inplace=False)
    return found["highly_variable"].to_numpy()


def _select(values: Matrix, columns: list[int]) -> np.ndarray:
    """float32 `[cells, len(columns)]`; column -1 is zeros."""
    index = np.asarray(columns)
    in_place = len(index) == values.shape[1] and (index == np.arange(len(index))).all()
    chosen = values if in_place else values[:, np.maximum(index, 0)]
    dense = chosen.toarray() if sp.issparse(chosen) else np.array(chosen)
    dense = np.ascontiguousarray(dense, dtype=np.float32)
    dense[:, index < 0] = 0.0
    return dense
