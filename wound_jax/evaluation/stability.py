"""How smoothly a run trained: variation of its loss, spikes of its gradient.

    variation   sd / mean of the per-step loss over the last tenth of the steps, its line removed
    spike       a step whose gradient norm, before the clip, exceeds median + 6 MAD of the 200 steps
                before it

Losses have different scales, so the raw variance says nothing by itself; neither figure says that
a model is good.
"""

import numpy as np
from numpy.typing import ArrayLike

WINDOW = 200
# Fewer steps than this before a step give no median worth comparing with.
_FEWEST = 20
_MADS = 6.0


def loss_variation(losses: ArrayLike, share: float = 0.1) -> float:
    """Coefficient of variation of the detrended loss at the end of a run.

    Args:
        losses: the training loss of each step.
        share: which last share of the steps to look at.

    Returns:
        sd / mean, with the least-squares line taken out; NaN below three steps.
    """
    values = np.asarray(losses, dtype=float)
    tail = values[-max(1, round(share * len(values))) :]
    if len(tail) < 3:
        return float("nan")
    steps = np.arange(len(tail))
    line = np.polyval(np.polyfit(steps, tail, 1), steps)
    return float((tail - line).std(ddof=2) / tail.mean())


def gradient_spikes(norms: ArrayLike, warmup: int = 0) -> np.ndarray:
    """The steps at which the gradient spiked.

    Args:
        norms: gradient norm of each step, before the clip.
        warmup: steps of the learning-rate warm-up, which are not judged.

    Returns:
        Positions of the spikes.
    """
    values = np.asarray(norms, dtype=float)
    spikes = []
    for step in range(max(warmup, _FEWEST), len(values)):
        before = values[max(0, step - WINDOW) : step]
        median = np.median(before)
        if values[step] > median + _MADS * np.median(np.abs(before - median)):
            spikes.append(step)
    return np.array(spikes, dtype=int)
