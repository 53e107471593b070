"""What it gains to train the seeds of a run in one program instead of one after the other.

    gain(steps) = sum over seeds (compile_s + steps t_s) / (compile_together + steps t_together)

Where the device is busy with one seed already, the time of the steps stays what it was, and the
gain is in the compilations; where it is not, the steps of all seeds cost little more than one's.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from wound_jax.config import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.training.loop import Trainable
from wound_jax.training.seeds import SeedsRun, with_seed
from wound_jax.training.setup import Run


@dataclass(frozen=True)
class Timing:
    """Seconds of one program.

    Attributes:
        first: the first step, with its compilation.
        step: one of the later steps.
    """

    first: float
    step: float

    def total(self, steps: int) -> float:
        """Seconds of a training of so many steps."""
        return self.first + (steps - 1) * self.step


@dataclass(frozen=True)
class SeedTiming:
    """Seeds one by one and in one program.

    Attributes:
        alone: of each seed.
        together: of all seeds at once.
    """

    alone: tuple[Timing, ...]
    together: Timing

    def gain(self, steps: int) -> float:
        """How many times faster all seeds are trained together."""
        return sum(one.total(steps) for one in self.alone) / self.together.total(steps)


def time_seeds(
    config: RunConfig, seeds: Sequence[int], data: PreparedData, steps: int = 20
) -> SeedTiming:
    """Trains for some steps, without validation and logs, and measures.

    Args:
        config: of the run.
        seeds: those to train.
        data: the cells.
        steps: how many steps to average over, after the first.
    """
    alone = tuple(_time(Run(with_seed(config, seed), data), steps) for seed in seeds)
    return SeedTiming(alone, _time(SeedsRun(config, seeds, data), steps))


def _time(run: Trainable, steps: int) -> Timing:
    plans = run.epoch(0)
    state, ends = run.state, [time.perf_counter()]
    for k in range(steps + 1):
        state, metrics = run.step(state, run.feed.cells, run.feed.batch(plans[k % len(plans)]))
        if k in (0, steps):
            jax.block_until_ready((state, metrics))
            ends.append(time.perf_counter())
    start, first, last = ends
    return Timing(first - start, (last - first) / steps)
