"""The leave-one-out from end to end: folds, scores, ensembles, tables, and going on."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import shrunk_runs

from wound_jax import leave_one_out
from wound_jax.config.keys import value_at
from wound_jax.data.prepare import prepare
from wound_jax.errors import UserError
from wound_jax.evaluation.metrics import score_all
from wound_jax.evaluation.reference import fit_reference
from wound_jax.experiments.figures import FoldFigures, FoldScores
from wound_jax.experiments.plan import plan_folds
from wound_jax.experiments.scores import METRICS, VariantScores
from wound_jax.experiments.spec import load_leave_one_out
from wound_jax.experiments.tables import render_folds
from wound_jax.prediction.loaded_run import load_run
from wound_jax.prediction.network import Ensemble
from wound_jax.prediction.strata import of_model

pytestmark = pytest.mark.usefixtures("light_scores")

LABELS = ["Fib", "Ker"]
CHANGES = [
    *(text for text in shrunk_runs.SHRUNK if not text.startswith(("name", "split"))),
    "data.source=synthetic",
    # Enough that five types can be learnt from.
    "data.synthetic.n_cells=2000",
    "prediction.linear_weight=auto",
    "prediction.across_genes=true",
    "prediction.round_to_counts=true",
]


def write_spec(folder: Path, **more) -> Path:
    path = folder / "folds.yaml"
    content = {
        "name": "made",
        "leave_out": "cell_type",
        "labels": LABELS,
        "seeds": [1, 2],
        "overrides": CHANGES,
        "variants": {"full": {}},
    }
    path.write_text(json.dumps(content | more))
    return path


def run(folder: Path, *arguments: str) -> int:
    spec = ["--config", str(folder / "folds.yaml"), "--output", str(folder / "out")]
    return leave_one_out.main([*spec, "--no-progress", *arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished leave-one-out of two types and two seeds; do not change it."""
    folder = tmp_path_factory.mktemp("folds")
    write_spec(folder)
    assert run(folder) == 0
    return folder / "out"


def test_every_fold_holds_out_its_label_alone(made):
    for label, other in zip(LABELS, reversed(LABELS), strict=True):
        loaded = load_run(made / label / "runs" / "full" / "seed-1")
        assert loaded.config.split.kind == "celltype"
        assert value_at(loaded.config, "split.test") == (label,)
        assert value_at(loaded.config, "split.val") is None
        data = prepare(loaded.config, loaded.spec)
        trained = set(data.cells.annotations.cell_type[data.split.treated["train"]])
        assert label not in trained
        assert other in trained


def test_scores_are_those_of_the_runs_and_of_their_mean_cells(made):
    folders = [made / "Fib" / "runs" / "full" / f"seed-{seed}" for seed in (1, 2)]
    loaded = [load_run(folder) for folder in folders]
    config = loaded[0].config
    data = prepare(config, loaded[0].spec)
    reference = fit_reference(data, config.evaluation, config.split.seed)
    held_out = reference.held_out("test")
    networks = [of_model(one.predictor) for one in loaded]
    cells = [network(data, held_out.planned) for network in networks]
    ensemble = Ensemble([one.predictor for one in loaded])
    averaged = of_model(ensemble)(data, held_out.planned)
    for both, mean in zip(zip(*cells, strict=True), averaged, strict=True):
        np.testing.assert_allclose(mean, (both[0] + both[1]) / 2, rtol=1e-6)
    scores = VariantScores.load(made / "Fib" / "runs" / "full" / "scores.json")
    found = [score_all(held_out.strata, one, reference.context) for one in [*cells, averaged]]
    tables = [scores.seeds[0]["network"], scores.seeds[1]["network"], scores.together["ensemble"]]
    for rows, table in zip(found, tables, strict=True):
        expected = np.mean([row["pearson_delta"] for row in rows])
        assert table["pearson_delta"] == pytest.approx(expected, rel=1e-6)
    assert scores.rules_weight == 0.5


def test_the_tables_hold_every_method_and_fold(made):
    with (made / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["cell_type"] for row in rows} == set(LABELS)
    methods = {row["method"] for row in rows}
    ends = ["", " + linear", " + genes"]
    forms = {f"full: {name}" for name in ("network", "genes alone", "genes alone + zeros")}
    forms |= {f"full: ensemble{end}{zeros}" for end in ends for zeros in ("", " + zeros")}
    assert forms | {"stacked_linear", "identity"} <= methods
    with (made / "figures.csv").open() as file:
        figures = {(row["method"], row["metric"]): row for row in csv.DictReader(file)}
    values = [
        float(row["value"])
        for row in rows
        if (row["method"], row["metric"]) == ("full: ensemble", "mse")
    ]
    assert float(figures["full: ensemble", "mse"]["value"]) == pytest.approx(np.mean(values))
    text = (made / "table.txt").read_text()
    assert "2 folds (cell types), 2 seeds" in text
    assert "variance_ratio" in text


