"""The shipped quickstart, shrunk, trained twice in one folder: on genes and on the embedding."""

import atexit
import contextlib
import shutil
import tempfile
from functools import cache
from pathlib import Path

import anndata as ad
import numpy as np

from wound_jax import train
from wound_jax.config import load_config
from wound_jax.config.keys import value_at
from wound_jax.data.source import layer_names
from wound_jax.data.synthetic import simulate
from wound_jax.prediction.loaded_run import LoadedRun, load_run

QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
SHRUNK = [
    "name=tiny",
    "data.synthetic.n_cells=1200",
    "data.synthetic.n_genes=300",
    "data.synthetic.embedding_dim=16",
    "data.cell_set_len=32",
    "split.controls=shared",
    "model.hidden_dim=16",
    "model.layers=1",
    "model.heads=2",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "training.max_steps=6",
    "training.val_every=3",
    "training.log_every=2",
    "training.warmup_steps=2",
    "evaluation.min_cells=5",
    "evaluation.plots=false",
    # The network's own cells, which the tests compute again; test_predict_finished has the rest.
    "prediction.linear_weight=0",
    "prediction.shrink_controls=false",
    "prediction.round_to_counts=false",
]
EMBEDDING = [
    "data.input=obsm/X_state_baseline",
    "data.genes=X",
    "model.decoder.enable=true",
    "model.decoder.hidden_dims=[32]",
]


@cache
def folder() -> Path:
    """The working folder: `runs/tiny` is trained on genes, `runs/tiny-2` on the embedding."""
    path = Path(tempfile.mkdtemp(prefix="shrunk-runs-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    with contextlib.chdir(path):
        for changes in ([], EMBEDDING):
            arguments = ["--config", str(QUICKSTART), "--no-progress", *SHRUNK, *changes]
            assert train.main(arguments) == 0
    return path


@cache
def loaded(name: str) -> LoadedRun:
    """One of the trained runs, opened."""
    return load_run(folder() / "runs" / name)


@cache
def _cells() -> ad.AnnData:
    return simulate(value_at(load_config(QUICKSTART, SHRUNK), "data.synthetic")).adata


def cells(n: int = 240) -> ad.AnnData:
    """A sample of the cells, in no order, without what no command reads."""
    whole = _cells()
    chosen = np.random.default_rng(0).permutation(whole.n_obs)[:n]
    part = whole[chosen].copy()
    for name in layer_names(part):
        del part.layers[name]
    return part
