"""The cache of compiled programs: where it lies, that it is used, and that it never fails a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wound_jax.devices.compilation import VARIABLE, cache_folder

# A loop long enough to be worth keeping; prints the folder and how often the cache was hit.
PROGRAM = """
import jax, wound_jax.devices.compilation as c
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
c.SECONDS_WORTH_KEEPING = 0.0
folder = c.use_compilation_cache()
jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8))).block_until_ready()
print(folder, hits.count("/jax/compilation_cache/cache_hits"))
"""


def run(**environment: str) -> list[str]:
    keep = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**keep, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_the_second_process_reads_what_the_first_compiled(tmp_path):
    first, hits = run(**{VARIABLE: str(tmp_path)})
    assert Path(first).parent == tmp_path
    assert hits == "0"
    assert int(run(**{VARIABLE: str(tmp_path)})[1]) > 0


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    assert run(**{VARIABLE: str(tmp_path / "file" / "below")}) == ["None", "0"]


def test_a_folder_of_jax_stays(tmp_path):
    given = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "given")}
    assert run(**given, **{VARIABLE: str(tmp_path / "other")})[0] == "None"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("off", ["off", "", "0", "None"])
def test_it_can_be_switched_off(off, monkeypatch):
    monkeypatch.setenv(VARIABLE, off)
    assert cache_folder() is None


def test_the_default_is_the_cache_of_the_user(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_folder()
    assert folder is not None
    assert folder.parent == tmp_path / "wound_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = cache_folder()
    assert folder is not None
    assert folder.parent == tmp_path / "home/.cache/wound_jax"
