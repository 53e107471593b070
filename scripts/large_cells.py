"""`python scripts/large_cells.py --output big.h5ad --cells 1000000`: a file too large to hold.

Raw counts of simulated cells, written in blocks as a compressed sparse matrix, for trying what
`docs/large_data.md` describes at its true size. A cell is `molecules` draws of genes by the
frequencies of its type; in burned cells every tenth gene is three times as frequent.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

from wound_jax.data.h5ad_writer import new_h5ad, write_csr

BLOCK = 50_000
TYPES, DAYS, CONDITIONS, MICE = 10, (3, 7, 10), ("Burn", "Sham"), 4


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a file too large to hold.")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--molecules", type=int, default=260)
    arguments = parser.parse_args()
    write(arguments.output, arguments.cells, arguments.genes, arguments.molecules)
    return 0


def write(path: Path, n_cells: int, n_genes: int, molecules: int) -> None:
    rng = np.random.default_rng(0)
    obs, frequencies = labels(n_cells, rng), gene_frequencies(n_genes, rng)
    genes = [f"gene{i}" for i in range(n_genes)]
    burned = (obs["condition"] == "Burn").to_numpy().astype(int)
    kind = obs["cell_types_simple_short"].cat.codes.to_numpy()
    parts = [slice(i, min(i + BLOCK, n_cells)) for i in range(0, n_cells, BLOCK)]
    blocks = (
        counts(frequencies[kind[cells], burned[cells]], molecules, rng)
        for cells in tqdm(parts, unit="block")
    )
    with new_h5ad(path, obs, genes, {}) as file:
        write_csr(file, blocks, (n_cells, n_genes), compression="gzip")


def labels(n_cells: int, rng: np.random.Generator) -> pd.DataFrame:
    """Type, day, condition and mouse of each cell; mice are nested in a day and a condition."""
    day, arm = rng.integers(0, len(DAYS), n_cells), rng.integers(0, len(CONDITIONS), n_cells)
    mouse = rng.integers(0, MICE, n_cells)
    mice = [f"{c}_d{d}_m{m}" for d in DAYS for c in CONDITIONS for m in range(MICE)]
    code = (day * len(CONDITIONS) + arm) * MICE + mouse
    columns = {
        "condition": pd.Categorical.from_codes(arm, list(CONDITIONS)),
        "cell_types_simple_short": pd.Categorical.from_codes(
            rng.integers(0, TYPES, n_cells), [f"type{i}" for i in range(TYPES)]
        ),
        "timepoint": pd.Categorical.from_codes(day, [f"day{d}" for d in DAYS]),
        "mouse_id": pd.Categorical.from_codes(code, mice),
    }
    return pd.DataFrame(columns, index=pd.Index([f"cell{i}" for i in range(n_cells)]))


def gene_frequencies(n_genes: int, rng: np.random.Generator) -> np.ndarray:
    """Cumulative frequencies of the genes, `[types, arms, genes]`."""
    rate = rng.gamma(0.8, 1.0, n_genes) * rng.gamma(4.0, 0.25, (TYPES, 1, n_genes))
    shift = np.ones((1, 2, n_genes))
    shift[:, 1, ::10] = 3.0
    summed = np.cumsum(rate * shift, axis=2)
    return summed / summed[..., -1:]


def counts(summed: np.ndarray, molecules: int, rng: np.random.Generator) -> sp.csr_matrix:
    """Counts of cells with these cumulative frequencies, `[cells, genes]`."""
    n_cells, n_genes = summed.shape
    genes = np.empty((n_cells, molecules), np.int32)
    for row in range(n_cells):
        genes[row] = np.searchsorted(summed[row], rng.random(molecules))
    rows = np.repeat(np.arange(n_cells), molecules)
    ones = np.ones(genes.size, np.float32)
    found = sp.csr_matrix((ones, (rows, genes.ravel())), shape=(n_cells, n_genes))
    found.sum_duplicates()
    found.sort_indices()
    return found


if __name__ == "__main__":
    sys.exit(main())
