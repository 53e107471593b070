"""What differs between two configs or runs, and the commands that show it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from wound_jax.config import RunConfig, dump_config, load_config
from wound_jax.config.__main__ import main
from wound_jax.config.diff import Difference, diff_runs, render
from wound_jax.errors import UserError
from wound_jax.files import write_record

pytestmark = pytest.mark.quick

PROVENANCE = {
    "versions": {"jax": "0.10.2", "flax": "0.12.8"},
    "commit": "f18c138",
    "command": "train a.yaml",
    "data_fingerprint": "ab12",
    "devices": ["cpu:0"],
}


@pytest.fixture
def make_run(tmp_path):
    """Writes a run folder: a resolved config and, unless None, a provenance."""

    def make(name: str, overrides: list[str], provenance: dict | None = None) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(dump_config(load_config(None, overrides)))
        if provenance is not None:
            write_record(folder / "provenance.json", provenance)
        return folder

    return make


def test_config_keys_differ_in_the_order_of_the_schema(make_run, tmp_path):
    config = tmp_path / "a.yaml"
    config.write_text("training: {learning_rate: 1e-3}\nname: mine\n")
    run = make_run("b", ["data.exclude.day=[D1]", "run_dir=runs/b", "split.kind=celltype"])
    assert diff_runs(config, run) == [
        Difference("name", "mine", "run"),
        Difference("run_dir", "null", "runs/b"),
        Difference("data.exclude", "{}", "{day: [D1]}"),
        Difference("split.kind", "random", "celltype"),
        Difference("training.learning_rate", "0.001", "0.0001"),
        # Keys of a variant that the first side has not chosen.
        Difference("split.test", "absent", "null"),
        Difference("split.val", "absent", "null"),
    ]


def test_provenance_differs_in_data_versions_and_commit_only(make_run):
    other = {
        "versions": {"jax": "0.11.0", "flax": "0.12.8", "optax": "0.2.5"},
        "commit": "0000000",
        "command": "train b.yaml",
        "data_fingerprint": "cd34",
        "devices": ["cuda:0"],
    }
    a, b = make_run("a", [], PROVENANCE), make_run("b", [], other)
    assert diff_runs(a, b) == [
        Difference("data fingerprint", "ab12", "cd34"),
        Difference("versions.jax", "0.10.2", "0.11.0"),
        Difference("versions.optax", "absent", "0.2.5"),
        Difference("commit", "f18c138", "0000000"),
    ]
    assert diff_runs(a, a) == []


def test_lines_are_aligned():
    lines = render([Difference("seed", "1", "2"), Difference("model.heads", "8", "4")])
    assert lines == "seed:        1 -> 2\nmodel.heads: 8 -> 4"
    assert render([]) == ""


def test_exit_status_and_output_of_diff(make_run, capsys):
    a, b = make_run("a", ["seed=1"], PROVENANCE), make_run("b", ["seed=2"])
    assert main(["diff", str(a), str(b)]) == 1
    assert capsys.readouterr().out == (
        f"only {a} has a provenance.json: data, versions and commit not compared\nseed: 1 -> 2\n"
    )
    same = make_run("c", ["seed=2"])
    assert main(["diff", str(b), str(same)]) == 0
    assert capsys.readouterr().out == "no differences\n"


def test_one_sided_provenance_is_a_remark_and_no_difference(make_run, capsys):
    a, b = make_run("a", [], PROVENANCE), make_run("b", [])
    assert main(["diff", str(b), str(a)]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith(f"only {a} has a provenance.json")


def test_a_side_that_is_no_run_is_refused(make_run, tmp_path, capsys):
    run = make_run("a", [], PROVENANCE)
    (tmp_path / "empty").mkdir()
    assert main(["diff", str(run), str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/empty holds no config.yaml, expected a YAML config or the folder of "
        "a run.\n"
    )
    for text, problem in (
        ("{", "is damaged: it is not valid JSON"),
        ("[]", "is damaged: it holds no JSON object"),
        ("{}", "is damaged or was edited"),
    ):
        (run / "provenance.json").write_text(text)
        with pytest.raises(UserError, match=problem):
            diff_runs(run, run)


def test_show_prints_the_resolved_config_and_help_has_examples(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text("seed: 7\n")
    assert main(["show", str(path), "model.heads=4"]) == 0
    shown = capsys.readouterr().out
    assert shown == dump_config(load_config(path, ["model.heads=4"]))
    assert main(["show"]) == 0
    assert capsys.readouterr().out == dump_config(RunConfig())
    assert main(["show", str(path), "model.head=4"]) == 2
    assert capsys.readouterr().err == (
        "error: command line: unknown config key 'model.head'. Did you mean 'model.heads'?\n"
    )
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "show configs/burn_sham_gene.yaml training.learning_rate=1e-3" in capsys.readouterr().out


def test_show_is_quick_and_imports_no_array_library():
    code = (
        "import sys; from wound_jax.config.__main__ import main; assert main(['show']) == 0; "
        "heavy = {'jax', 'flax', 'ott', 'scanpy', 'anndata', 'numpy'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    # The quickest of three: a busy machine says nothing about the command.
    assert min(seconds) < 2.0
