"""`wound_jax.velocity add --method encoder`: velocity through the derivative of an encoder."""

import sys

import anndata as ad
import numpy as np
import pytest

from wound_jax.velocity import main

pytestmark = pytest.mark.quick

ENCODER = """
import jax.numpy as jnp

W = jnp.linspace(-1.0, 1.0, 18).reshape(6, 3)

def encode(x):
    return jnp.tanh(x @ W)

def another(x):
    return -jnp.tanh(x @ W)

def narrow(x):
    return x[:, :1]
"""


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """A file with expression, velocity and an encoded representation; the encoder as a module."""
    (tmp_path / "my_encoder.py").write_text(ENCODER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_encoder", raising=False)
    rng = np.random.default_rng(0)
    x, v = rng.normal(0, 0.5, (40, 6)), rng.normal(size=(40, 6))
    adata = ad.AnnData(x.astype(np.float32), layers={"velocity": v.astype(np.float32)})
    weights = np.linspace(-1.0, 1.0, 18).reshape(6, 3)
    adata.obsm["X_encoded"] = np.tanh(x @ weights).astype(np.float32)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    expected = (1 - np.tanh(x @ weights) ** 2) * (v @ weights)
    return tmp_path, expected


def _add(folder, *options):
    return main(
        ["add", "--input", str(folder / "cells.h5ad"), "--output", str(folder / "out.h5ad"),
         "--rep", "X_encoded", "--neighbours", "5", *options]
    )  # fmt: skip


def test_the_projection_is_the_derivative_in_the_direction_of_the_velocity(cells):
    folder, expected = cells
    assert _add(folder, "--method", "encoder", "--encoder", "my_encoder:encode") == 0
    found = ad.read_h5ad(folder / "out.h5ad").obsm["velocity_X_encoded"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "encoder"], "needs the encoder: add --encoder MODULE:FUNCTION"),
        (["--encoder", "my_encoder:encode"], "--encoder belongs to --method encoder"),
        (["--method", "encoder", "--encoder", "nowhere:f"], "No module named 'nowhere'"),
        (["--method", "encoder", "--encoder", "my_encoder:f"], "has no attribute 'f'"),
        (["--method", "encoder", "--encoder", "my_encoder:another"], "correlation -1.00"),
        (
            ["--method", "encoder", "--encoder", "my_encoder:narrow"],
            "shape (40, 1) against (40, 3)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(cells, options, message, capsys):
    assert _add(cells[0], *options) == 2
    assert message in capsys.readouterr().err
    assert not (cells[0] / "out.h5ad").exists()
