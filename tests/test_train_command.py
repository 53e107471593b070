"""What the train command says before it trains."""

from pathlib import Path

import pytest

from wound_jax.config import load_config
from wound_jax.train import main
from wound_jax.training.launch import warn_of_no_gain, warn_of_warmups
from wound_jax.training.log import Progress

pytestmark = pytest.mark.quick


def test_a_warm_up_longer_than_the_run_is_said(capsys):
    config = load_config(None, ["velocity.enable=true", "velocity.warmup_steps=1000"])
    warn_of_warmups(config, total_steps=70)
    said = capsys.readouterr().err
    assert (
        "velocity.warmup_steps=1000, but the run has 70 steps; only 7 % of the full value" in said
    )
    warn_of_warmups(config, total_steps=1000)
    assert not capsys.readouterr().err


def test_an_untrained_model_is_never_evaluated_in_silence(capsys):
    run = Path("runs/wild")
    warn_of_no_gain(run, Progress(best_loss=3.0, best_step=0, worse=4), 1e6)
    assert "Lower training.learning_rate (1e+06 now)" in capsys.readouterr().err
    warn_of_no_gain(run, Progress(best_loss=2.0, best_step=10), 1e6)
    warn_of_no_gain(run, Progress(), 1e6)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --config CONFIG or --resume RUN"),
        (["--resume", "r", "training.max_steps=3"], "continues a run as it was"),
        (["--resume", "nowhere"], "nowhere is no run folder"),
        (["--resume", "nowhere", "training.devices=2"], "nowhere is no run folder"),
        (["--config", "a", "--resume", "r", "--distributed"], "give either --config CONFIG or"),
    ],
)
def test_arguments_that_make_no_run_are_refused(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
