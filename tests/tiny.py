"""A tiny data set of counts, with its columns under names of its own, and its config.

Two types, two days, two treatments against a control. Mice are nested in a condition and a day
(three each), or paired: six mice that have both conditions on both days.
"""

from pathlib import Path
from typing import Any, cast

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from wound_jax.config.schema import RunConfig
from wound_jax.data.annotations import Annotations, read_annotations
from wound_jax.data.settings import DataSettings

TYPES, DAYS, CONDITIONS = ("B cell", "T cell"), ("d1", "d2"), ("burn", "sham")
COLUMNS = {
    "pert_col": "treatment",
    "control": "sham",
    "cell_type_col": "type",
    "timepoint_col": "day",
    "replicate_col": "mouse",
}
N_GENES = 40


def tiny_obs(*, paired: bool = False, per_mouse: int = 5, seed: int = 0) -> pd.DataFrame:
    """Labels: `per_mouse` cells of each type, condition, day and mouse, in random order."""
    rows = [
        (condition, cell_type, day, f"m{number}" if paired else f"{condition}_{day}_m{number}")
        for condition in CONDITIONS
        for cell_type in TYPES
        for day in DAYS
        for number in range(6 if paired else 3)
        for _ in range(per_mouse)
    ]
    order = np.random.default_rng(seed).permutation(len(rows))
    columns = pd.Index(["treatment", "type", "day", "mouse"])
    index = pd.Index([f"cell{i}" for i in range(len(rows))])
    return pd.DataFrame([rows[i] for i in order], columns=columns, index=index).astype("category")


def tiny_adata(*, paired: bool = False, per_mouse: int = 5, seed: int = 0) -> ad.AnnData:
    """Cells with `layers["counts"]` (CSR, integers), their log in `X` (CSR), and `obsm["emb"]`."""
    obs = tiny_obs(paired=paired, per_mouse=per_mouse, seed=seed)
    rng = np.random.default_rng([seed, 1])
    rate = rng.gamma(0.7, 3.0, N_GENES) + 0.1
    shift = np.where(obs["treatment"] == "burn", 2.0, 1.0)[:, None] ** (np.arange(N_GENES) % 3 == 0)
    counts = rng.poisson(rate * shift).astype(np.float32)
    counts[:, 0] += 1  # no cell is empty
    genes = pd.Index([f"gene{i}" for i in range(N_GENES)])
    adata = ad.AnnData(obs=obs, var=pd.DataFrame(index=genes))
    adata.layers["counts"] = sp.csr_matrix(counts)
    adata.X = sp.csr_matrix(np.log1p(1e4 * counts / counts.sum(1, keepdims=True)))
    adata.obsm["emb"] = rng.normal(size=(len(obs), 6)).astype(np.float32)
    return adata


def write(adata: ad.AnnData, folder: Path, name: str = "tiny.h5ad") -> Path:
    """Writes the cells to a folder and returns the path."""
    adata.write_h5ad(folder / name)
    return folder / name


def tiny_labels(adata: ad.AnnData | pd.DataFrame, **data: Any) -> Annotations:
    """The labels of tiny cells."""
    obs = adata if isinstance(adata, pd.DataFrame) else cast(pd.DataFrame, adata.obs)
    return read_annotations(obs, DataSettings.model_validate({**COLUMNS, **data}))


def tiny_config(
    path: Path | None, *, split: Any = None, decoder: bool = False, **data: Any
) -> RunConfig:
    """The config of a run on tiny cells; without a split by name, replicates are held out."""
    return RunConfig.model_validate(
        {
            "data": {
                **COLUMNS,
                **({} if path is None else {"path": str(path)}),
                "cell_set_len": 8,
                **data,
            },
            "split": split or {"kind": "replicate"},
            "model": {"decoder": {"enable": decoder}},
        }
    )


def dense(matrix: Any) -> np.ndarray:
    """A matrix as a plain array."""
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)
