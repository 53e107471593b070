"""What is damaged, gone or of another run is never taken: one line names the file and the way out.

The states are saved without training them: what counts is what lies on the disk.
"""

import dataclasses
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

from wound_jax.config.load import dump_config
from wound_jax.errors import UserError
from wound_jax.files import (
    DamagedFile,
    read_arrays,
    read_record,
    require_place,
    write_arrays,
    write_record,
    write_text,
)
from wound_jax.training import launch
from wound_jax.training.checkpoint import Checkpoints
from wound_jax.training.record import record_run, require_own_config
from wound_jax.training.run_lock import reading, training

pytestmark = pytest.mark.quick

SLOTS = {"best": 2, "last": 5}


def save_run(folder: Path, *overrides: str) -> Path:
    """A run folder with two checkpoints, of steps that it was not trained for."""
    run, config = tiny_run.new_run(*overrides), tiny_run.config(*overrides)
    folder.mkdir()
    record_run(folder, config, tiny_run.data().fingerprint, jax.devices()[:1])
    with Checkpoints(folder) as checkpoints:
        for slot, step in SLOTS.items():
            state = dataclasses.replace(run.state, step=jax.numpy.int32(step))
            checkpoints.save(slot, state, tiny_run.data().spec, {"best_step": step})
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("saved") / "run")


