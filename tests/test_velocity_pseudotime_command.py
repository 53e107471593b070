"""`wound_jax.velocity add --from-pseudotime` and `diagnose` on what it wrote."""

import anndata as ad
import numpy as np
import pytest
from test_velocity_pseudotime import cells, curve

from wound_jax.config import RunConfig
from wound_jax.data.prepare import prepare
from wound_jax.data.velocity.pseudotime import PseudotimeOptions, add_pseudotime_velocity
from wound_jax.errors import UserError
from wound_jax.velocity import main


@pytest.fixture
def file(tmp_path):
    """A file with an embedding, a pseudotime, three replicates, and nothing of splicing."""
    time, expression, _ = curve(n=200)
    replicates = np.random.default_rng(8).choice(["m1", "m2", "m3"], 200)
    adata = cells(time, expression, replicate=replicates)
    adata.layers["counts"] = np.random.default_rng(9).poisson(2.0, adata.shape).astype(np.float32)
    adata.write_h5ad(tmp_path / "in.h5ad")
    return tmp_path


def add(folder, *options):
    files = ["--input", str(folder / "in.h5ad"), "--output", str(folder / "out.h5ad")]
    return main(["add", *files, *options])


def test_add_and_diagnose_by_the_command(file, capsys):
    options = ["--rep", "X", "--trust-scale", "--from-pseudotime", "--cell-type-col", "type"]
    assert add(file, *options, "--leave-out", "replicate=m3, m2") == 0
    shown = capsys.readouterr()
    written = ad.read_h5ad(file / "out.h5ad")
    expected = ad.read_h5ad(file / "in.h5ad")
    left_out = {"replicate": ("m3", "m2")}
    add_pseudotime_velocity(
        expected, PseudotimeOptions("X", groups="type", leave_out=left_out, trust_scale=True)
    )
    np.testing.assert_array_equal(written.layers["velocity"], expected.layers["velocity"])
    assert "no RNA velocity" in shown.err
    assert "no cell was left out" not in shown.err
    assert "treated_later" in shown.out
    columns = ["--rep", "X", "--trust-scale", "--control", "Sham", "--cell-type-col", "type"]
    assert main(["diagnose", "--input", str(file / "out.h5ad"), *columns]) == 0
    shown = capsys.readouterr()
    assert "Burn" in shown.out
    assert "no finding" in shown.err


def test_a_second_representation_may_follow_the_first(file, capsys):
    assert add(file, "--rep", "X_emb", "--from-pseudotime", "time") == 0
    assert "no cell was left out" in capsys.readouterr().err
    (file / "out.h5ad").rename(file / "in.h5ad")
    scaled = ["--rep", "layers/counts", "--preprocess", "log1p_cp10k", "--neighbours-in", "X_emb"]
    assert add(file, *scaled, "--from-pseudotime", "time", "--scheme", "hard") == 0
    written = ad.read_h5ad(file / "out.h5ad")
    assert {"velocity_X_emb"} <= set(written.obsm)
    assert np.isfinite(written.layers["velocity"]).all()
    # Genes were scaled to 10,000 and logged before they moved: no step exceeds log(1 + 10,000).
    assert 0 < np.abs(written.layers["velocity"]).max() < np.log(10_001)


def test_directions_made_with_held_out_cells_are_refused(file):
    split = {"kind": "replicate", "test": ["m3"], "val": ["m2"]}
    data = {"path": str(file / "out.h5ad"), "timepoint_col": None, "replicate_col": "replicate"}
    data |= {"cell_type_col": "type", "match_on": ["cell_type"], "scale": "trust"}
    config = RunConfig.model_validate({"data": data, "split": split, "velocity": {"enable": True}})
    options = ["--rep", "X", "--trust-scale", "--from-pseudotime", "--cell-type-col", "type"]
    assert add(file, *options, "--leave-out", "replicate=m3") == 0
    with pytest.raises(UserError, match="treated cells that the replicate split holds out"):
        prepare(config)
    (file / "out.h5ad").unlink()
    assert add(file, *options, "--leave-out", "replicate=m3,m2") == 0
    held_out = prepare(config).split.treated
    assert len(held_out["test"])
    assert len(held_out["val"])


KEY = ("--from-pseudotime", "time")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--leave-out", "replicate=m1"), "--leave-out belongs to --from-pseudotime"),
        ((*KEY, "--method", "graph"), "--method does not act with --from-pseudotime"),
        ((*KEY, "--log1p"), "--log1p does not act with --from-pseudotime"),
        ((*KEY, "--control", "Sham"), "--control does not act with a pseudotime that is given"),
        ((*KEY, "--preprocess", "none"), "--preprocess is for X and layers"),
        ((*KEY, "--leave-out", "replicate"), "expected COLUMN=VALUE[,VALUE]"),
        ((*KEY, "--leave-out", "mouse=m1"), "unknown obs column to leave cells out by 'mouse'"),
        ((*KEY, "--leave-out", "replicate=m9"), "unknown value of 'replicate' to leave out 'm9'"),
        ((*KEY, "--leave-out", "replicate=m1,m2,m3"), "leaves none of 200 cells"),
        ((*KEY, "--neighbours", "500"), "no cell has a direction"),
        (("--from-pseudotime", "tme"), "unknown obs column of pseudotime 'tme'. Did you mean"),
        (("--from-pseudotime", "replicate"), "obs['replicate'] must hold numbers"),
        (("--from-pseudotime",), "unknown obs column 'cell_types_simple_short'"),
        (("--from-pseudotime", "--cell-type-col", "type", "--control", "ctrl"), "'ctrl'"),
        ((*KEY, "--rep", "layers/counts"), "Here that setting is --preprocess"),
        ((*KEY, "--rep", "X_umap"), "unknown AnnData obsm key 'X_umap'"),
    ],
)
def test_mistakes_end_with_a_message_and_status_2(file, options, message, capsys):
    assert add(file, "--rep", "X_emb", *options) == 2
    assert message in capsys.readouterr().err
    assert not (file / "out.h5ad").exists()


def test_a_velocity_from_splicing_is_not_replaced(file, capsys):
    adata = ad.read_h5ad(file / "in.h5ad")
    adata.obsm["velocity_X_emb"] = adata.obsm["X_emb"]
    adata.obs["velocity_confidence"] = 0.5
    adata.write_h5ad(file / "in.h5ad")
    assert add(file, "--rep", "X_emb", *KEY) == 2
    assert "obsm/velocity_X_emb, obs/velocity_confidence" in capsys.readouterr().err
