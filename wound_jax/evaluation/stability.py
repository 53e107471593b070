"""How smoothly a run trained, and how far its validation loss fell.

    variation     sd / mean of the per-step loss over the last tenth of the steps, its line removed
    spike         a step whose gradient norm, before the clip, exceeds median + 6 MAD of the 200
                  steps before it
    improvement   (reference - best) / reference, the reference being the untrained model or the
                  control cells themselves (the identity)

Losses have different scales, so the raw variance says nothing by itself; none of these figures
says that a model is good. The identity form of the improvement is the one that decides: a random
initialisation is easily improved on, predicting no change at all is not.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

WINDOW = 200
# The share of the steps at the end of a run that its loss is judged by.
TAIL = 0.1
# Fewer steps than this before a step give no median worth comparing with.
_FEWEST = 20
_MADS = 6.0

# One line of `metrics.jsonl`; a figure that was not finite is None.
Record = Mapping[str, float | None]


def training_stability(
    records: Sequence[Record],
    *,
    clip_norm: float | None,
    warmup_steps: int,
    steps_per_epoch: int,
    identity_loss: float | None = None,
) -> dict[str, float]:
    """The plan's figures of a training run, from its log.

    Args:
        records: the run's `metrics.jsonl`: one record a training step with `train/loss` and
            `train/grad_norm`, one a validation with `val/loss` and `val/ot_loss`, the untrained
            model's at step 0.
        clip_norm: `training.clip_norm`; None where nothing is clipped.
        warmup_steps: `training.warmup_steps`; these steps are not judged for spikes.
        steps_per_epoch: batches of an epoch. Epochs differ between data sets (16 steps in the
            published runs), so spikes per 1,000 steps are given beside spikes per epoch.
        identity_loss: `ot_loss` of the control cells themselves on the fixed validation sets; None
            where it is not known.

    Returns:
        NaN stands for what cannot be computed from these records.

        - loss_cv, loss_variance: `loss_variation` and `loss_variance` of `train/loss`.
        - spikes_per_epoch, spikes_per_1000: rates over the steps that can be judged.
        - clip_rate: share of all steps whose gradient was clipped.
        - untrained_loss, best_loss: `val/loss` at step 0, and the lowest of all validations.
        - identity_loss: as given.
        - improvement: of `best_loss` on `untrained_loss`.
        - improvement_on_identity: of `val/ot_loss` at the best validation on `identity_loss`. The
          distance alone is compared, as the identity has no velocity loss and decodes no gene;
          without these terms it is the whole loss.
    """
    losses, norms = _series(records, "train/loss"), _series(records, "train/grad_norm")
    judged = len(norms) - _first_judged(warmup_steps)
    spikes = len(gradient_spikes(norms, warmup_steps)) / judged if judged > 0 else math.nan
    untrained, best, best_distance = _validation_losses(records)
    identity = math.nan if identity_loss is None else float(identity_loss)
    return {
        "loss_cv": loss_variation(losses),
        "loss_variance": loss_variance(losses),
        "spikes_per_epoch": spikes * steps_per_epoch,
        "spikes_per_1000": spikes * 1000,
        "clip_rate": clip_rate(norms, clip_norm),
        "untrained_loss": untrained,
        "best_loss": best,
        "identity_loss": identity,
        "improvement": improvement(untrained, best),
        "improvement_on_identity": improvement(identity, best_distance),
    }


def loss_variation(losses: ArrayLike, share: float = TAIL) -> float:
    """Coefficient of variation of the detrended loss at the end of a run.

    Args:
        losses: the training loss of each step.
        share: which last share of the steps to look at.

    Returns:
        sd / mean, with the least-squares line taken out; NaN below three steps, and where the mean
        is not positive.
    """
    tail = _tail(losses, share)
    if len(tail) < 3 or not tail.mean() > 0:
        return math.nan
    steps = np.arange(len(tail))
    line = np.polyval(np.polyfit(steps, tail, 1), steps)
    return float((tail - line).std(ddof=2) / tail.mean())


def loss_variance(losses: ArrayLike, share: float = TAIL) -> float:
    """Raw variance of the loss at the end of a run, in the square of the loss's unit.

    Args:
        losses: the training loss of each step.
        share: which last share of the steps to look at.

    Returns:
        The variance, trend and all; NaN below two steps.
    """
    tail = _tail(losses, share)
    return float(tail.var(ddof=1)) if len(tail) > 1 else math.nan


def gradient_spikes(norms: ArrayLike, warmup: int = 0) -> np.ndarray:
    """The steps at which the gradient spiked.

    Args:
        norms: gradient norm of each step, before the clip.
        warmup: steps of the learning-rate warm-up, which are not judged.

    Returns:
        Positions of the spikes. The first 20 steps of a run are not judged either.
    """
    values = np.asarray(norms, dtype=float)
    spikes = []
    for step in range(_first_judged(warmup), len(values)):
        before = values[max(0, step - WINDOW) : step]
        median = np.median(before)
        if values[step] > median + _MADS * np.median(np.abs(before - median)):
            spikes.append(step)
    return np.array(spikes, dtype=int)


def clip_rate(norms: ArrayLike, clip_norm: float | None) -> float:
    """Share of the steps whose gradient was clipped.

    Args:
        norms: gradient norm of each step, before the clip.
        clip_norm: the largest norm that is left as it is; None where nothing is clipped.

    Returns:
        Between 0 and 1; NaN without steps.
    """
    values = np.asarray(norms, dtype=float)
    if not len(values):
        return math.nan
    return 0.0 if clip_norm is None else float(np.mean(values > clip_norm))


def improvement(reference: float, best: float) -> float:
    """How far a loss lies below a reference, as a share of the reference.

    Returns:
        (reference - best) / reference: 1 is perfect, 0 no better, negative worse. NaN where either
        is NaN or the reference is not positive.
    """
    return (reference - best) / reference if reference > 0 else math.nan


def _first_judged(warmup: int) -> int:
    """The first position that has steps enough before it and is past the warm-up."""
    return max(warmup, _FEWEST)


def _tail(losses: ArrayLike, share: float) -> np.ndarray:
    """The last share of the steps, at least one where there is any."""
    values = np.asarray(losses, dtype=float)
    return values[-max(1, round(share * len(values))) :]


def _series(records: Sequence[Record], name: str) -> np.ndarray:
    """The values of one figure in the order of the log, those that were not finite left out."""
    return np.array([r[name] for r in records if r.get(name) is not None], dtype=float)


def _validation_losses(records: Sequence[Record]) -> tuple[float, float, float]:
    """Loss of the untrained model, the lowest loss, and the distance part of the latter."""
    logged = [(r["step"], r["val/loss"], r.get("val/ot_loss")) for r in records if "val/loss" in r]
    known = [(step, loss, distance) for step, loss, distance in logged if loss is not None]
    if not known:
        return math.nan, math.nan, math.nan
    untrained = next((float(loss) for step, loss, _ in known if step == 0), math.nan)
    _, best, distance = min(known, key=lambda row: row[1])
    return untrained, float(best), math.nan if distance is None else float(distance)