@pytest.fixture
def copied(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def restore(folder: Path, slot: str):
    run = tiny_run.new_run()
    with Checkpoints(folder, create=False) as checkpoints:
        return checkpoints.restore(slot, run.state, run.devices)


def files_of(folder: Path, slot: str) -> list[Path]:
    files = sorted(path for path in (folder / "checkpoints" / slot).rglob("*") if path.is_file())
    assert len(files) > 5
    return files


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(content)


def test_what_was_saved_comes_back(saved):
    for slot, step in SLOTS.items():
        state, progress = restore(saved, slot)
        assert (int(state.step), progress) == (step, {"best_step": step})
        for name, value in tiny_run.new_run().state.parameters.items():
            np.testing.assert_array_equal(state.parameters[name], value)


def test_a_flipped_bit_in_any_file_of_a_checkpoint_is_noticed(copied):
    """The first, the last and three random bits of each file."""
    rng = np.random.default_rng(0)
    way_out = r"The last good checkpoint is 'best', of step 2: python -m wound_jax\.train --resume"
    for path in files_of(copied, "last"):
        written = path.read_bytes()
        size = 8 * len(written)
        for at in {0, size - 1, *rng.integers(size, size=3)} if size else ():
            flip(path, int(at))
            with pytest.raises(DamagedFile, match=f"{path.name} .*damaged.*{way_out}"):
                restore(copied, "last")
            path.write_bytes(written)
    restore(copied, "last")


def test_a_file_cut_short_gone_or_added_is_noticed(copied):
    for path in files_of(copied, "last"):
        written = path.read_bytes()
        path.write_bytes(written[:-2])
        if written:
            with pytest.raises(DamagedFile, match=path.name):
                restore(copied, "last")
        path.unlink()
        with pytest.raises(DamagedFile, match=rf"{path.name} is missing"):
            restore(copied, "last")
        path.write_bytes(written)
    more = copied / "checkpoints" / "last" / "5" / "more"
    more.write_text("")
    with pytest.raises(DamagedFile, match="more does not belong there"):
        restore(copied, "last")


def test_a_checkpoint_that_is_gone_is_missed(copied):
    """Where none was saved a run starts anew; where one is gone it never does."""
    shutil.rmtree(copied / "checkpoints" / "last" / "5")
    said = r"checkpoints/last/5 is missing. The last good .*'best', of step 2"
    with Checkpoints(copied) as checkpoints, pytest.raises(DamagedFile, match=said):
        checkpoints.has("last")
    shutil.rmtree(copied / "checkpoints" / "best")
    with Checkpoints(copied) as checkpoints, pytest.raises(DamagedFile, match="no other checkpoin"):
        checkpoints.has("last")
    shutil.rmtree(copied / "checkpoints")
    (copied / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(DamagedFile, match=r"saved\.json is missing.* train a new run"):
        Checkpoints(copied)
    (copied / "metrics.jsonl").unlink()
    with Checkpoints(copied) as checkpoints:
        assert not checkpoints.has("last")


def test_the_damaged_best_names_the_last(copied):
    flip(files_of(copied, "best")[0], 9)
    with pytest.raises(DamagedFile, match=r"The last good checkpoint is 'last', of step 5"):
        restore(copied, "best")
    flip(files_of(copied, "last")[0], 9)
    with pytest.raises(DamagedFile, match=r"The other checkpoint \('last'\) is damaged too"):
        restore(copied, "best")


def test_weights_of_another_seed_and_an_edited_config_are_refused(copied, tmp_path):
    other = save_run(tmp_path / "other", "seed=1")
    shutil.rmtree(copied / "checkpoints")
    shutil.copytree(other / "checkpoints", copied / "checkpoints")
    with pytest.raises(DamagedFile, match=r"last/5 was not made by this run: its config is not"):
        restore(copied, "last")
    require_own_config(copied)
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace("hidden_dim: 8\n", "hidden_dim: 16\n"))
    with pytest.raises(
        DamagedFile, match=r"config\.yaml is damaged or was edited.*start a new run"
    ):
        require_own_config(copied)


def test_a_run_folder_can_be_moved(copied, tmp_path):
    shutil.move(copied, tmp_path / "elsewhere")
    require_own_config(tmp_path / "elsewhere")
    restore(tmp_path / "elsewhere", "last")


def test_a_state_that_is_half_written_is_none(copied):
    """Killed while it saves: the one before stays, what lies beside it goes."""
    half = copied / "checkpoints" / "last" / "7.part"
    shutil.copytree(copied / "checkpoints" / "last" / "5", half)
    (half / "digests.json").unlink()
    assert int(restore(copied, "last")[0].step) == 5
    with Checkpoints(copied) as checkpoints:
        assert checkpoints.step("last") == 5
    assert not half.exists()


def test_between_two_states_the_newer_one_counts(copied):
    """Killed before the older one went and before the record of what was saved."""
    record = copied / "checkpoints" / "saved.json"
    before = record.read_text()
    older = tmp = copied.parent / "5"
    shutil.copytree(copied / "checkpoints" / "last" / "5", older)
    run = tiny_run.new_run()
    with Checkpoints(copied) as checkpoints:
        state = dataclasses.replace(run.state, step=jax.numpy.int32(8))
        checkpoints.save("last", state, tiny_run.data().spec, {})
    assert not (copied / "checkpoints" / "last" / "5").exists()
    shutil.move(tmp, copied / "checkpoints" / "last" / "5")
    record.write_text(before)
    assert int(restore(copied, "last")[0].step) == 8


@pytest.mark.parametrize("at", [0, 100, -1])
def test_records_and_arrays_notice_a_flipped_bit(tmp_path, at):
    write_record(tmp_path / "a.json", {"steps": [1, 2], "text": "é" * 60})
    write_arrays(tmp_path / "a.npz", {"x": np.arange(5.0), "name": np.array("y")})
    assert read_record(tmp_path / "a.json") == {"steps": [1, 2], "text": "é" * 60}
    found = read_arrays(tmp_path / "a.npz")
    assert found["x"].tolist() == [0, 1, 2, 3, 4]
    # It stays a file that others read.
    with np.load(tmp_path / "a.npz") as plain:
        assert str(plain["name"]) == "y"
    for name, read in (("a.json", read_record), ("a.npz", read_arrays)):
        path = tmp_path / name
        if name == "a.json" and at == -1:
            path.write_text(path.read_text()[:-4])
        else:
            flip(path, 8 * (at % path.stat().st_size))
        with pytest.raises(DamagedFile, match=f"{name} is damaged"):
            read(path)
        path.unlink()
        with pytest.raises(DamagedFile, match=f"{name} is missing"):
            read(path)


def test_what_is_no_file_is_never_replaced(tmp_path):
    with pytest.raises(UserError, match="no regular file"):
        write_text("/dev/null", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="no regular file"):
        write_text(tmp_path / "folder", "x")


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    require_place(tmp_path / "file")
    require_place(tmp_path / "new" / "deeper")
    with pytest.raises(UserError, match="full is a device or a pipe"):
        require_place("/dev/full")
    with pytest.raises(UserError, match=r"below cannot be made: .*file is no folder"):
        require_place(tmp_path / "file" / "below")
    # A superuser may write anywhere, so that the system is not asked.
    monkeypatch.setattr("os.access", lambda *_: False)
    for place in ("file", "new", "new/deeper"):
        with pytest.raises(UserError, match="is read-only for you"):
            require_place(tmp_path / place)


COMMANDS = {
    "predict": ["run", "--input", "x.h5ad", "--perturbation", "a"],
    "synthetic": [],
    "convert": ["--config", "cells.yaml"],
    "velocity": ["add", "--input", "x.h5ad", "--rep", "X", "--control", "a", "--from-pseudotime"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_replaces_what_is_no_file(name, tmp_path, monkeypatch, capsys):
    """It is said before anything is read: none of the inputs is there."""
    monkeypatch.chdir(tmp_path)
    Path("cells.yaml").write_text("data: {path: x.h5ad}\n")
    os.mkfifo("out.h5ad")
    module = importlib.import_module(f"wound_jax.{name}")
    assert module.main([*COMMANDS[name], "--output", "out.h5ad", "--overwrite"]) == 2
    assert "out.h5ad is a device or a pipe, no regular file" in capsys.readouterr().err
    assert Path("out.h5ad").is_fifo()


def test_a_link_stays_one(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_where_the_disk_is_full_one_line_says_so(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(part, *_, **__):
        part.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"a\.txt could not be written: No space left on device\."):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_the_config_is_what_makes_a_run(tmp_path, monkeypatch):
    """Killed between two files of a new run: the folder is still free for --config."""
    from wound_jax.training.run_folder import is_free

    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "split.txt").write_text("")
    (folder / "provenance.json.part").write_text("")
    assert is_free(folder)
    record_run(folder, tiny_run.config(), "f", jax.devices()[:1])
    assert (folder / "config.yaml").read_text() == dump_config(tiny_run.config())
    assert not is_free(folder)


LOCKED = """
import sys, time
from pathlib import Path
from wound_jax.training import run_lock
with getattr(run_lock, sys.argv[2])(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other_process(copied):
    """A process that holds the run, to be ended by the test."""
    held = []

    def hold(how: str) -> subprocess.Popen:
        command = [sys.executable, "-c", LOCKED, str(copied), how]
        held.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert held[-1].stdout.readline() == "locked\n"
        return held[-1]

    yield hold
    for process in held:
        process.kill()
        process.communicate()


def test_a_run_is_trained_by_one_process_and_a_dead_one_holds_nothing(copied, other_process):
    process = other_process("training")
    for lock, said in ((training, "trained, or read, by another"), (reading, "being trained by")):
        with pytest.raises(UserError, match=said), lock(copied):
            pass
    process.kill()
    process.wait()
    with training(copied):
        pass


def test_who_resumes_second_changes_nothing(copied, other_process):
    other_process("training")
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="trained, or read, by another"):
        launch.resume(copied, [], progress_bar=False)
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_many_read_at_once_and_none_trains_meanwhile(copied, other_process):
    other_process("reading")
    with reading(copied):
        pass
    with pytest.raises(UserError, match="trained, or read"), training(copied):
        pass


def test_a_lock_leaves_no_file(copied):
    before = sorted(path.name for path in copied.iterdir())
    with training(copied):
        assert sorted(path.name for path in copied.iterdir()) == before
