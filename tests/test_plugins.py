"""README's "How to add", word for word, from a package outside the tree."""

import json
import os
import re
import subprocess
import sys
import tomllib
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
    found = re.findall(r"```(?:python|yaml|toml)\n(# (\S+)\n.*?)```", text, re.DOTALL)
    return {name: code for code, name in found}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return python(folder, "-m", *arguments)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, text=True,
        capture_output=True, check=False,
    )  # fmt: skip


def install(folder: Path) -> None:
    """What pip leaves of a package: its name, and the entry points of its pyproject.toml."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    (groups,) = project["entry-points"].items()
    information = folder / "my_lab-1.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my_lab\nVersion: 1.2\n")
    (information / "top_level.txt").write_text("my_lab\n")
    points = "".join(f"{name} = {module}\n" for name, module in groups[1].items())
    (information / "entry_points.txt").write_text(f"[{groups[0]}]\n{points}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A folder with the package, its config and its cells, and the run `run` that used them."""
    folder = tmp_path_factory.mktemp("lab")
    for name, code in blocks().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    install(folder)
    cells = simulate(SyntheticSettings(n_cells=1200, n_genes=300, embedding_dim=16)).adata
    cells.write_zarr(folder / "cells.zarr")
    cells.write_h5ad(folder / "cells.h5ad")
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
        *(
            f"my_lab/{kind}.py"
            for kind in ("losses", "backbones", "splits", "sources", "scores", "optimizers")
        ),
        "my_lab.yaml",
        "pyproject.toml",
    }


def test_every_part_acted(lab):
    shown = (lab / "run" / "config.yaml").read_text()
    for line in ("name: power", "power: 3.0", "kind: first_replicates", "held_out: 1",
                 "source: zarr_folder", "backbone: perceptrons", "optimizer: momentum",
                 "momentum: 0.8"):  # fmt: skip
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
    assert modules["my_lab.optimizers"]["version"] == "1.2", "named by an entry point alone"
    done = run(lab, "wound_jax.evaluate", "run", "--part", "test", "--output", "again",
               "evaluation.plots=false")  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads((lab / "again" / "metrics.json").read_text())
    before = json.loads((lab / "run" / "eval" / "metrics.json").read_text())
    assert again["summary"]["model"] == before["summary"]["model"]
    assert "half_delta" in again["strata"][0]["baselines"]


def test_every_other_command_takes_them(lab):
    """In one process: what differs between commands is how they come to the parts."""
    mine = {"extends": "my_lab.yaml"}
    plan = {
        "name": "study",
        "seeds": [1],
        "overrides": [*SHRUNK, "split.held_out=2", "training.max_steps=1", "training.val_every=1"],
        "variants": {"cubes": mine, "squares": {**mine, "overrides": ["loss.power=2"]}},
    }
    (lab / "compare.yaml").write_text(json.dumps(plan))
    del plan["variants"]["squares"]
    plan["overrides"] = [one for one in plan["overrides"] if not one.startswith("split.")]
    (lab / "left_out.yaml").write_text(json.dumps({**plan, "leave_out": "timepoint"}))
    commands = [
        ["train", "--resume", "run"],
        ["predict", "run", "--input", "cells.h5ad", "--output", "out.h5ad", "--perturbation=Burn",
         "data.scale=trust"],
        ["compare", "--config", "compare.yaml", "--output", "compared"],
        ["leave_one_out", "--config", "left_out.yaml", "--output", "apart", "--labels", "day14"],
    ]  # fmt: skip
    program = (
        "import importlib, json, sys\n"
        "for name, *given in json.loads(sys.argv[1]):\n"
        "    command = importlib.import_module(f'wound_jax.{name}')\n"
        "    assert command.main([*given, '--no-progress']) == 0, name\n"
    )
    done = python(lab, "-c", program, json.dumps(commands))
    assert done.returncode == 0, done.stderr[-3000:]
    compared = json.loads((lab / "compared" / "comparison.json").read_text())
    assert [one["name"] for one in compared["variants"]] == ["cubes", "squares"]
    baselines = json.loads(next((lab / "apart").rglob("baselines.json")).read_text())
    assert "half_delta" in baselines
    assert (lab / "out.h5ad").is_file()


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
