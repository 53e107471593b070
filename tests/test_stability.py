"""Loss variation and gradient spikes against cases whose answer is known."""

import numpy as np
import pytest

from wound_jax.evaluation.stability import gradient_spikes, loss_variation


def test_a_line_has_no_variation():
    assert loss_variation(np.linspace(5, 1, 500)) == pytest.approx(0, abs=1e-12)


def test_variation_is_the_relative_noise_whatever_the_trend_and_the_scale():
    rng = np.random.default_rng(0)
    losses = 10 - 0.0005 * np.arange(10_000) + rng.normal(0, 0.2, 10_000)
    found = loss_variation(losses)
    assert found == pytest.approx(0.2 / losses[-1000:].mean(), rel=0.05)
    assert loss_variation(7 * losses) == pytest.approx(found, rel=1e-9)


def test_variation_looks_at_the_end_alone():
    quiet = np.ones(1000)
    quiet[:900] += np.random.default_rng(0).normal(0, 5, 900)
    assert loss_variation(quiet) == pytest.approx(0, abs=1e-12)


def test_too_few_steps_have_no_variation():
    assert np.isnan(loss_variation([1.0, 2.0, 3.0]))


def test_planted_spikes_are_found_and_nothing_else():
    rng = np.random.default_rng(1)
    norms = rng.uniform(0.9, 1.1, 600)
    norms[[100, 350]] = 5.0
    assert gradient_spikes(norms).tolist() == [100, 350]


def test_a_warm_up_is_not_judged():
    norms = np.random.default_rng(1).uniform(0.9, 1.1, 200)
    norms[50] = 9.0
    assert gradient_spikes(norms, warmup=60).tolist() == []


def test_a_step_is_judged_by_the_steps_before_it_alone():
    norms = np.concatenate([np.random.default_rng(2).uniform(0.9, 1.1, 300), np.full(200, 50.0)])
    spikes = gradient_spikes(norms)
    # The jump is a spike until it has become the usual, after half a window.
    assert spikes[0] == 300
    assert spikes[-1] < 300 + 110
