"""Paired mean squared error: the i-th predicted against the i-th target cell.

    mse = mean over valid pairs i and features k of (x_ik - y_ik)^2

Cells of a set have no natural partner, so this is no distance between sets: it is here for parity
with published runs and as an ablation of the losses that are.
"""

import jax.numpy as jnp

from wound_jax.arrays import CellFeatures, CellMask, TargetFeatures, TargetMask
from wound_jax.errors import UserError
from wound_jax.losses.distances import loss_dtype
from wound_jax.losses.registry import SetLossValue, register_loss
from wound_jax.losses.settings import MseSettings


@register_loss("mse")
class Mse(MseSettings):
    """The paired mean squared error, a set loss without options."""

    def __call__(
        self,
        predicted: CellFeatures,
        target: TargetFeatures,
        predicted_mask: CellMask,
        target_mask: TargetMask,
    ) -> SetLossValue:
        """The mean squared error of each set over the pairs valid on both sides; no diagnostics.

        Raises:
            UserError: the sets hold different numbers of places.
        """
        if predicted.shape != target.shape:
            raise UserError(
                f"the loss 'mse' compares cells in pairs, but got {predicted.shape[1]} predicted "
                f"and {target.shape[1]} target places of {predicted.shape[2]} and "
                f"{target.shape[2]} features. "
                "Use sets of equal size, or a loss between sets such as 'energy'."
            )
        dtype = loss_dtype(predicted, target)
        paired = (predicted_mask & target_mask)[..., None]
        # Masked before the square: the gradient of a padded place is then 0, whatever it holds.
        difference = jnp.where(paired, predicted.astype(dtype) - target.astype(dtype), 0)
        count = jnp.maximum(paired.sum(axis=(1, 2)), 1) * predicted.shape[2]
        return SetLossValue((difference**2).sum(axis=(1, 2)) / count)
