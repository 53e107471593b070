"""What an evaluation leaves for pictures: changes by gene, the map of the cells, all files."""

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wound_jax.config import load_config
from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.evaluation.context import fit_context
from wound_jax.evaluation.files import Deltas, best_baseline, mean_deltas, write_report
from wound_jax.evaluation.mixing import CellMap, ProjectedStratum, _thin, fit_cell_map
from wound_jax.evaluation.result import Result
from wound_jax.evaluation.scorecard import scorecard
from wound_jax.evaluation.table import summarise
from wound_jax.evaluation.uncertainty import Draws

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)
GENES = ("Tnf", "Il6", "Arg1")
STRATA = [
    Stratum(
        cell_type,
        timepoint,
        RNG.gamma(1.0, size=(40, 3)).astype(np.float32),
        RNG.gamma(2.0, size=(30, 3)).astype(np.float32),
        "Burn",
    )
    for cell_type, timepoint in (("Fib", "day10"), ("Mac", None))
]
PREDICTIONS = [stratum.control + np.float32(0.25) for stratum in STRATA]


class Delta:
    """A baseline that adds one half."""

    @classmethod
    def fit(cls, training: Any, non_negative: bool) -> "Delta":
        return cls()

    def predict(self, stratum: Stratum) -> np.ndarray:
        return stratum.control + np.float32(0.5)


def scores(value: float) -> dict[str, float]:
    return {
        "pearson_delta": value,
        "pearson_delta_top100": value,
        "mse": 1 - value,
        "e_distance_ratio": 1 - value,
    }


def make_result() -> dict[str, Any]:
    strata = [
        {
            "cell_type": stratum.cell_type,
            "timepoint": stratum.timepoint,
            "n_control": stratum.n_control,
            "n_treated": stratum.n_treated,
            "model": scores(0.7) | {"mse": math.nan},
            "baselines": {"low": scores(0.2), "shift": scores(0.5)},
        }
        for stratum in STRATA
    ]
    split = {"kind": "replicate", "leaky": False, "n_replicates": 2}
    return {"split": split, "strata": strata, "summary": summarise(strata)}


def test_deltas_are_differences_of_means_and_survive_the_disk(tmp_path):
    mean_deltas(STRATA, PREDICTIONS, GENES, "shift", Delta()).save(tmp_path / "deltas.npz")
    deltas = Deltas.load(tmp_path / "deltas.npz")
    assert deltas.genes.tolist() == list(GENES)
    assert deltas.strata.tolist() == ["Fib | day10 | Burn", "Mac | Burn"]
    assert deltas.cell_type.tolist() == ["Fib", "Mac"]
    assert deltas.timepoint.tolist() == ["day10", ""]
    assert deltas.baseline_name == "shift"
    for i, stratum in enumerate(STRATA):
        control, treated = stratum.control.astype(float), stratum.treated.astype(float)
        np.testing.assert_allclose(deltas.control_mean[i], control.mean(0), rtol=1e-6)
        np.testing.assert_allclose(
            deltas.true_delta[i], treated.mean(0) - control.mean(0), rtol=1e-5
        )
    np.testing.assert_allclose(deltas.predicted_delta, 0.25, rtol=1e-5)
    np.testing.assert_allclose(deltas.baseline_delta, 0.5, rtol=1e-5)
    assert {deltas.true_delta.dtype, deltas.predicted_delta.dtype} == {np.dtype(np.float32)}


def test_gene_names_must_belong_to_the_cells():
    with pytest.raises(UserError, match="2 gene names for cells of 3 genes"):
        mean_deltas(STRATA, PREDICTIONS, GENES[:2], "shift", Delta())


def test_the_best_baseline_is_that_of_the_bootstrap_else_of_the_means():
    result = make_result()
    assert best_baseline(result) == "shift"
    result["summary"]["baselines"]["shift"]["pearson_delta"] = math.nan
    assert best_baseline(result) == "low"
    result["summary"]["baselines"]["low"]["pearson_delta"] = None
    result["summary"]["baselines"]["shift"]["pearson_delta"] = -0.5
    assert best_baseline(result) == "shift"
    result["uncertainty"] = {"differences": {"pearson_delta": {"best_baseline": "low"}}}
    assert best_baseline(result) == "low"


