"""What runs of a comparison share: cells, ground to compare on, and programs."""

import pytest
import tiny_run

from wound_jax.errors import UserError
from wound_jax.experiments.cells import SharedCells, between_data, cells_key, require_agreement
from wound_jax.experiments.schedule import jobs


def test_what_is_allowed_to_differ_is_noted():
    cells = SharedCells()
    sides = [
        (name, cells.of(tiny_run.config(*changes)))
        for name, changes in (("a", ()), ("b", ("split.seed=7",)), ("c", ("data.n_hvg=200",)))
    ]
    with pytest.raises(UserError, match="allow-different genes"):
        require_agreement(sides, between_data, ["split"])
    lines = require_agreement(sides, between_data, ["split", "genes", "scale"])
    assert lines[0].startswith(
        "a and b differ in their split: replicate and replicate; not the same"
    )
    assert (
        lines[1]
        == "a and c differ in their genes: 300 and 200 genes, not the same (200 in common)."
    )


@pytest.mark.parametrize(
    ("changes", "together", "sizes"),
    [
        ((), True, [3]),
        ((), False, [1, 1, 1]),
        (("training.early_stopping=2",), True, [1, 1, 1]),
        (("velocity.enable=true",), True, [3]),
        (("velocity.enable=true", "velocity.shuffle=true"), True, [1, 1, 1]),
    ],
)
def test_seeds_that_can_share_a_program_do(tmp_path, changes, together, sizes):
    """Not where each seed ends at a step of its own, or has cells of its own."""
    missing = [
        tiny_run.config(*changes, f"seed={seed}", f"run_dir={tmp_path / str(seed)}")
        for seed in range(3)
    ]
    assert [len(job) for job in jobs(missing, together=together)] == sizes


def test_cells_are_prepared_once_for_variants_that_read_the_same():
    cells = SharedCells()
    first = cells.of(tiny_run.config())
    assert cells.of(tiny_run.config("model.layers=2", "seed=3", "loss.name=sinkhorn")) is first
    with_velocity = tiny_run.config("velocity.enable=true")
    assert cells_key(with_velocity) != cells_key(tiny_run.config())
    assert cells_key(with_velocity) == cells_key(
        tiny_run.config("velocity.enable=true", "velocity.weight=3.0", "seed=3")
    )
    shuffled = [
        tiny_run.config("velocity.enable=true", "velocity.shuffle=true", f"seed={i}")
        for i in (1, 2)
    ]
    assert cells_key(shuffled[0]) != cells_key(shuffled[1])
