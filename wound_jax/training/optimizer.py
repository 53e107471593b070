"""The optimiser: one clip over all trainable gradients, then Adam, AdamW or your own per label.

`optax.multi_transform` gives each label its own rate and decay. Only trainable leaves ever reach
it, so the clip and the logged norm see what trains and nothing else (clipping by the norm of
frozen gradients too measured 2.06 where 0.77 was right).
"""

from collections.abc import Hashable
from typing import Protocol, cast, runtime_checkable

import optax

from wound_jax.training.settings import OPTIMIZERS, AdamTraining, AdamWTraining, TrainingSettings

NOT_DECAYED = ("no_decay", "mhc_no_decay")


register_optimizer = OPTIMIZERS.register


@runtime_checkable
class Optimizer(Protocol):
    """An optimiser: a class of training settings, registered, that makes the transformation."""

    def transform(
        self, rate: optax.ScalarOrSchedule, *, decays: bool
    ) -> optax.GradientTransformation:
        """The transformation for the parameters of one label.

        Args:
            rate: their learning rate.
            decays: whether weight decay, where there is one, acts on them.
        """
        ...


@register_optimizer("adam")
class Adam(AdamTraining):
    """Adam."""

    def transform(
        self, rate: optax.ScalarOrSchedule, *, decays: bool
    ) -> optax.GradientTransformation:
        """Adam, which decays nothing."""
        return optax.adam(rate)


@register_optimizer("adamw")
class AdamW(AdamWTraining):
    """Adam with decoupled weight decay."""

    def transform(
        self, rate: optax.ScalarOrSchedule, *, decays: bool
    ) -> optax.GradientTransformation:
        """AdamW."""
        return optax.adamw(rate, weight_decay=self.weight_decay if decays else 0.0)


def make_schedule(config: TrainingSettings, total_steps: int) -> optax.Schedule:
    """The learning rate at each step: linear warm-up, then constant or cosine to zero."""
    rate, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "cosine":
        decay = max(total_steps - warmup, 1)
        body = optax.cosine_decay_schedule(rate, decay)
    else:
        body = optax.constant_schedule(rate)
    if not warmup:
        return body
    # From rate / warmup, not from zero: the first step shall act.
    ramp = optax.linear_schedule(rate / warmup, rate, max(warmup - 1, 1))
    return optax.join_schedules([ramp, body], [warmup])


def make_optimizer(
    config: TrainingSettings, labels: dict[str, str], schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimiser over the trainable parameters.

    Args:
        config: optimiser, decay, clip, LoRA+ multiplier, and what is done about NaN.
        labels: label of each trainable parameter, by path.
        schedule: the learning rate.
    """
    transforms: dict[Hashable, optax.GradientTransformation] = {
        label: _label_optimizer(config, label, schedule) for label in sorted(set(labels.values()))
    }
    clip = (
        optax.identity()
        if config.clip_norm is None
        else optax.clip_by_global_norm(config.clip_norm)
    )
    optimizer = optax.chain(clip, optax.multi_transform(transforms, labels))
    if config.on_nonfinite == "stop":
        return optimizer
    return optax.apply_if_finite(optimizer, config.max_skipped)


def _label_optimizer(
    config: TrainingSettings, label: str, schedule: optax.Schedule
) -> optax.GradientTransformation:
    factor = config.lora_b_multiplier if label == "lora_b" else 1.0
    rate = schedule if factor == 1.0 else lambda step: factor * schedule(step)
    optimizer = cast(Optimizer, OPTIMIZERS.build(config))
    return optimizer.transform(rate, decays=label not in NOT_DECAYED)
