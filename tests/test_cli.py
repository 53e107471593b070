"""The dispatcher and how commands end."""

import subprocess
import sys

import pytest

from wound_jax.__main__ import COMMANDS, main
from wound_jax.cli import run
from wound_jax.config import RunConfig, dump_config
from wound_jax.errors import UserError

pytestmark = pytest.mark.quick


def raising(error: BaseException):
    """A body of a command that ends with `error`."""

    def body() -> int:
        raise error

    return body


def test_a_user_error_is_its_message_alone(capsys):
    assert run(raising(UserError("got 3, expected 4"))) == 2
    assert capsys.readouterr() == ("", "error: got 3, expected 4\n")


def test_an_interruption_is_one_line(capsys):
    assert run(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_defect_keeps_its_traceback_and_a_status_passes_through():
    with pytest.raises(ValueError, match="broken inside"):
        run(raising(ValueError("broken inside")))
    assert run(lambda: 7) == 7


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_each_command_with_a_line(flag, capsys):
    assert main([flag]) == 0
    shown = capsys.readouterr().out
    assert set(COMMANDS) == {
        "train",
        "evaluate",
        "compare",
        "leave-one-out",
        "ensemble",
        "predict",
        "convert",
        "config",
        "synthetic",
        "velocity",
    }
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name:<14} {summary}\n" in shown


def test_no_command_prints_the_help_as_an_error(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: wound_jax COMMAND")


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["trian", "a.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown command 'trian'. Did you mean 'train'? "
        "Known: compare, config, convert, ensemble, evaluate, leave-one-out, predict, synthetic, "
        "train, velocity.\n"
    )


def test_config_is_dispatched_with_its_arguments_and_status(tmp_path, capsys):
    assert main(["config", "show", "--", "missing.yaml"]) == 2
    assert "error: unknown config file 'missing.yaml'." in capsys.readouterr().err
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    a.write_text("seed: 1\n")
    b.write_text("seed: 2\n")
    assert main(["config", "diff", str(a), str(b)]) == 1
    assert capsys.readouterr().out == "seed: 1 -> 2\n"


@pytest.mark.parametrize(
    "arguments", [["wound_jax", "config", "show"], ["wound_jax.config", "show"]]
)
def test_python_m_prints_the_defaults(arguments):
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout == dump_config(RunConfig())


def test_help_imports_no_command():
    code = (
        "import sys; from wound_jax.__main__ import main; main(['--help']); "
        "loaded = {'jax', 'pydantic', 'wound_jax.train'} & set(sys.modules); "
        "sys.exit(f'imported {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_error():
    """`... | head -1` closes the pipe while the command still prints."""
    command = [sys.executable, "-m", "wound_jax.config", "show"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read()
        assert process.wait() == 141
    assert error == b""
