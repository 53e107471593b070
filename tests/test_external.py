"""Cells of another file, scored with a trained model."""

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from tiny import dense, tiny_adata, tiny_config, write

from wound_jax.data.groups import Group
from wound_jax.data.prepare import prepare, read_external
from wound_jax.errors import UserError

pytestmark = pytest.mark.quick

COUNTS: dict[str, Any] = {"input": "layers/counts", "preprocess": "log1p_cp10k"}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tiny_adata(), tmp_path_factory.mktemp("cells"))


def external_cells(names: list[str], conditions: tuple[str, str] = ("burn", "sham")) -> ad.AnnData:
    """Cells of other mice and a day of their own, their genes under `names`."""
    adata = tiny_adata(seed=5)
    order = [int(name[4:]) for name in names if name.startswith("gene")]
    counts = np.hstack([dense(adata.layers["counts"])[:, order], np.ones((adata.n_obs, 1))])
    obs = pd.DataFrame(adata.obs).astype(str)
    obs["day"] = obs["day"].replace("d2", "d3")
    obs["mouse"] = "new_" + obs["mouse"]
    obs["treatment"] = obs["treatment"].replace(["burn", "sham"], list(conditions))
    var = pd.DataFrame(index=pd.Index([*[f"gene{i}" for i in order], "other"]))
    return ad.AnnData(obs=obs, var=var, layers={"counts": sp.csr_matrix(counts)})


def test_another_file_is_matched_by_name(path, tmp_path):
    config = tiny_config(path, n_hvg=9, exclude={"mouse": ["burn_d1_m1"]}, **COUNTS)
    data = prepare(config)
    straight = external_cells([f"gene{i}" for i in range(40)])
    shuffled = external_cells([f"gene{i}" for i in np.random.default_rng(0).permutation(40)])
    found = [
        read_external(str(write(adata, tmp_path)), config.data, data.spec)
        for adata in (straight, shuffled)
    ]
    counts = dense(straight.layers["counts"])[:, :40]
    expected = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    kept = [int(gene[4:]) for gene in data.spec.genes]
    np.testing.assert_allclose(found[0].cells.features[:], expected[:, kept], rtol=1e-6)
    assert np.array_equal(found[0].cells.features[:], found[1].cells.features[:])
    assert found[0].fingerprint == found[1].fingerprint
    groups, orphans = found[0].groups("test")
    assert (len(groups), orphans) == (4, [])
    codes = [data.spec.codes(group) for group in groups]
    assert [code.timepoint for code in codes] == [0, -1, 0, -1], "d3 was not in training"
    assert [code.time for code in codes] == [1.0, 3.0, 1.0, 3.0]
    assert found[0].split.shared_controls("test") == 0


def test_another_file_that_does_not_fit_is_an_error(path, tmp_path):
    config = tiny_config(path, **COUNTS)
    spec = prepare(config).spec
    fewer = str(write(external_cells([f"gene{i}" for i in range(1, 40)]), tmp_path))
    with pytest.raises(UserError, match=r"1 genes.*\(gene0\).*--missing zero"):
        read_external(fewer, config.data, spec)
    data = read_external(fewer, config.data, spec, missing="zero")
    assert (data.cells.features[:][:, 0] == 0).all()
    scald = external_cells([f"gene{i}" for i in range(40)], ("scald", "sham"))
    with pytest.raises(
        UserError, match=r"condition scald, but the model was trained on burn, sham"
    ):
        read_external(str(write(scald, tmp_path)), config.data, spec)
    left_out = config.data.model_copy(update={"exclude": {"treatment": ("scald",)}})
    with pytest.raises(UserError, match="all cells are 'sham' cells"):
        read_external(str(write(scald, tmp_path)), left_out, spec)


def test_a_group_of_a_condition_unknown_to_the_model_has_no_code(path):
    spec = prepare(tiny_config(path)).spec
    nobody = np.zeros(0, dtype=int)
    with pytest.raises(UserError, match=r"'scald'.*Known: burn, sham"):
        spec.codes(Group("B cell", "d1", "scald", nobody, nobody))
