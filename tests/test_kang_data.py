"""Real cells: PBMC of eight paired donors, control and interferon-beta (Kang et al. 2018)."""

from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from tiny import dense, tiny_config

from wound_jax.config.schema import RunConfig
from wound_jax.data.prepare import PreparedData, prepare
from wound_jax.data.splits import PARTS, split_table
from wound_jax.errors import UserError

pytestmark = pytest.mark.quick

COLUMNS = {
    "pert_col": "condition",
    "control": "ctrl",
    "cell_type_col": "cell_type",
    "timepoint_col": None,
    "replicate_col": "donor",
}
DONORS = {"101", "107", "1015", "1016", "1039", "1244", "1256", "1488"}
# Labels that were predicted for want of an annotator.
PREDICTED = {"label_source": ["predicted"]}


def kang(shared: Path, **config) -> RunConfig:
    path = shared / "data" / "kang_ifnb.h5ad"
    return tiny_config(path, **{**COLUMNS, "preprocess": "log1p_cp10k", **config})


@pytest.fixture(scope="module")
def by_donor(shared) -> PreparedData:
    split = {"kind": "replicate", "test": [101, 1256], "val": ["1488"]}
    return prepare(kang(shared, split=split, exclude=PREDICTED, n_hvg=1000))


@pytest.fixture(scope="module")
def by_type(shared) -> PreparedData:
    return prepare(kang(shared, split={"kind": "celltype", "test": ["B cells"]}))


def test_values_have_the_known_response(by_type):
    """Means of log-normalised expression over all cells, as the file's description gives them."""
    labels, genes = by_type.cells.annotations, by_type.spec.genes
    assert by_type.cells.features.shape == (5183, 9015)
    for gene, expected in (("ISG15", (0.60, 4.71)), ("IFIT1", (0.05, 2.78))):
        values = by_type.cells.features[:, genes.index(gene)]
        means = [float(values[labels.condition == c].mean()) for c in ("ctrl", "stim")]
        assert means == pytest.approx(expected, abs=0.005)


def test_held_out_donors_are_out_of_training_with_both_arms(by_donor):
    data, labels = by_donor, by_donor.cells.annotations
    assert len(labels) == 5183 - 599
    donors = {"test": {"101", "1256"}, "val": {"1488"}}
    donors["train"] = DONORS - donors["test"] - donors["val"]
    for part in PARTS:
        for cells in (data.split.treated[part], data.split.controls[part]):
            assert set(labels.replicate[cells]) == donors[part]
    assert not data.split.leaky
    assert set(data.spec.replicates.names) == donors["train"]
    assert set(labels.replicate[data.split.training_cells]) == donors["train"]


def test_variable_genes_are_those_of_scanpy_on_the_training_donors(by_donor, shared):
    adata = ad.read_h5ad(shared / "data" / "kang_ifnb.h5ad")
    labels = by_donor.cells.annotations
    adata = adata[labels.names[by_donor.split.training_cells]].copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=1000, flavor="seurat")
    assert by_donor.spec.genes == tuple(adata.var_names[adata.var["highly_variable"]])
    assert len(by_donor.spec.genes) == by_donor.cells.features.shape[1] == 1000
    assert {"ISG15", "IFIT1", "IFIT3", "CXCL10"} <= set(by_donor.spec.genes)
    found = by_donor.cells.features[by_donor.split.training_cells]
    expected = dense(adata[:, list(by_donor.spec.genes)].X)
    np.testing.assert_array_equal(found, expected)
    assert by_donor.spec.non_negative


def test_the_table_names_the_donors(by_donor):
    text = split_table(by_donor.split, by_donor.cells.annotations)
    assert text.splitlines()[-1].endswith(
        "0 of them shared with train; treated replicates: 101, 1256"
    )
    assert "\nCD14+ Monocytes, ctrl " in text
    assert "*" not in text


def test_a_held_out_type_trains_with_its_controls_and_never_its_treated_cells(by_type):
    data, labels = by_type, by_type.cells.annotations
    held_out = labels.cell_type == "B cells"
    stimulated = np.flatnonzero(held_out & (labels.condition == "stim"))
    controls = np.flatnonzero(held_out & (labels.condition == "ctrl"))
    assert (len(stimulated), len(controls)) == (270, 231)
    assert list(data.split.treated["test"]) == list(stimulated)
    training = set(data.split.training_cells)
    assert training >= set(controls)
    assert not training & set(stimulated)
    assert "B cells" not in data.spec.cell_types
    assert len(data.spec.cell_types) == 7
    (group,), orphans = data.groups("test")
    assert not orphans
    assert list(group.controls) == list(controls)


def test_training_sets_hold_the_other_types_matched(by_type, shared):
    labels = by_type.cells.annotations
    plan = by_type.plan_builder("train", kang(shared).data, seed=0).epoch(0)
    assert "B cells" not in set(labels.cell_type[plan.target[plan.target_mask]])
    visited = plan.target[plan.target_mask]
    assert sorted(visited) == list(by_type.split.treated["train"])
    for row in range(len(plan)):
        cells = plan.control[row][plan.control_mask[row]]
        types = {*labels.cell_type[cells], labels.cell_type[plan.target[row, 0]]}
        assert len(types) == 1
        assert set(labels.condition[cells]) == {"ctrl"}


def test_paired_donors_can_be_matched(shared):
    """Donors with ten cells in both arms, by type, as the file's description counts them."""
    config = kang(shared, split={"kind": "random", "test_fraction": 0.001, "val_fraction": 0.0},
                  match_on=["cell_type", "replicate"], n_hvg=10,
                  exclude={"cell_type": ["Dendritic cells", "Megakaryocytes"]})  # fmt: skip
    data = prepare(config)
    groups, _ = data.groups("train")
    labels = data.cells.annotations
    counts: dict[str, int] = {}
    for group in groups:
        assert set(labels.replicate[group.controls]) == {group.replicate}
        large = min(len(group.targets), len(group.controls)) >= 10
        counts[group.cell_type] = counts.get(group.cell_type, 0) + large
    assert counts == {
        "CD14+ Monocytes": 8,
        "CD4 T cells": 8,
        "CD8 T cells": 6,
        "B cells": 6,
        "FCGR3A+ Monocytes": 5,
        "NK cells": 4,
    }


def test_raw_counts_without_preprocessing_are_a_clear_error(shared):
    with pytest.raises(
        UserError, match=r"integer counts \(up to .*set data\.preprocess=log1p_cp10k"
    ):
        prepare(kang(shared, preprocess="none"))
