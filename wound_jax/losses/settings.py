"""Settings of the losses: `loss`, by its name, and `velocity`."""

from typing import Annotated, Literal

from pydantic import Field

from wound_jax.registry import (
    ActsWith,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
    Variant,
    Variants,
)


class LossSettings(Variant):
    """The distance between a predicted and a measured set of cells."""

    name: str = ""


LOSSES = Variants("loss", LossSettings, tag="name", method="__call__")


@LOSSES.declare("energy", "wound_jax.losses.energy")
class EnergySettings(LossSettings):
    """The energy distance, which has no options."""


@LOSSES.declare("sinkhorn", "wound_jax.losses.sinkhorn")
class SinkhornSettings(LossSettings):
    """The Sinkhorn divergence.

    `epsilon` is how its temperature is chosen: a share of the mean cost, a fixed blur^2, or
    geomloss's unconverged schedule, for parity.
    """

    epsilon: Literal["relative", "absolute", "geomloss"] = "relative"
    # The temperature over the mean cost.
    relative_epsilon: Annotated[PositiveFloat, ActsWith("epsilon", ("relative",))] = 0.3
    # The square root of the temperature, in the unit of the features.
    blur: Annotated[PositiveFloat, ActsWith("epsilon", ("absolute", "geomloss"))] = 0.05
    # The factor between successive values of blur.
    scaling: Annotated[float, Field(gt=0.0, lt=1.0), ActsWith("epsilon", ("geomloss",))] = 0.5
    # Iterations stop where the marginals of the plan are this close to the weights (sum of absolute
    # differences; float32 resolves about 1e-5), or after so many.
    threshold: Annotated[PositiveFloat, ActsWith("epsilon", ("relative", "absolute"))] = 1e-4
    max_iterations: Annotated[PositiveInt, ActsWith("epsilon", ("relative", "absolute"))] = 500


@LOSSES.declare("combined", "wound_jax.losses.combined")
class CombinedSettings(SinkhornSettings):
    """The energy distance plus sinkhorn_weight times the Sinkhorn divergence."""

    sinkhorn_weight: NonNegativeFloat = 0.01


@LOSSES.declare("mse", "wound_jax.losses.mse")
class MseSettings(LossSettings):
    """The paired mean squared error, which has no options."""


class VelocitySettings(Section):
    """The velocity loss: predicted displacements point along RNA velocity."""

    enable: bool = False
    # matched_target: velocity of the treated cells that optimal transport matches; control: the
    # control cell's own; target_by_index: the published form.
    source: Literal["matched_target", "control", "target_by_index"] = "matched_target"
    weight: PositiveFloat = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 1000
    # obs column of confidences in [0, 1]; null trusts all cells alike.
    confidence_col: str | None = "velocity_confidence"
    min_confidence: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    # Weight of the difference of lengths, |d| against scale * |v|; units of time are arbitrary.
    beta: NonNegativeFloat = 0.0
    scale: PositiveFloat = 1.0
    # Weight of mean |d - v|^2 within the term.
    regularization_weight: NonNegativeFloat = 0.0
    # Temperature of the matching, as a share of the mean cost.
    relative_epsilon: Annotated[PositiveFloat, ActsWith("source", ("matched_target",))] = 0.1
    # Lengths below it count as this: the gradient of a cosine grows without bound towards 0.
    smallest_length: PositiveFloat = 1e-2
    # The control experiment: velocities exchanged among the cells of a (type, condition).
    shuffle: bool = False