def test_what_is_finished_is_not_done_again(made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("checkpoints/**/*")}
    assert run(made.parent) == 0
    assert "seeds 1, 2" not in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("checkpoints/**/*")}


def test_a_label_without_cells_names_the_nearest(tmp_path, capsys):
    write_spec(tmp_path, labels=["Fibb"])
    assert run(tmp_path) != 0
    assert "Did you mean 'Fib'" in capsys.readouterr().err


def test_the_split_is_not_for_the_user_to_set(tmp_path):
    path = write_spec(tmp_path)
    spec = load_leave_one_out(path)
    with pytest.raises(UserError, match="sets split"):
        plan_folds(spec, path, ["split.test=[Mac]"], tmp_path, LABELS)


def test_the_next_label_validates_where_asked_for(tmp_path):
    path = write_spec(tmp_path, validate_on_next=True)
    folds = plan_folds(load_leave_one_out(path), path, [], tmp_path, ["Fib", "Ker", "Mac"])
    assert [(fold.label, fold.validation) for fold in folds] == [
        ("Fib", "Ker"), ("Ker", "Mac"), ("Mac", "Fib"),
    ]  # fmt: skip
    assert value_at(folds[2].variants[0].config, "split.val") == ("Fib",)


def test_labels_of_any_script_are_held_out_in_folders_of_their_own(tmp_path):
    odd = [
        "it's",
        'a, b\n"c"',
        "../x",
        "..",
        "=1",
        "null",
        "1.0",
        "$x$",
        "日本",
        "\u0394/β",
        "x\x1b",
    ]
    path = write_spec(tmp_path, labels=odd, validate_on_next=True)
    folds = plan_folds(load_leave_one_out(path), path, [], tmp_path / "out", odd)
    for fold, label, follows in zip(folds, odd, [*odd[1:], odd[0]], strict=True):
        (config, *_) = fold.variants[0].runs.values()
        assert value_at(config, "split.test") == (label,)
        assert value_at(config, "split.val") == (follows,)
        assert fold.folder.resolve().parent == (tmp_path / "out").resolve()
    assert len({fold.folder for fold in folds}) == len(odd)


def table(pearson: float, mse: float) -> dict[str, float]:
    named = dict.fromkeys(METRICS, 0.5)
    return named | {"pearson_delta": pearson, "mse": mse, "e_distance_ratio": 1 - pearson}


def made_figures(n: int) -> FoldFigures:
    """Folds in which the network is ahead of one baseline by .1 and behind the other by .1."""
    folds = []
    for i in range(n):
        base = 0.5 + 0.02 * i
        seeds = tuple({"network": table(base + d, 0.3)} for d in (-0.01, 0.01))
        scores = VariantScores(seeds, {"ensemble": table(base, 0.3)}, None)
        baselines = {"good": table(base + 0.1, 0.2), "poor": table(base - 0.1, 0.4)}
        baselines["ceiling"] = table(0.9, 0.1)
        folds.append(FoldScores(f"type{i}", baselines, {"full": scores}))
    return FoldFigures("cell_type", folds)


def test_figures_are_means_over_folds_with_paired_differences():
    figures = made_figures(4)
    assert figures.draws.figure("full: network", "pearson_delta") == pytest.approx(0.53)
    assert figures.seed_sd("full: network", "pearson_delta") == pytest.approx(math.sqrt(2) * 0.01)
    assert figures.best_baseline("pearson_delta") == "good"
    assert figures.best_baseline("mse") == "good"
    gap = figures.draws.difference("full: ensemble", "good", "pearson_delta")
    # The same in every fold, so that pairing leaves nothing to vary.
    assert tuple(gap) == pytest.approx((-0.1, -0.1, -0.1))
    low, high = figures.draws.interval("full: ensemble", "pearson_delta")
    assert low < 0.53 < high
    assert figures.ceiling("pearson_delta") == pytest.approx(0.9)


def test_one_fold_has_figures_and_no_interval():
    figures = made_figures(1)
    assert math.isnan(figures.draws.interval("full: network", "pearson_delta")[0])
    assert "0.500" in render_folds(figures)
