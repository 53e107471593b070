"""The benchmark: its figures from given timings, its cases, and a tiny run from end to end."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from benchmarking.case import SIZES, Case, cases, overrides, peers_of
from benchmarking.figures import line, paired, ratios, summary, table
from benchmarking.seeds import SeedTiming, Timing, time_seeds
from benchmarking.worker import Quiet

from wound_jax.config import load_config
from wound_jax.errors import UserError

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "benchmark.py"
TINY = (
    *("--size=small", "--cells=600", "--genes=300", "--hidden=8", "--layers=1", "--heads=2"),
    *("--set-len=8", "--sets=2"),
)
LORA = Case("wound_jax", "lora", "gpt2", "energy", "float32")
PEER = Case("peer", "lora", "gpt2", "energy", "medium")
MHC = Case("wound_jax", "lora_mhc", "gpt2", "energy", "float32")


def rounds(*seconds: float) -> list[dict]:
    """Turns whose whole loop takes a quarter longer than the step alone."""
    return [
        {
            "whole_seconds": 1.25 * s,
            "compute_seconds": s,
            "waiting_share": 0.2,
            "matmul_flops": 1e12,
        }
        for s in seconds
    ]


def test_medians_and_spreads():
    assert summary([4.0, 1.0, 2.0, 3.0, 10.0]) == {
        "median": 3.0,
        "lower_quartile": 2.0,
        "upper_quartile": 4.0,
        "min": 1.0,
        "max": 10.0,
    }
    assert set(summary([2.0]).values()) == {2.0}


def test_a_line_is_the_arithmetic_of_its_turns():
    once = {"model_flops": 2e11, "loss_seconds": 0.02, "peak_memory_bytes": {"host": 2.0**31}}
    found = line(rounds(0.4, 0.5, 0.8), once)
    assert found["steps_per_second"]["median"] == pytest.approx(1.6)
    assert found["compute_ms"]["median"] == pytest.approx(500)
    assert found["waiting_percent"]["median"] == pytest.approx(20)
    assert found["loss_percent"]["median"] == pytest.approx(4)
    assert found["achieved_flops"]["median"] == pytest.approx(4e11)
    assert found["matmul_percent"]["median"] == pytest.approx(40)
    assert found["peak_gib"] == 2


def test_ratios_are_taken_round_by_round():
    """A round in which the machine is three times slower leaves the ratio as it is."""
    slow = paired(rounds(1.0, 3.0, 1.0), rounds(0.5, 1.5, 0.5), "whole_seconds")
    assert slow["min"] == slow["max"] == pytest.approx(2)
    answers = {LORA: rounds(0.5, 1.5), PEER: rounds(1.0, 3.0), MHC: rounds(0.6, 1.8)}
    lines = {case: line(found, {}) for case, found in answers.items()}
    ratios(answers, lines)
    assert lines[LORA]["times_peer"]["median"] == pytest.approx(2)
    assert lines[MHC]["times_lora"]["median"] == pytest.approx(1.2)
    assert "times_peer" not in lines[MHC]
    assert "times_peer" not in lines[PEER]


def test_predictions_are_compared_turn_by_turn():
    def turns(seconds: float, each: float) -> list[dict]:
        return [
            r | {"predict_seconds": each * slow}
            for r, slow in zip(rounds(seconds, seconds), (1, 3), strict=True)
        ]

    answers = {LORA: turns(0.5, 1e-3), PEER: turns(1.0, 4e-3)}
    lines = {case: line(found, {}) for case, found in answers.items()}
    ratios(answers, lines)
    assert lines[LORA]["predict_cells_per_second"]["max"] == pytest.approx(1_000)
    assert lines[LORA]["times_peer_predict"]["min"] == pytest.approx(4)
    assert lines[LORA]["times_peer_predict"]["max"] == pytest.approx(4)


def test_the_table_has_a_row_a_case_and_only_columns_that_hold_something():
    text = table({LORA: line(rounds(0.5, 0.5), {}), PEER: {"first_step_cold": 14.0}})
    head, _, ours, peer = text.splitlines()
    assert "whole loop" in head
    assert "matmul" not in head
    assert ours.startswith("| lora/gpt2/energy/float32 | 1.6 ± 0 |")
    assert peer.startswith("| peer lora/gpt2/energy | - |")
    assert peer.endswith(" 14 |")
    assert len({row.count("|") for row in text.splitlines()}) == 1


def test_all_cases_have_a_config_that_loads():
    every = cases(
        ("full", "lora", "lora_mhc", "velocity"),
        ("gpt2", "llama"),
        ("energy", "sinkhorn"),
        ("float32", "bfloat16"),
    )
    assert len({case.name for case in every}) == 32
    for case in every:
        config = load_config(None, overrides(case, SIZES["plan"], Path("cells.h5ad")))
        assert config.model.lora.enable == (case.variant != "full")
        assert (config.training.batch_size, config.data.cell_set_len) == (16, 128)
    assert len(peers_of(every)) == 2 * 2 * 2


def test_an_unknown_case_lists_those_there_are():
    with pytest.raises(UserError, match="lora_mhc"):
        cases(["lora_mch"], ["gpt2"], ["energy"], ["float32"])


def test_a_size_takes_changes():
    changed = SIZES["plan"].changed(cells=10, genes=None)
    assert (changed.cells, changed.genes) == (10, SIZES["plan"].genes)


def test_nothing_of_a_timed_loop_is_kept():
    keeper = Quiet()
    assert keeper.begin("state", None, resume=False) == ("state", 0)
    keeper.step(1, {"loss": 1.0}, 3)
    keeper.flush()
    assert not keeper.ends_early(1)


def test_a_tiny_run_prints_a_table_and_writes_every_key(tmp_path, capsys):
    command = [*TINY, "--variants=lora,lora_mhc", "--rounds=1", "--steps=1"]
    command += ["--no-cold", "--no-predict"]
    path = tmp_path / "out.json"
    assert runpy.run_path(str(SCRIPT))["main"]([*command, "--json", str(path)]) == 0
    assert "| lora_mhc/gpt2/energy/float32 |" in capsys.readouterr().out
    record = json.loads(path.read_text())
    assert {"command", "date", "commit", "versions", "machine", "size", "lines"} <= set(record)
    assert record["environments"]["wound_jax"]["backend"] == "cpu"
    plain, mixed = record["lines"]
    for found in (plain, mixed):
        assert found["steps_per_second"]["median"] > 0
        assert found["first_step_cold"] > 0
        assert 0 < found["peak_gib"] < 10
        assert found["model_gflop"] > 0
        assert 0 <= found["waiting_percent"]["median"] <= 100
        assert found["loss_percent"]["median"] > 0
    assert mixed["times_lora"]["median"] > 0


def test_a_case_that_cannot_start_says_why(tmp_path, capsys):
    command = [*TINY, "--hidden=7"]
    assert runpy.run_path(str(SCRIPT))["main"]([*command, "--work", str(tmp_path)]) == 2
    assert "its process ended with status" in capsys.readouterr().err


def test_the_gain_of_seeds_in_one_program_is_measured():
    timing = time_seeds(tiny_run.config(), (1,), tiny_run.data(), steps=2)
    assert len(timing.alone) == 1
    assert all(0 < t.step < t.first for t in (*timing.alone, timing.together))
    made = SeedTiming((Timing(3.0, 1.0), Timing(5.0, 1.0)), Timing(4.0, 1.5))
    np.testing.assert_allclose(made.gain(3), (5.0 + 7.0) / 7.0)
