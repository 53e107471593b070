"""Scoring held-out cells: whose controls answer to whom, and what is left out is listed."""

import gc
import weakref

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from wound_jax.config import load_config
from wound_jax.data.annotations import ONE_TYPE
from wound_jax.data.prepare import PreparedData, prepare
from wound_jax.data.strata import PlannedStratum, plan_strata
from wound_jax.errors import UserError
from wound_jax.evaluation.reference import fit_reference
from wound_jax.evaluation.result import evaluate_model
from wound_jax.prediction.network import Predictor
from wound_jax.prediction.strata import predict_strata

N = 12
CONFIG = (
    "data.cell_type_col=cell_type",
    "data.timepoint_col=null",
    "data.replicate_col=donor",
    "data.match_on=[cell_type, replicate]",
    "data.cell_set_len=8",
    "split.kind=replicate",
    "split.test=[d3, d4, d5]",
    "split.val=[]",
    "evaluation.min_cells=10",
    "data.scale=trust",
)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    """Donors with both arms, but d4 without B controls; d5 has three cells of each arm of A."""
    rows = [
        (donor, condition, cell_type)
        for donor in ("d1", "d2", "d3", "d4")
        for condition in ("Burn", "Sham")
        for cell_type in ("A", "B")
        for _ in range(N)
        if (donor, condition, cell_type) != ("d4", "Sham", "B")
    ]
    rows += [("d5", condition, "C") for condition in ("Burn", "Sham") for _ in range(3)]
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(rows, columns=pd.Index(["donor", "condition", "cell_type"]))
    obs.index = [f"cell{i}" for i in range(len(obs))]
    x = rng.gamma(2.0, size=(len(obs), 20)).astype(np.float32)
    x[obs["condition"].to_numpy() == "Burn", :4] += 1.0
    path = str(tmp_path_factory.mktemp("paired") / "cells.h5ad")
    ad.AnnData(x, obs=obs).write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def paired(path) -> PreparedData:
    return prepare(load_config(None, [*CONFIG, f"data.path={path}"]))


class Identity(Predictor):
    """A predictor that leaves every control cell as it is."""

    def stream(self, cells, requests):
        for owner, request in enumerate(requests):
            yield owner, np.arange(len(request.controls)), cells.features[request.controls]


def test_a_reference_holds_no_cells_of_its_training_strata(paired, monkeypatch):
    """They are a copy of most of the data, and an evaluation holds other copies beside it."""
    strata, copy_out = [], PlannedStratum.cells

    def watched(planned, table):
        stratum = copy_out(planned, table)
        strata.append(weakref.ref(stratum))
        return stratum

    monkeypatch.setattr(PlannedStratum, "cells", watched)
    reference = fit_reference(paired, load_config(None, CONFIG).evaluation, seed=0)
    gc.collect()
    assert len(strata) == len(reference.taught.planned) > 0
    assert [stratum() for stratum in strata] == [None] * len(strata)


def test_groups_of_one_stratum_are_scored_together_and_the_rest_is_listed(paired):
    """Matching on the replicate makes one group a donor; a donor without controls is an orphan."""
    data = paired
    config = load_config(None, CONFIG).evaluation
    strata, small = plan_strata(data, config, "test")
    found = [(s.cell_type, len(s.groups), len(s.controls), len(s.targets)) for s in strata]
    assert found == [("A", 2, 2 * N, 2 * N), ("B", 1, N, N)]
    assert [(s.cell_type, len(s.controls), len(s.targets)) for s in small] == [
        ("B", 0, N),
        ("C", 3, 3),
    ]
    replicate = data.cells.annotations.replicate
    for stratum in strata:
        for group in stratum.groups:
            assert set(replicate[group.controls]) == set(replicate[group.targets])


def test_predictions_stand_in_the_order_of_the_controls(paired):
    data = paired
    strata, _ = plan_strata(data, load_config(None, CONFIG).evaluation, "test")
    for stratum, cells in zip(strata, predict_strata(Identity(), data.cells, strata), strict=True):
        np.testing.assert_array_equal(cells, data.cells.expression[stratum.controls])


def test_the_identity_scores_as_the_identity_baseline(paired):
    data = paired
    config = load_config(None, CONFIG).evaluation
    found = evaluate_model(Identity(), fit_reference(data, config, 0).held_out())
    result = found.figures
    assert [row["cell_type"] for row in result["strata"]] == ["A", "B"]
    assert [(row["cell_type"], row["n_control"]) for row in result["skipped"]] == [
        ("B", 0),
        ("C", 3),
    ]
    for row in result["strata"]:
        assert row["timepoint"] is None
        np.testing.assert_equal(row["model"], row["baselines"]["identity"])
        assert row["model"]["e_distance_ratio"] == pytest.approx(1.0)
    assert result["split"]["replicates"] == ["d3", "d4", "d5"]
    assert result["split"]["n_replicates"] == 3
    assert len(found.strata) == len(found.predicted) == 2
    assert found.draws.units == result["uncertainty"]["units"]


def test_cells_without_a_column_of_types_are_one_stratum_a_condition(path):
    config = load_config(None, [*CONFIG, f"data.path={path}", "data.cell_type_col=null"])
    data = prepare(config)
    found = evaluate_model(Identity(), fit_reference(data, config.evaluation, 0).held_out())
    (row,) = found.figures["strata"]
    assert (row["cell_type"], row["timepoint"], row["perturbation"]) == (ONE_TYPE, None, "Burn")
    # The B cells of d4 have no B control, but controls.
    assert (row["n_control"], row["n_treated"]) == (3 * N + 3, 4 * N + 3)
    assert np.isnan(row["model"]["type_retrieval"])


def test_too_few_cells_everywhere_names_the_largest_stratum(paired):
    data = paired
    config = load_config(None, [*CONFIG, "evaluation.min_cells=30"]).evaluation
    with pytest.raises(UserError) as error:
        plan_strata(data, config, "test")
    assert str(error.value) == (
        "no stratum of the test cells has evaluation.min_cells=30 cells in both arms (largest: A, "
        "24 control and 24 treated cells); lower it, or hold out more."
    )
    with pytest.raises(UserError, match=r"the val cells has .* \(largest: there are none\)"):
        plan_strata(data, config, "val")