def test_thinning_keeps_rare_groups():
    rng = np.random.default_rng(0)
    assert len(_thin(np.zeros((1000, 2)), 0.1, rng)) == 100
    assert len(_thin(np.zeros((3, 2)), 0.1, rng)) == 1
    assert len(_thin(np.zeros((0, 2)), 0.1, rng)) == 0


@pytest.fixture(scope="module")
def samples() -> list[ProjectedStratum]:
    rng = np.random.default_rng(0)
    return [
        ProjectedStratum(
            name,
            rng.normal(size=(60, 8)) + center,
            rng.normal(size=(50, 8)) + center + 4.0,
            rng.normal(size=(60, 8)) + center + 4.0,
        )
        for name, center in (("Fib", 0.0), ("Mac", 25.0))
    ]


def test_the_map_keeps_types_apart_and_predictions_with_their_targets(samples, tmp_path):
    fit_cell_map(samples, seed=0).save(tmp_path / "umap.npz")
    found = CellMap.load(tmp_path / "umap.npz")
    assert (len(found.control), len(found.treated), len(found.predicted)) == (120, 100, 120)
    for name in ("Fib", "Mac"):
        predicted = np.median(found.predicted[found.predicted_type == name], axis=0)
        gaps = {
            other: np.linalg.norm(
                predicted - np.median(found.treated[found.treated_type == other], 0)
            )
            for other in ("Fib", "Mac")
        }
        assert min(gaps, key=lambda other: gaps[other]) == name


def test_the_map_is_a_function_of_the_seed_and_holds_no_more_cells_than_asked(samples):
    one, other = (fit_cell_map(samples, seed=1, max_cells=120) for _ in range(2))
    np.testing.assert_array_equal(one.predicted, other.predicted)
    assert sum(len(part) for part in (one.control, one.treated, one.predicted)) <= 120
    assert set(one.predicted_type) == {"Fib", "Mac"}


def write(tmp_path, plots: bool, genes: tuple[str, ...]) -> set[str]:
    cells = np.concatenate([arm for one in STRATA for arm in (one.control, one.treated)])
    context = fit_context(STRATA, cells, n_pcs=3, n_top_genes=3, seed=0)
    draws = Draws(
        methods=("model", "low", "shift"), metrics=("pearson_delta",), units="replicates",
        n_units=2,
        degrees=1, note="made", fingerprint="f", values=np.zeros((3, 1, 5)), point=np.zeros((3, 1)),
    )  # fmt: skip
    result = make_result()
    result["scorecard"] = scorecard(result)
    found = Result(result, tuple(STRATA), tuple(PREDICTIONS), draws, genes)
    reference: Any = SimpleNamespace(context=context, baselines={"low": Delta(), "shift": Delta()})
    config = load_config(None, ["data.source=synthetic", f"evaluation.plots={plots}".lower()])
    text = write_report(tmp_path / "eval", found, reference, config)
    assert (tmp_path / "eval" / "table.txt").read_text() == text + "\n"
    assert "pearson_delta" in text
    return {path.name for path in (tmp_path / "eval").iterdir()}


def test_all_files_of_an_evaluation(tmp_path):
    names = write(tmp_path, True, GENES)
    assert names == {
        "metrics.json", "table.txt", "bootstrap.npz", "deltas.npz", "umap.npz",
    }  # fmt: skip
    assert Deltas.load(tmp_path / "eval" / "deltas.npz").baseline_name == "shift"
    assert len(CellMap.load(tmp_path / "eval" / "umap.npz").treated) == 60
    assert Draws.load(tmp_path / "eval" / "bootstrap.npz").note == "made"
    result = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert result["strata"][0]["model"]["mse"] is None, "strict JSON has no NaN"


def test_an_embedding_has_no_genes_and_pictures_can_be_off(tmp_path):
    assert write(tmp_path, False, ()) == {"metrics.json", "table.txt", "bootstrap.npz"}
