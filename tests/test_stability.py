"""Loss variation, gradient spikes and improvement against cases whose answer is known."""

import numpy as np
import pytest
import tiny_run

from wound_jax.evaluation.stability import (
    clip_rate,
    gradient_spikes,
    improvement,
    loss_variance,
    loss_variation,
    training_stability,
)
from wound_jax.training.log import read_metrics
from wound_jax.training.loop import Loop

pytestmark = pytest.mark.quick


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
    assert np.isnan(loss_variation([1.0, 2.0], share=1.0))
    # One above, two beside, a line through them that is flat: 6 / 9 over 3 - 2.
    assert loss_variation([1.0, 2.0, 1.0], share=1.0) == pytest.approx((2 / 3) ** 0.5 / (4 / 3))
    assert np.isnan(loss_variance([4.0, 1.0, 3.0, 5.0])), "a tenth is one step"
    assert loss_variance([3.0, 5.0], share=1.0) == pytest.approx(2.0)


def test_a_line_is_taken_out_and_no_curve():
    steps = np.arange(40.0)
    curve = (steps - 19.5) ** 2 + 10
    found = loss_variation(curve, share=1.0)
    assert found == pytest.approx(curve.std() * (40 / 38) ** 0.5 / curve.mean())


def test_a_loss_about_zero_has_no_variation():
    assert np.isnan(loss_variation([1.0, -1.0, 1.0, -1.0], share=1.0))


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


@pytest.mark.parametrize("oldest", [0.0, 1.0])
def test_the_window_holds_the_200_steps_before_and_not_the_step_itself(oldest):
    """Half 0 and half 1: beyond 0.5 + 6 * 0.5. One more of either, and the median is that one."""
    norms = np.concatenate([[oldest], np.tile([0.0, 1.0], 100), [3.4]])
    assert gradient_spikes(norms, warmup=201).tolist() == []
    # With itself among them the bound would be 1 + 6.
    assert gradient_spikes(np.append(norms[:-1], 3.6), warmup=201).tolist() == [201]
    first = np.append(np.tile([0.0, 1.0], 10), 3.6)
    assert gradient_spikes(first).tolist() == [20]
    assert gradient_spikes(first[1:]).tolist() == [], "19 steps before it are too few"
    assert gradient_spikes(np.append(first[:-1], 3.4)).tolist() == []


def log(losses, norms, validations) -> list[dict]:
    """A run's records: one a step, and one a validation of (step, loss, distance part)."""
    steps = [
        {"step": k + 1, "train/loss": loss, "train/grad_norm": norm}
        for k, (loss, norm) in enumerate(zip(losses, norms, strict=True))
    ]
    found = [{"step": s, "val/loss": loss, "val/ot_loss": ot} for s, loss, ot in validations]
    return sorted(steps + found, key=lambda record: record["step"])


def judged(records, **changes) -> dict[str, float]:
    options = {"clip_norm": 10.0, "warmup_steps": 0, "steps_per_epoch": 16, "identity_loss": 4.0}
    return training_stability(records, **{**options, **changes})


def test_the_figures_of_a_run_whose_answers_are_known():
    norms = np.random.default_rng(3).uniform(0.9, 1.1, 420)
    norms[[100, 200, 300, 400]] = 20.0
    losses = np.concatenate([np.full(378, 9.0), np.tile([1.0, 3.0], 21)])
    found = judged(log(losses, norms, [(0, 10.0, 8.0), (200, 5.0, 3.0), (420, 6.0, 2.0)]))
    # 42 values, one above or below 2; their line takes 21^2 / (n (n^2 - 1) / 12) of the squares.
    assert found["loss_variance"] == pytest.approx(42 / 41)
    assert found["loss_cv"] == pytest.approx(np.sqrt((42 - 441 / 6170.5) / 40) / 2)
    # 4 spikes in the 400 steps that can be judged.
    assert found["spikes_per_1000"] == pytest.approx(10)
    assert found["spikes_per_epoch"] == pytest.approx(0.16)
    assert found["clip_rate"] == pytest.approx(4 / 420)
    assert (found["untrained_loss"], found["best_loss"]) == (10.0, 5.0)
    assert found["improvement"] == pytest.approx(0.5)
    # The distance at the best loss, not the best distance.
    assert found["improvement_on_identity"] == pytest.approx((4 - 3) / 4)


def test_what_cannot_be_computed_is_nan():
    short = judged(log([2.0], [1.0], []), identity_loss=None)
    assert {name for name, value in short.items() if np.isnan(value)} == set(short) - {"clip_rate"}
    assert all(np.isnan(value) for value in judged([], identity_loss=None).values())
    late = judged(log([2.0, 2.0], [1.0, 1.0], [(40, 3.0, 3.0)]), identity_loss=0.0)
    assert late["best_loss"] == 3.0
    assert np.isnan([late["untrained_loss"], late["improvement"]]).all()
    assert np.isnan(late["improvement_on_identity"])


def test_a_model_worse_than_no_change_improves_by_less_than_nothing():
    assert improvement(2.0, 3.0) == pytest.approx(-0.5)
    assert improvement(0.5, 0.2) == pytest.approx(0.6)


def test_one_step_that_can_be_judged_is_enough():
    norms = np.append(np.ones(20), 9.0)
    assert judged(log(norms, norms, []))["spikes_per_1000"] == 1000
    assert np.isnan(judged(log(norms[1:], norms[1:], []))["spikes_per_1000"])


def test_a_distance_that_was_not_finite_has_no_improvement():
    found = judged(log([], [], [(0, 4.0, 4.0), (10, 2.0, None)]))
    assert found["improvement"] == pytest.approx(0.5)
    assert (found["identity_loss"], np.isnan(found["improvement_on_identity"])) == (4.0, True)


def test_a_warm_up_counts_neither_as_spikes_nor_as_steps():
    norms = np.random.default_rng(4).uniform(0.9, 1.1, 300)
    norms[[60, 250]] = 9.0
    found = judged(log(np.ones(300), norms, []), warmup_steps=100)
    assert found["spikes_per_1000"] == pytest.approx(1000 / 200)


def test_without_a_clip_nothing_is_clipped():
    assert clip_rate([1.0, 50.0], None) == 0.0
    assert clip_rate([1.0, 50.0], 10.0) == 0.5
    assert clip_rate([10.0, 50.0], 10.0) == 0.5, "what is as long as the clip stays as it is"


def test_a_validation_that_was_not_finite_is_passed_over():
    records = [*log([], [], [(0, 4.0, 4.0), (10, 2.0, 2.0)]), {"step": 20, "val/loss": None}]
    assert judged(records)["improvement"] == pytest.approx(0.5)


def test_the_keys_of_a_real_log(tmp_path):
    training = tiny_run.config().training.model_copy(update={"val_every": 10})
    run = tiny_run.new_run(total_steps=25)
    Loop(run, training, tiny_run.data().spec, tmp_path, progress_bar=False).train()
    found = training_stability(
        read_metrics(tmp_path),
        clip_norm=1e-6,
        warmup_steps=0,
        steps_per_epoch=run.batches_per_epoch,
        identity_loss=10.0,
    )
    assert all(np.isfinite(value) for name, value in found.items() if name != "loss_cv")
    assert found["clip_rate"] == 1.0
    assert found["best_loss"] <= found["untrained_loss"]
