"""A run from a training store is the run in memory: losses, scores, resume, devices, evaluation."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import shrunk_runs
import tiny_run

from wound_jax import convert, evaluate, train
from wound_jax.config import load_config
from wound_jax.data.prepare import prepare
from wound_jax.data.store.rows import SparseRows
from wound_jax.data.strata import plan_strata
from wound_jax.devices.prefetch import Ahead
from wound_jax.errors import UserError
from wound_jax.evaluation.reference import fit_reference
from wound_jax.training import launch

pytestmark = pytest.mark.usefixtures("light_scores")

# The tiny run, on cells of a file.
FILE = [o for o in tiny_run.TINY if not o.startswith("data.s")]
SCORED = ["evaluation.min_cells=5", "evaluation.bootstrap=100", "evaluation.plots=false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`cells.h5ad`, and `store.h5ad` with its 120 most variable genes."""
    path = tmp_path_factory.mktemp("cells")
    shrunk_runs.cells(1200).write_h5ad(path / "cells.h5ad")
    (path / "run.yaml").write_text("name: disk\n")
    words = ["--config", str(path / "run.yaml"), "--output", str(path / "store.h5ad")]
    more = [*FILE, "data.n_hvg=120", f"data.path={path}/cells.h5ad", "--no-progress"]
    assert convert.main([*words, *more]) == 0
    return path


def overrides(folder: Path, location: str, *more: str) -> list[str]:
    name = "store" if location == "disk" else "cells"
    where = [f"data.path={folder}/{name}.h5ad", f"data.location={location}", "data.n_hvg=120"]
    return [*FILE, *where, *more]


def trained(folder: Path, location: str, run: Path, *more: str) -> Path:
    settings = ["training.max_steps=5", "training.val_every=3", "training.log_every=1", *SCORED]
    words = [*overrides(folder, location, *settings), f"run_dir={run}", *more]
    assert train.main(["--config", str(folder / "run.yaml"), "--no-progress", *words]) == 0
    return run


def logged(run: Path) -> list[dict]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in r.items() if "second" not in k and "time" not in k} for r in lines]


def losses(run: Path, name: str) -> list[float]:
    return [record[name] for record in logged(run) if record.get(name) is not None]


def test_losses_scores_and_fingerprint_are_those_of_the_run_in_memory(folder, tmp_path):
    sampled = "evaluation.cells_per_arm=12"
    memory = trained(folder, "host", tmp_path / "memory", sampled)
    disk = trained(folder, "disk", tmp_path / "disk", sampled)
    names = {name for record in logged(disk) for name in record if "loss" in name}
    assert len(names) >= 3
    for name in names:
        assert losses(disk, name) == losses(memory, name)
    scores = [json.loads((run / "eval" / "metrics.json").read_text()) for run in (memory, disk)]
    assert scores[0]["strata"] == scores[1]["strata"]
    assert scores[0]["split"]["data_fingerprint"] == scores[1]["split"]["data_fingerprint"]
    assert {s["n_treated"] for s in scores[1]["strata"]} <= set(range(13))
    # A run that began in memory is scored again from the store, and the other way round.
    moved = [f"data.path={folder}/store.h5ad", "data.location=disk"]
    assert evaluate.main([str(memory), "--output", str(tmp_path / "again"), *moved]) == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["strata"] == scores[0]["strata"]
    shrunk_runs.cells(1100).write_h5ad(tmp_path / "fewer.h5ad")
    assert launch.resume(memory, moved, progress_bar=False) is not None
    with pytest.raises(UserError, match="the data are not those"):
        launch.resume(memory, [f"data.path={tmp_path}/fewer.h5ad"], progress_bar=False)


def test_nothing_but_the_rows_that_are_asked_for_is_read(folder, monkeypatch):
    """Training, validation and scores read batches and samples; no one reads the whole matrix."""
    config = load_config(None, overrides(folder, "disk", *SCORED, "evaluation.cells_per_arm=10"))
    read: list[int] = []
    data = prepare(config)
    below = SparseRows._read
    monkeypatch.setattr(
        SparseRows, "_read", lambda self, at: read.append(len(at)) or below(self, at)
    )
    strata, _ = plan_strata(data, config.evaluation, "test")
    assert read == []
    for stratum in strata:
        stratum.cells(data.cells)
    assert max(read) <= 10
    monkeypatch.setattr("wound_jax.evaluation.context._MAX_PCA_CELLS", 50)
    read.clear()
    fit_reference(data, config.evaluation, 0)
    assert max(read) <= 50


