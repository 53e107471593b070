"""The command from end to end: trains what is missing, compares, refuses, and goes on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_run

from wound_jax import compare
from wound_jax.config import load_config
from wound_jax.errors import UserError
from wound_jax.experiments import schedule
from wound_jax.files import read_record, write_record
from wound_jax.prediction.loaded_run import load_run
from wound_jax.training.log import read_metrics
from wound_jax.training.loop import HeldInterrupt

N_STEPS = 6
SHARED = [
    *tiny_run.TINY, "training.max_epochs=null", f"training.max_steps={N_STEPS}",
    "training.val_every=3", "training.log_every=2", "evaluation.min_cells=5",
    "evaluation.plots=false",
]  # fmt: skip
VARIANTS = "  full:\n  small: {overrides: [model.mlp_dim=8]}\n"


def write_spec(folder: Path, variants: str = VARIANTS, seeds=(1, 2), **more) -> Path:
    path = folder / "compare.yaml"
    lines = [f"{key}: {json.dumps(value)}" for key, value in more.items()]
    overrides = "\n".join(f"  - {text}" for text in SHARED)
    path.write_text(
        f"name: made\nseeds: {list(seeds)}\n" + "\n".join(lines) + f"\noverrides:\n{overrides}\n"
        f"variants:\n{variants}"
    )
    return path


def run(folder: Path, *arguments: str) -> int:
    output = ["--output", str(folder / "out"), "--no-progress"]
    return compare.main(["--config", str(folder / "compare.yaml"), *output, *arguments])


def records(folder: Path) -> list[dict]:
    return [
        {name: v for name, v in record.items() if name != "train/cells_per_second"}
        for record in read_metrics(folder)
    ]


RUNS = [f"runs/{name}/seed-{seed}" for name in ("full", "small") for seed in (1, 2)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished comparison of two variants and two seeds; do not change it."""
    folder = tmp_path_factory.mktemp("made")
    write_spec(folder)
    assert run(folder) == 0
    return folder


