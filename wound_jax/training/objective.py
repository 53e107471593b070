"""What is minimised: the distance between predicted and measured sets, and what is added to it.

    loss = distance(cells) + decoder_weight * distance(genes) + lambda(t) * velocity

Each term is one value a set, unreduced; `_mean_over_sets` is the one place where sets are averaged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from wound_jax.arrays import Parameters, PerSet, Scalar
from wound_jax.losses.registry import SetLoss, SetLossValue
from wound_jax.losses.settings import VelocitySettings
from wound_jax.losses.velocity import (
    Drift,
    alignment_loss,
    regularization_loss,
    velocity_weights,
    warmup_weight,
)
from wound_jax.models.functional import predict
from wound_jax.models.set_transformer import Prediction
from wound_jax.training.batch import SetBatch

Metrics = dict[str, Scalar]


@dataclass(frozen=True)
class Objective:
    """What is minimised.

    Attributes:
        graphdef: the model's structure.
        loss: distance between predicted and measured sets.
        decoder_weight: weight of the same distance between decoded and measured expression.
        velocity: the velocity term; None leaves it out.
    """

    graphdef: nnx.GraphDef
    loss: SetLoss
    decoder_weight: float
    velocity: "VelocityTerm | None" = None

    def __call__(
        self,
        parameters: Parameters,
        batch: SetBatch,
        key: jax.Array | None = None,
        step: Int[Array, ""] | None = None,
    ) -> tuple[Scalar, Metrics]:
        """The loss of a batch, averaged over its measured cells, and its parts.

        Args:
            parameters: all parameters of the model.
            batch: the sets.
            key: dropout key; None evaluates without dropout.
            step: for warm-ups; None takes them as finished, so that validations are comparable.
        """
        prediction = predict(self.graphdef, parameters, batch.inputs, key)
        distance = self._distance(prediction.cells, batch.target, batch)
        metrics = {"ot_loss": _mean_over_sets(distance.value, batch)}
        metrics |= {name: _mean_over_sets(v, batch) for name, v in distance.diagnostics.items()}
        metrics |= prediction.diagnostics
        total = metrics["ot_loss"]
        if prediction.genes is not None:
            metrics["decoder_loss"] = self._decoder_loss(prediction, batch)
            total = total + self.decoder_weight * metrics["decoder_loss"]
        if self.velocity is not None:
            term, figures = self.velocity(prediction, batch, step)
            total, metrics = total + term, metrics | figures
        return total, {"loss": total, **metrics}

    def identity(self, batch: SetBatch) -> Scalar:
        """`ot_loss` of the control cells themselves: what predicting no change costs."""
        distance = self._distance(batch.inputs.control, batch.target, batch)
        return _mean_over_sets(distance.value, batch)

    def _distance(self, predicted, target, batch: SetBatch) -> SetLossValue:
        return self.loss(predicted, target, batch.inputs.mask, batch.target_mask)

    def _decoder_loss(self, prediction: Prediction, batch: SetBatch) -> Scalar:
        distance = self._distance(prediction.genes, batch.target_genes, batch)
        return _mean_over_sets(distance.value, batch)


def _mean_over_sets(values: PerSet, batch: SetBatch) -> Scalar:
    """The one place where sets are averaged: a set counts by its measured cells.

    So each treated cell has the same weight, a set of three cells (whose distance is mostly noise)
    does not weigh like one of 128, and the empty sets that fill up a batch do not count.
    """
    weight = set_weights(batch)
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def set_weights(batch: SetBatch) -> PerSet:
    """Number of measured cells of each set; 0 where no control cell answers to them."""
    return batch.target_mask.sum(-1) * batch.inputs.mask.any(-1).astype(jnp.float32)


@dataclass(frozen=True)
class VelocityTerm:
    """The velocity loss of a run.

    Attributes:
        config: weights and thresholds.
        assign: gives each predicted cell a velocity (`losses.velocity.assign_velocity` with its
            source bound).
    """

    config: VelocitySettings
    assign: Callable[..., Drift]

    def __call__(
        self, prediction: Prediction, batch: SetBatch, step: Int[Array, ""] | None
    ) -> tuple[Scalar, Metrics]:
        """The weighted loss `lambda(t) (align + regularization_weight reg)`, and its parts.

        Args:
            prediction: the predicted cells.
            batch: the sets, with the velocities that the source names.
            step: for the warm-up; None takes it as finished.
        """
        config, velocity, mask = self.config, batch.velocity, batch.inputs.mask
        if velocity is None:
            raise TypeError("the velocity loss needs batches with velocities")
        drift = self.assign(
            Drift(velocity.velocity, velocity.confidence),
            prediction.cells,
            mask,
            batch.target,
            batch.target_mask,
        )
        # Features without a velocity say nothing about the direction.
        displacement = (prediction.cells - batch.inputs.control) * velocity.dims[:, None, :]
        weights = velocity_weights(drift.velocity, drift.confidence, mask, config.min_confidence)
        align = alignment_loss(
            displacement,
            drift.velocity,
            weights,
            mask=mask,
            beta=config.beta,
            scale=config.scale,
            eps=config.smallest_length,
        )
        reg = regularization_loss(displacement, drift.velocity, mask & (weights > 0))
        mean = _mean_over_sets(align.loss + config.regularization_weight * reg, batch)
        weight = self._weight(step)
        return weight * mean, {
            "velocity_loss": mean,
            "velocity_weight": weight,
            "velocity_cosine": _mean_over_sets(align.cosine, batch),
            "velocity_used": _mean_over_sets(align.used, batch),
        }

    def _weight(self, step: Int[Array, ""] | None) -> Scalar:
        """lambda(t)."""
        if step is None:
            return jnp.asarray(self.config.weight)
        return warmup_weight(step, self.config.weight, self.config.warmup_steps)
