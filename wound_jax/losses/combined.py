"""The energy distance plus a small share of the Sinkhorn divergence.

    L = E(x, y) + w S(x, y)

The energy distance is in the unit of the features, the Sinkhorn divergence in its square. Published
models use w from 0.001 to 0.01, with epsilon "geomloss" and blur 0.05.
"""

from wound_jax.arrays import CellFeatures, CellMask, TargetFeatures, TargetMask
from wound_jax.losses.energy import Energy
from wound_jax.losses.registry import SetLossValue, register_loss
from wound_jax.losses.settings import CombinedSettings
from wound_jax.losses.sinkhorn import Sinkhorn


@register_loss("combined")
class Combined(CombinedSettings, Sinkhorn):
    """Energy distance plus a Sinkhorn divergence, whose options it takes."""

    def __call__(
        self,
        predicted: CellFeatures,
        target: TargetFeatures,
        predicted_mask: CellMask,
        target_mask: TargetMask,
    ) -> SetLossValue:
        """The weighted sum of each set; both terms are among the diagnostics."""
        sets = (predicted, target, predicted_mask, target_mask)
        near, far = Energy()(*sets), super().__call__(*sets)
        terms = {"energy": near.value, "sinkhorn": far.value}
        return SetLossValue(
            near.value + self.sinkhorn_weight * far.value, {**terms, **far.diagnostics}
        )