@pytest.fixture
def copied(made, tmp_path):
    """A copy to change. Its runs know their folder by name, so the file moves with them."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def unfinish(run_folder: Path, *, steps: bool = False) -> None:
    """A run as it would be left by a crash: before its evaluation, or before its first state."""
    record = read_record(run_folder / "provenance.json")
    del record["finished"]
    write_record(run_folder / "provenance.json", record)
    shutil.rmtree(run_folder / "eval")
    if steps:
        shutil.rmtree(run_folder / "checkpoints" / "last")
        write_record(run_folder / "checkpoints" / "saved.json", {})


def test_every_run_is_complete_by_itself(made):
    out = made / "out"
    for name in RUNS:
        folder = out / name
        assert (folder / "eval" / "metrics.json").is_file()
        assert (folder / "split.txt").is_file()
        loaded = load_run(folder)
        assert loaded.config.seed == int(name[-1])
        assert loaded.config.run_dir == str(folder)
        logged = read_metrics(folder)
        assert [r["step"] for r in logged if "train/loss" in r] == list(range(1, N_STEPS + 1))
        provenance = json.loads((folder / "provenance.json").read_text())
        assert provenance["training_seconds"] > 0
        assert provenance["finished"]
    first, second = (records(out / name) for name in RUNS[:2])
    assert first[1]["train/loss"] != second[1]["train/loss"]


def test_the_folder_and_its_tables(made):
    out = made / "out"
    assert {p.name for p in out.iterdir()} >= {
        "comparison.json", "comparison.csv", "differences.csv", "strata.csv", "table.txt", "runs",
        "report.html",
    }  # fmt: skip
    content = json.loads((out / "comparison.json").read_text())
    assert [(v["name"], v["runs"]) for v in content["variants"]] == [
        ("full", RUNS[:2]),
        ("small", RUNS[2:]),
    ]
    assert content["variants"][1]["diff"] == {"model.mlp_dim": ["null", "8"]}
    row = content["table"][0]
    scores = [
        json.loads((out / name / "eval" / "metrics.json").read_text())["summary"]["model"]
        for name in RUNS[:2]
    ]
    values = [score[row["metric"]] for score in scores]
    np.testing.assert_allclose(row["model"], np.mean(values))
    np.testing.assert_allclose(row["model_sd"], np.std(values, ddof=1))
    differences = (out / "differences.csv").read_text().splitlines()
    assert any(",small,variant,full," in line for line in differences)


def test_finished_runs_are_left_as_they_are(made, capsys, monkeypatch):
    def refuse(*given, **more):
        raise AssertionError("nothing is to be trained, no cells are to be read")

    monkeypatch.setattr("wound_jax.experiments.schedule.train_job", refuse)
    monkeypatch.setattr("wound_jax.experiments.cells.prepare", refuse)
    table = (made / "out" / "table.txt").read_text()
    assert run(made) == 0
    out, err = capsys.readouterr()
    assert "small:\n  model.mlp_dim: null -> 8\n" in out
    assert out.endswith(table)
    assert "full: 2 of 2 seeds finished before" in err


def test_interrupted_it_goes_on_where_it_was(made, tmp_path, capsys, monkeypatch):
    """Ctrl-C in the fourth step of two runs that train together."""
    write_spec(tmp_path, "  full:\n")
    checks = iter(range(1, 1000))

    def press(self):
        if next(checks) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HeldInterrupt, "check", press)
        assert run(tmp_path) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert run(tmp_path) == 0
    assert "[1-2/2] full: seeds 1, 2 together, from step 4\n" in capsys.readouterr().err
    for name in RUNS[:2]:
        assert records(tmp_path / "out" / name) == records(made / "out" / name)
        assert "resumed" in json.loads((tmp_path / "out" / name / "provenance.json").read_text())


def test_broken_runs_go_on_and_seeds_apart_reach_the_same(copied, made, capsys):
    """One seed stands at its end, the other at its start: they train by themselves."""
    # The runs are named from where the file is now.
    for name in RUNS:
        path = copied / "out" / name / "config.yaml"
        path.write_text(path.read_text().replace(str(made), str(copied)))
    unfinish(copied / "out" / RUNS[0])
    unfinish(copied / "out" / RUNS[1], steps=True)
    assert run(copied) == 0
    err = capsys.readouterr().err
    assert f"[1/4] full: seed 1, from step {N_STEPS}\n" in err
    assert "[2/4] full: seed 2\n" in err
    assert "small: 2 of 2 seeds finished before" in err
    assert records(copied / "out" / RUNS[0]) == records(made / "out" / RUNS[0])
    pair = [records(folder / "out" / RUNS[1]) for folder in (copied, made)]
    for one, other in zip(*pair, strict=True):
        for key in {"step", "train/loss", "val/loss"} & set(other):
            np.testing.assert_allclose(one[key], other[key], rtol=1e-5)


def test_a_run_that_diverges_is_left_out_and_named(tmp_path, capsys):
    write_spec(
        tmp_path, "  full:\n  wild: {overrides: [training.learning_rate=1e30]}\n", seeds=(1,)
    )
    assert run(tmp_path) == 1
    out, err = capsys.readouterr()
    assert "wild, seed 1 failed: " in err
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [v["name"] for v in content["variants"]] == ["full"]
    assert any(line.startswith("wild, seed 1 failed: ") for line in content["warnings"])
    assert "! wild, seed 1 failed" in out


def test_seeds_whose_common_program_fails_train_alone(tmp_path, capsys, monkeypatch):
    write_spec(tmp_path, "  full:\n")

    def fail(*given):
        raise UserError("train/loss is nan at step 2")

    monkeypatch.setattr(schedule, "_train_together", fail)
    assert run(tmp_path) == 0
    err = capsys.readouterr().err
    assert "full: together they failed: train/loss is nan at step 2" in err
    assert (tmp_path / "out" / RUNS[1] / "eval" / "metrics.json").is_file()


@pytest.mark.parametrize(
    ("override", "aspect"),
    [("split.seed=7", "split"), ("data.n_hvg=200", "genes")],
)
def test_variants_on_other_ground_are_refused_before_anything_trains(
    tmp_path, capsys, override, aspect
):
    write_spec(tmp_path, f"  full:\n  other: {{overrides: [{override}]}}\n", seeds=(1,))
    assert run(tmp_path) == 2
    err = capsys.readouterr().err
    assert f"full and other differ in their {aspect}: " in err
    assert f"give --allow-different {aspect}" in err
    assert not (tmp_path / "out").exists()


def test_finished_runs_by_folder(made, tmp_path, capsys):
    runs = [str(made / "out" / name) for name in RUNS]
    output = ["--output", str(tmp_path / "beside")]
    assert compare.main([*runs, *output]) == 0
    out, _ = capsys.readouterr()
    assert "small:\n  model.mlp_dim: null -> 8\n" in out
    found, expected = (
        json.loads((folder / "comparison.json").read_text())
        for folder in (tmp_path / "beside", made / "out")
    )
    assert found["table"] == expected["table"]
    assert found["variants"][0]["runs"] == runs[:2]


def test_runs_that_cannot_be_compared(copied, capsys):
    runs = [copied / "out" / name for name in RUNS[::2]]
    changed = load_config(runs[1] / "config.yaml", ["split.seed=7"])
    path = runs[1] / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("  seed: 42", "  seed: 7"))
    assert load_config(path).split == changed.split
    assert compare.main(list(map(str, runs))) == 2
    assert "differ in their split: split.seed is 42 and 7." in capsys.readouterr().err
    path.write_text(text)
    result = json.loads((runs[1] / "eval" / "metrics.json").read_text())
    result["strata"][0]["n_treated"] += 1
    (runs[1] / "eval" / "metrics.json").write_text(json.dumps(result))
    assert compare.main(list(map(str, runs))) == 2
    assert "strata were scored, not the same" in capsys.readouterr().err
    unfinish(runs[1])
    assert compare.main(list(map(str, runs))) == 2
    assert "is not finished, expected a trained and evaluated run" in capsys.readouterr().err
