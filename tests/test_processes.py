"""Two processes train the run of one, write one folder, end together and say what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import process_tasks
import pytest
import shrunk_runs
import tiny_run
from two_processes import environment, free_port, run_pair

from wound_jax.devices import processes
from wound_jax.errors import UserError
from wound_jax.training.log import read_metrics

TASKS = str(Path(process_tasks.__file__))


def assert_same_log(found: list[dict], expected: list[dict]) -> None:
    assert [set(one) for one in found] == [set(one) for one in expected]
    for one, other in zip(found, expected, strict=True):
        for name, value in other.items():
            if name != "train/cells_per_second":
                np.testing.assert_allclose(one[name], value, rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder in which two processes did `process_tasks.trained`."""
    folder = tmp_path_factory.mktemp("trained")
    statuses, outputs = run_pair([[TASKS, "trained"]] * 2, folder)
    assert statuses == [0, 0], "\n---\n".join(outputs)
    return folder


def test_interrupted_and_resumed_they_reach_what_one_process_reaches(trained, tmp_path):
    """Ctrl-C at one of them in step 3; both end after step 4, where both write their logs."""
    assert json.loads((trained / "interrupted.json").read_text()) == 4
    run = tiny_run.new_run(total_steps=process_tasks.N_STEPS)
    process_tasks.loop_of(run, tmp_path).train()
    assert_same_log(read_metrics(trained / "run"), read_metrics(tmp_path))
    assert {path.name for path in (trained / "run" / "checkpoints").glob("*/")} == {"best", "last"}


def test_parts_of_batches_from_the_host_make_the_steps_of_one_process(trained):
    _, expected = tiny_run.steps(tiny_run.new_run("model.dropout=0"), 2)
    assert_same_log(json.loads((trained / "parts.json").read_text()), expected)


def test_what_one_process_finds_wrong_ends_all(trained):
    first, second = (json.loads((trained / f"refused{i}.json").read_text()) for i in (0, 1))
    assert first == second
    assert first == [
        "no file at cells.h5ad (process 1)",
        "training.devices=1, but the 2 processes have 2 together, and all of them take part; set "
        "training.devices=all.",
        "process 1 has other cells than process 0: n: True -> False. Start all processes with the "
        "same command, code and files.",
    ]


def command(*changes: str) -> list[str]:
    config = ["--config", str(shrunk_runs.QUICKSTART), *shrunk_runs.SHRUNK]
    return ["-m", "wound_jax.train", "--distributed", "--no-progress", *config, *changes]


def test_the_command_leaves_one_evaluated_folder(tmp_path):
    statuses, outputs = run_pair([command("training.devices=all")] * 2, tmp_path)
    assert statuses == [0, 0], "\n---\n".join(outputs)
    assert "everything is in runs/tiny" in outputs[0]
    assert "runs/tiny" not in outputs[1]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]
    run = tmp_path / "runs" / "tiny"
    assert [r["step"] for r in read_metrics(run) if "train/loss" in r] == [1, 2, 3, 4, 5, 6]
    record = json.loads((run / "provenance.json").read_text())
    assert record["devices"] == ["cpu:cpu"] * 2
    assert record["finished"]
    assert (run / "eval" / "report.html").is_file()


def test_unequal_settings_are_named(tmp_path):
    commands = [command(), command("training.learning_rate=0.5")]
    statuses, outputs = run_pair(commands, tmp_path)
    assert statuses == [2, 2]
    for output in outputs:
        assert "process 1 has other settings than process 0: training.learning_rate: " in output
        assert " -> 0.5. Start all processes with the same command" in output
    assert not (tmp_path / "runs").exists()


def test_a_defect_on_one_process_ends_the_other(tmp_path):
    statuses, outputs = run_pair([[TASKS, "broken"]] * 2, tmp_path)
    assert statuses[1] == 1
    assert statuses[0] != 0
    assert "RuntimeError: a defect" in outputs[1]


STARTS_A_PAIR = """
import time
from pathlib import Path
from two_processes import Pair
pair = Pair([["-c", "import time; print('up', flush=True); time.sleep(60)"]] * 2, Path())
while pair.outputs() != ["up\\n"] * 2:
    time.sleep(0.02)
print(*pair.pids(), flush=True)
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        # The state follows the name in brackets; a zombie waits for whoever adopted it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent that ended")
@pytest.mark.parametrize("stopped", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_tests_that_started_them(stopped, tmp_path):
    """Whatever ends these: a time limit, a worker that is stopped, the terminal."""
    parent = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_PAIR],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(is_running(pid) for pid in pids)
        parent.send_signal(stopped)
    end = time.monotonic() + 10
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < end, f"still running: {pids}"
        time.sleep(0.05)


def test_a_coordinator_that_is_not_there(tmp_path):
    port = free_port()
    done = subprocess.run(
        [sys.executable, *command()],
        env=environment(1, port) | {processes.TIMEOUT: "2"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    assert f"process 1 did not reach process 0 at 127.0.0.1:{port} within 2 s" in done.stderr
    assert "Check that process 0 was started there" in done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID is not set; start"),
        ({"JAX_PROCESS_ID": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES is not set"),
    ],
)
def test_half_an_address_is_refused(given, message, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        processes.join()


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [
        ("2", "2", r"JAX_PROCESS_ID=2 of JAX_NUM_PROCESSES=2; expected 0 to 1"),
        ("one", "2", r"are numbers, got invalid literal"),
    ],
)
def test_a_number_that_is_none_is_refused(index, count, message, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", count)
    monkeypatch.setenv("JAX_PROCESS_ID", index)
    with pytest.raises(UserError, match=message):
        processes.join()


def test_one_process_asks_nobody():
    assert processes.is_first()
    assert not processes.several()
    assert processes.any_of(True)
    assert processes.from_first(lambda: Path("as it is")) == Path("as it is")
    assert processes.on_all(lambda: 3) == 3
    processes.require_equal("cells", lambda: {})
    with pytest.raises(ZeroDivisionError), processes.leave_at_once():
        _ = 1 / 0
