"""Predictions as the pair of files that `cell-eval` scores, and its run.

`cell-eval` (Arc Institute, 0.8) reads a measured and a predicted AnnData with the same genes in the
same order and, in both, a column of perturbations with a common control label; it compares

    delta = mean(perturbed) - mean(control),   differential expression against the control

within each cell type. Its rules, checked here before anything is written: log-normalised values,
0 <= x < 15, none missing, and not whole numbers throughout (which it takes for counts and
normalises again). Real control cells are copied into the predicted file. Timepoints are part of
the perturbation's label ("Burn_day10"): with one label its discrimination scores mean nothing. It
knows one control for each cell type, so controls of all timepoints are pooled; our own metrics keep
them matched, and their deltas differ from its own where controls change over time.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.files import inert, make_folder, replacing, write_text

REAL, PREDICTED, RESULTS, LOG = "real.h5ad", "pred.h5ad", "results.csv", "cell-eval.log"
PERTURBATION, CELL_TYPE = "perturbation", "cell_type"
# What the evaluator takes for log-normalised values lies below.
_UPPER = 15.0
# A value whose fraction is no larger counts as whole there.
_WHOLE = 1e-3

# Of one stratum: among several, the number of cells differs.
Cells = Float[np.ndarray, "_cells genes"]


def write_pair(
    folder: Path,
    strata: Sequence[Stratum],
    predictions: Sequence[Cells],
    genes: Sequence[str],
    *,
    scale: str,
    control_label: str,
) -> tuple[Path, Path]:
    """Writes measured and predicted cells as `real.h5ad` and `pred.h5ad`.

    Args:
        folder: where to; made if absent, files of these names are replaced.
        strata: measured cells; each needs treated ones.
        predictions: [cells, genes] of each stratum, in the order of the strata.
        genes: names of the columns.
        scale: what the values are, such as "log1p_cp10k"; noted in `uns["scale"]` of both files.
        control_label: the name control cells get in the column `perturbation`.

    Returns:
        The paths of the measured and of the predicted file. Cells carry `obs["perturbation"]` and
        `obs["cell_type"]`; a control cell that several strata share is written once.

    Raises:
        UserError: something breaks a rule of the evaluator; nothing is written then.
    """
    strata = list(strata)
    if not strata or len(strata) != len(predictions):
        raise UserError(
            f"{len(strata)} strata and {len(predictions)} predictions; expected one prediction for "
            "each of at least one stratum."
        )
    for stratum, predicted in zip(strata, predictions, strict=True):
        _check_stratum(stratum, predicted, genes, control_label)
    controls = _controls(strata, control_label)
    labels = [_label(stratum) for stratum in strata]
    types = [stratum.cell_type for stratum in strata]
    measured = list(zip(types, labels, [s.treated for s in strata], strict=True))
    predicted = list(zip(types, labels, predictions, strict=True))
    pair = {
        name: _annotated([*controls, *blocks], genes, scale, control_label)
        for name, blocks in ((REAL, measured), (PREDICTED, predicted))
    }
    for name, adata in pair.items():
        _require_logarithms(adata, name)
    make_folder(folder)
    for name, adata in pair.items():
        with replacing(folder / name) as part:
            adata.write_h5ad(part)
    return folder / REAL, folder / PREDICTED


def run_cell_eval(pair: tuple[Path, Path], folder: Path) -> Path:
    """Runs the evaluator on a pair, each cell type by itself.

    Args:
        pair: the paths from `write_pair`.
        folder: where its tables and its log go; made if absent.

    Returns:
        The path of `results.csv`: a row for each cell type and perturbation, its metrics as
        columns, put together from its tables of each type.

    Raises:
        UserError: it is not installed, or it failed.
    """
    real, predicted = pair
    if find_spec("cell_eval") is None:
        raise UserError(
            f"cell-eval is not installed; the files for it are {real} and {predicted}. Install it "
            "by pip install 'wound_jax[cell-eval]' and ask again."
        )
    adata = ad.read_h5ad(real, backed="r")
    control, types = str(adata.uns["control"]), sorted(set(adata.obs[CELL_TYPE].astype(str)))
    adata.file.close()
    make_folder(folder)
    files = ["-ap", str(predicted), "-ar", str(real), "-o", str(folder)]
    columns = ["--control-pert", control, "--pert-col", PERTURBATION, "--celltype-col", CELL_TYPE]
    command = [sys.executable, "-m", "cell_eval", "run", *files, *columns]
    done = subprocess.run(command, capture_output=True, text=True)
    log = folder / LOG
    write_text(log, f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"cell-eval failed: {last} All it said is in {log}.")
    return _one_table(folder, types)


def _one_table(folder: Path, types: Sequence[str]) -> Path:
    """Its tables of each cell type below each other."""
    parts = []
    for cell_type in types:
        # A slash in a type becomes a dash in its file's name.
        table = pd.read_csv(folder / f"{cell_type.replace('/', '-')}_{RESULTS}")
        table.insert(0, CELL_TYPE, cell_type)
        parts.append(table)
    write_text(folder / RESULTS, pd.concat(parts, ignore_index=True).map(inert).to_csv(index=False))
    return folder / RESULTS


def _label(stratum: Stratum) -> str:
    """The name of a perturbation at its timepoint."""
    parts = (stratum.perturbation, stratum.timepoint)
    return "_".join(part for part in parts if part is not None)


def _check_stratum(
    stratum: Stratum, predicted: Cells, genes: Sequence[str], control_label: str
) -> None:
    if _label(stratum) == control_label:
        raise UserError(
            f"stratum {stratum.key}: {control_label!r} is the label of the control cells too; "
            "name them differently."
        )
    if not stratum.n_treated or not len(predicted):
        raise UserError(
            f"stratum {stratum.key} has {stratum.n_treated} treated and {len(predicted)} predicted "
            "cells; cell-eval needs both. Leave it out."
        )
    arms = {"control": stratum.control, "treated": stratum.treated, "predicted": predicted}
    for arm, cells in arms.items():
        if cells.ndim != 2 or cells.shape[1] != len(genes):
            raise UserError(
                f"stratum {stratum.key}: the {arm} cells have shape {cells.shape}; expected "
                f"[cells, {len(genes)}], a column for each gene."
            )
        _check_range(cells, f"stratum {stratum.key}: the {arm} cells")


def _check_range(cells: Cells, what: str) -> None:
    if not np.isfinite(cells).all():
        raise UserError(
            f"{what} hold {int((~np.isfinite(cells)).sum())} values that are NaN or infinite; "
            "cell-eval takes none."
        )
    low, high = float(cells.min()), float(cells.max())
    if low < 0 or high >= _UPPER:
        raise UserError(
            f"{what} run from {low:g} to {high:g}; cell-eval takes log-normalised expression, "
            f"0 <= x < {_UPPER:g}. Train on such values (data.preprocess=log1p_cp10k), and keep "
            "predictions above zero by model.output_activation=relu."
        )


def _controls(strata: Sequence[Stratum], control_label: str) -> list[tuple[str, str, Cells]]:
    """The control cells of each type, each cell once."""
    types = dict.fromkeys(stratum.cell_type for stratum in strata)
    return [
        (t, control_label, _distinct([s.control for s in strata if s.cell_type == t]))
        for t in types
    ]


def _distinct(parts: Sequence[Cells]) -> Cells:
    """Rows of several matrices; a row that occurs in several of them is one cell.

    Within one matrix equal rows are different cells, so a row is kept as often as it occurs in
    the matrix that has it most often.
    """
    kept, written = [], Counter()
    for cells in parts:
        seen = Counter()
        for row in np.ascontiguousarray(cells, dtype=np.float32):
            key = row.tobytes()
            seen[key] += 1
            if seen[key] > written[key]:
                written[key] += 1
                kept.append(row)
    return np.stack(kept)


def _annotated(
    blocks: Sequence[tuple[str, str, Cells]], genes: Sequence[str], scale: str, control_label: str
) -> ad.AnnData:
    """Cells of (type, perturbation) blocks as an AnnData."""
    counts = [len(cells) for _, _, cells in blocks]
    values = sp.vstack([sp.csr_matrix(cells, dtype=np.float32) for _, _, cells in blocks], "csr")
    types = np.repeat([cell_type for cell_type, _, _ in blocks], counts)
    labels = np.repeat([label for _, label, _ in blocks], counts)
    names = [f"{t}_{label}_{i}" for t, label, cells in blocks for i in range(len(cells))]
    adata = ad.AnnData(
        values,
        obs=pd.DataFrame({PERTURBATION: labels, CELL_TYPE: types}, index=pd.Index(names)),
        var=pd.DataFrame(index=pd.Index([str(gene) for gene in genes])),
    )
    adata.uns["scale"], adata.uns["control"] = scale, control_label
    return adata


def _require_logarithms(adata: ad.AnnData, name: str) -> None:
    """Refuses a cell type with whole numbers alone, which would be normalised a second time."""
    values, types = sp.csr_matrix(adata.X), adata.obs[CELL_TYPE].to_numpy().astype(str)
    for cell_type in sorted(set(types)):
        fraction = np.modf(values[types == cell_type].data)[0]
        if not (fraction > _WHOLE).any():
            raise UserError(
                f"the cells of type {cell_type} for {name} hold whole numbers alone; cell-eval "
                "would take them for counts. Train on log-normalised values "
                "(data.preprocess=log1p_cp10k)."
            )