def test_a_sample_of_a_stratum_is_fixed_and_each_cell_has_the_same_chance(folder):
    config = load_config(None, overrides(folder, "disk", *SCORED, "evaluation.cells_per_arm=10"))
    data = prepare(config)
    whole = prepare(load_config(None, overrides(folder, "host", *SCORED)))
    first, _ = plan_strata(data, config.evaluation, "train")
    again, _ = plan_strata(data, config.evaluation, "train")
    every, _ = plan_strata(whole, load_config(None, SCORED).evaluation, "train")
    for one, other, all_of_it in zip(first, again, every, strict=True):
        assert one.targets.tolist() == other.targets.tolist()
        assert set(one.targets) <= set(all_of_it.targets)
        assert len(one.targets) == min(10, len(all_of_it.targets))
        assert len(one.controls) == min(10, len(all_of_it.controls))
    rng, stratum = np.random.default_rng(0), max(every, key=lambda s: len(s.targets))
    n, draws = len(stratum.targets), 400
    drawn = np.concatenate([stratum.sampled(10, rng).targets for _ in range(draws)])
    hits = np.array([(drawn == cell).sum() for cell in stratum.targets])
    expected = draws * 10 / n
    assert np.abs(hits - expected).max() < 5 * np.sqrt(expected)


def test_a_store_that_changed_under_a_run_is_refused(folder, tmp_path):
    run = trained(folder, "disk", tmp_path / "run")
    store = tmp_path / "other.h5ad"
    words = ["--config", str(run / "config.yaml"), "--output", str(store), "--no-progress"]
    other = [f"data.path={folder}/cells.h5ad", "data.location=host", "data.n_hvg=119"]
    assert convert.main([*words, *other]) == 0
    assert evaluate.main([str(run), f"data.path={store}"]) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["data.input=obsm/A"], "data.input=obsm/A is an embedding: set data.input=X"),
        (["data.source=synthetic"], "data.source=synthetic does not: set data.location="),
        (
            ["velocity.enable=true"],
            "needs the velocities of all cells in memory: set data.location=device",
        ),
    ],
)
def test_what_a_store_does_not_hold_is_refused_before_anything_is_read(change, message):
    with pytest.raises(UserError, match=message):
        load_config(None, ["data.location=disk", *change])


def test_a_file_that_ends_early_is_an_error_of_the_step_that_reads_it(folder, tmp_path):
    data = prepare(load_config(None, overrides(folder, "disk")))
    path = tmp_path / "store.h5ad"
    path.write_bytes((folder / "store.h5ad").read_bytes())
    cut = prepare(load_config(None, [*overrides(folder, "disk"), f"data.path={path}"]))
    with h5py.File(path) as file:
        begin = file["X/data"].id.get_offset()
    with path.open("r+b") as file:
        file.truncate(begin + 40)
    assert len(data.cells.features[:5]) == 5
    with pytest.raises(OSError, match="it was cut short"):
        cut.cells.features[:5]


def test_what_is_announced_is_computed_once_and_an_error_reaches_the_caller():
    calls: list[str] = []

    def work(item: list[str]) -> str:
        calls.append(item[0])
        if item[0] == "bad":
            raise ValueError("bad item")
        return item[0].upper()

    ahead = Ahead(work)
    a, b, c, bad = ["a"], ["b"], ["c"], ["bad"]
    assert ahead(a, [b, c]) == "A"
    assert ahead(b, [c, bad]) == "B"
    # Another of the same value is another item.
    assert ahead(["b"]) == "B"
    assert ahead(c) == "C"
    with pytest.raises(ValueError, match="bad item"):
        ahead(bad)
    assert sorted(calls) == ["a", "b", "b", "bad", "bad", "c", "c"]
