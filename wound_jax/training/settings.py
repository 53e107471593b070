"""Settings of the training: `training`, by its optimiser."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from wound_jax.registry import (
    ActsWith,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Variant,
    Variants,
)


class TrainingSettings(Variant):
    """Schedule, devices and the rhythm of validation and logs; an optimiser adds its own keys."""

    batch_size: PositiveInt = 16
    max_epochs: PositiveInt | None = 10
    max_steps: PositiveInt | None = None
    optimizer: str = ""
    learning_rate: PositiveFloat = 1e-4
    lora_b_multiplier: PositiveFloat = 1.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    clip_norm: PositiveFloat | None = 10.0
    # A loss or gradient that is not finite ends the run, or its step changes nothing; so many in a
    # row end the run too.
    on_nonfinite: Literal["stop", "skip"] = "stop"
    max_skipped: Annotated[PositiveInt, ActsWith("on_nonfinite", ("skip",))] = 10
    devices: PositiveInt | Literal["all"] = 1
    # Parts of a batch whose gradients are taken one after the other: less memory, the same step.
    accumulate: PositiveInt = 1
    # Steps handed to the devices at once, between logs and validations; cells on the device only.
    steps_per_dispatch: PositiveInt = 1
    val_every: PositiveInt = 100
    val_batches: PositiveInt = 8
    early_stopping: PositiveInt | None = None
    log_every: PositiveInt = 20

    @property
    def tolerated(self) -> int:
        """How many steps in a row may be skipped."""
        return self.max_skipped if self.on_nonfinite == "skip" else 0

    def problems(self) -> Iterator[str]:
        """No end, or more steps at once than lie between two logs."""
        if self.max_epochs is None and self.max_steps is None:
            yield (
                "training.max_epochs and training.max_steps are both null, so training would never "
                "end: set one of them."
            )
        rhythm = min(self.log_every, self.val_every)
        if self.steps_per_dispatch > rhythm and self.steps_per_dispatch > 1:
            yield (
                f"training.steps_per_dispatch={self.steps_per_dispatch} never fits between two "
                f"logs or validations (training.log_every={self.log_every}, "
                f"training.val_every={self.val_every}): set training.steps_per_dispatch to "
                f"{rhythm} or fewer."
            )


OPTIMIZERS = Variants("optimizer", TrainingSettings, tag="optimizer", method="transform")


@OPTIMIZERS.declare("adam", "wound_jax.training.optimizer")
class AdamTraining(TrainingSettings):
    """Adam (Kingma & Ba 2015)."""


@OPTIMIZERS.declare("adamw", "wound_jax.training.optimizer")
class AdamWTraining(TrainingSettings):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    weight_decay: NonNegativeFloat = 0.0
