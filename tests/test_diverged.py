"""Training that diverges says where and why, keeps what met there, or skips such steps."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
import tiny_run

from wound_jax.data.cells import PreparedData
from wound_jax.devices import processes
from wound_jax.errors import UserError
from wound_jax.training.diverged import FILE, NotFinite, explaining
from wound_jax.training.log import read_metrics
from wound_jax.training.loop import Loop
from wound_jax.training.setup import Run

RHYTHM = ("training.max_epochs=null", "training.max_steps=6", "training.val_every=2")
SKIP = ("training.on_nonfinite=skip", "training.max_skipped=2")


def spoiled(value: float, *cells: int) -> PreparedData:
    """The tiny cells with a value of another size in the third gene of some treated ones."""
    data = tiny_run.data()
    features = np.array(data.cells.features)
    features[data.split.treated["train"][list(cells)], 2] = value
    return replace(data, cells=replace(data.cells, features=features))


def trained(folder, data: PreparedData, *overrides: str) -> Run:
    """A run that was trained, or that raises what the command would show."""
    config = tiny_run.config(*RHYTHM, *overrides)
    run = Run(config, data)
    with explaining(folder, config, data, run.plan):
        Loop(run, config.training, data.spec, folder, progress_bar=False).train()
    return run


def steps_with(run: Run, cell: int) -> list[int]:
    """The steps in which a cell is a target."""
    plans = tiny_run.plans(run, 6)
    return [i for i, p in enumerate(plans, 1) if (p.target[p.target_mask] == cell).any()]


def test_a_cell_that_is_no_expression_is_named(tmp_path):
    data = spoiled(1e30, 3)
    cell = int(data.split.treated["train"][3])
    labels = data.cells.annotations
    with pytest.raises(UserError) as raised:
        trained(tmp_path, data)
    said = str(raised.value)
    step = int(said.partition("at step ")[2].partition(".")[0])
    assert step == steps_with(Run(tiny_run.config(*RHYTHM), data), cell)[0]
    assert f"Cell {labels.names[cell]} ({labels.condition[cell]}, {labels.cell_type[cell]}" in said
    assert f"holds 1e+30 in gene {data.spec.genes[2]}" in said
    assert "Not finite there: train/" in said
    assert f"train --resume {tmp_path}" in said
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["step"] == step
    assert [cell in one["treated"] for one in kept["sets"]].count(True) == 1
    assert kept["saved"]["best"] < step


def test_a_setting_is_named_with_its_value_where_the_cells_are_sound(tmp_path):
    changes = ("training.learning_rate=1e30", "training.clip_norm=null")
    with pytest.raises(UserError) as raised:
        trained(tmp_path, tiny_run.data(), *changes)
    said = str(raised.value)
    assert "Cell " not in said
    tries = ("Lower training.learning_rate (1e+30 now)", "set training.clip_norm=1 (null now)",
             "training.warmup_steps=100 (0 now)")  # fmt: skip
    places = [said.find(one) for one in tries]
    assert places == sorted(places), "the likeliest first"
    assert places[0] > 0
    assert "model.dtype" not in said, "float32 already"


def test_steps_that_are_not_finite_change_nothing_where_they_are_skipped(tmp_path):
    data = spoiled(np.nan, 3)
    run = trained(tmp_path, data, *SKIP)
    bad = steps_with(run, int(data.split.treated["train"][3]))
    assert 0 < len(bad) < 6
    records = [r for r in read_metrics(tmp_path) if "train/loss" in r]
    assert [r["step"] for r in records if r["train/loss"] is None] == bad
    assert [r["step"] for r in records if r["train/skipped_in_a_row"] > 0] == bad
    state, cells = Run(tiny_run.config(*RHYTHM, *SKIP), data).state, run.feed.cells
    for i, plan in enumerate(tiny_run.plans(run, 6), 1):
        before = jax.device_get(state.parameters)
        state, _ = run.step(state, cells, run.feed.batch(plan))
        same = [np.array_equal(before[name], v) for name, v in state.parameters.items()]
        assert all(same) == (i in bad)
        assert all(np.isfinite(v).all() for v in state.parameters.values())


def test_so_many_skipped_steps_in_a_row_end_the_run(tmp_path):
    data = tiny_run.data()
    # All but the first, which stands where sets are padded.
    everyone = range(1, len(data.split.treated["train"]))
    with pytest.raises(UserError, match="is nan at step 3"):
        trained(tmp_path, spoiled(np.nan, *everyone), *SKIP)
    records = [r for r in read_metrics(tmp_path) if "train/loss" in r]
    assert [r["train/skipped_in_a_row"] for r in records] == [1, 2, 3]


def test_a_validation_that_is_not_finite_names_no_training_set(tmp_path):
    with pytest.raises(UserError, match=r"val/loss is nan at step 0\. .* Lower training") as raised:
        trained(tmp_path, spoiled(np.nan, 0))
    assert "Its sets" not in str(raised.value)


def test_of_several_processes_the_first_explains(tmp_path, monkeypatch):
    """The others may not have the run folder."""
    monkeypatch.setattr(processes, "is_first", lambda: False)
    config, data = tiny_run.config(*RHYTHM), tiny_run.data()
    plan_of = tiny_run.new_run(*RHYTHM).plan
    with pytest.raises(NotFinite), explaining(tmp_path, config, data, plan_of):
        raise NotFinite("train/loss", 3, {"train/loss": np.nan})
    assert not list(tmp_path.iterdir())


def test_skipping_leaves_finite_steps_as_they_are(tmp_path):
    """The option costs no digit where nothing is skipped."""
    plain, skipping = (
        trained(tmp_path / name, tiny_run.data(), *changes)
        for name, changes in {"plain": (), "skipping": SKIP}.items()
    )
    losses = [
        [r["train/loss"] for r in read_metrics(tmp_path / name) if "train/loss" in r]
        for name in ("plain", "skipping")
    ]
    assert plain.total_steps == skipping.total_steps
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
