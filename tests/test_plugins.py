"""README's "How to add", word for word, from a package outside the tree."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wound_jax.data.settings import SyntheticSettings
from wound_jax.data.synthetic import simulate

ROOT = Path(__file__).resolve().parents[1]
SHRUNK = [
    "data.cell_set_len=32", "model.hidden_dim=16", "model.layers=1", "model.heads=2",
    "model.encoder_layers=1", "model.decoder_layers=1", "training.max_steps=6",
    "training.max_epochs=null", "training.batch_size=4", "training.val_every=3",
    "training.log_every=2", "evaluation.min_cells=5", "evaluation.plots=false",
    "evaluation.bootstrap=100", "split.controls=shared",
]  # fmt: skip


def blocks() -> dict[str, str]:
    """The code blocks of the section, by the file that each names in its first line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## How to add")[2]
    found = re.findall(r"```(?:python|yaml)\n(# (\S+)\n.*?)```", text, re.DOTALL)
    return {name: code for code, name in found}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return python(folder, "-m", *arguments)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, text=True,
        capture_output=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A folder with the package, its config and its cells, and the run `run` that used them."""
    folder = tmp_path_factory.mktemp("lab")
    for name, code in blocks().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    cells = simulate(SyntheticSettings(n_cells=1200, n_genes=300, embedding_dim=16)).adata
    cells.write_zarr(folder / "cells.zarr")
    done = run(
        folder,
        "wound_jax.train",
        "--no-progress",
        "--config",
        "my_lab.yaml",
        "run_dir=run",
        *SHRUNK,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_section_has_every_kind_of_part():
    assert set(blocks()) == {
        *(f"my_lab/{n}.py" for n in ("losses", "backbones", "splits", "sources", "scores")),
        "my_lab.yaml",
    }


def test_every_part_acted(lab):
    shown = (lab / "run" / "config.yaml").read_text()
    for line in ("name: power", "power: 3.0", "kind: first_replicates", "held_out: 1",
                 "source: zarr_folder", "backbone: perceptrons"):  # fmt: skip
        assert line in shown, line
    figures = json.loads((lab / "run" / "eval" / "metrics.json").read_text())
    assert figures["split"]["kind"] == "first_replicates"
    for stratum in figures["strata"]:
        assert stratum["model"]["largest_error"] > 0.0
        assert stratum["baselines"]["half_delta"]["largest_error"] > 0.0


def test_the_option_of_the_loss_acts(lab):
    """Trained, not evaluated: the first figure tells."""
    records = (lab / "run" / "metrics.jsonl").read_text().splitlines()
    start = (
        "import sys; from wound_jax.config import load_config; from wound_jax.training import "
        "launch; launch.start(load_config(['my_lab.yaml'], sys.argv[1:]), progress_bar=False)"
    )
    done = python(lab, "-c", start, "run_dir=other", "loss.power=2", *SHRUNK)
    assert done.returncode == 0, done.stderr[-3000:]
    others = (lab / "other" / "metrics.jsonl").read_text().splitlines()
    first, other = json.loads(records[0]), json.loads(others[0])
    assert first["step"] == other["step"]
    key = next(key for key in first if key.endswith("loss"))
    assert first[key] != other[key]


def test_a_run_keeps_the_code_of_its_plugins(lab):
    record = json.loads((lab / "run" / "provenance.json").read_text())
    modules = {one["module"]: one for one in record["plugins"]}
    assert "my_lab.losses" in modules
    assert len(modules["my_lab.losses"]["blake2"]) >= 32
    done = run(lab, "wound_jax.evaluate", "run", "--part", "test", "--output", "again",
               "evaluation.plots=false")  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads((lab / "again" / "metrics.json").read_text())
    before = json.loads((lab / "run" / "eval" / "metrics.json").read_text())
    assert again["summary"]["model"] == before["summary"]["model"]
    assert "half_delta" in again["strata"][0]["baselines"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("plugins=[my_lab.nothing]", "my_lab.nothing"),
        ("loss.name=powr", "power"),
        ("loss.power=-1", "loss.power"),
        ("split.kind=first_replicate", "first_replicates"),
        ("loss.strength=2", "loss.strength"),
    ],
)
def test_mistakes_are_one_message_before_anything_is_read(lab, override, message):
    done = run(lab, "wound_jax.train", "--config", "my_lab.yaml", "run_dir=never", override)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert message in done.stderr
    assert not (lab / "never").exists()
