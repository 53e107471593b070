"""The energy distance plus a small share of the Sinkhorn divergence.

    L = E(x, y) + w S(x, y)

The energy distance is in the unit of the features, the Sinkhorn divergence in its square. Published
models use w from 0.001 to 0.01, with epsilon "geomloss" and blur 0.05.
"""

from dataclasses import dataclass

from wound_jax.arrays import CellFeatures, CellMask, TargetFeatures, TargetMask
from wound_jax.errors import UserError
from wound_jax.losses import SetLossValue, register_loss
from wound_jax.losses.energy import energy
from wound_jax.losses.sinkhorn import Sinkhorn


@register_loss("combined")
@dataclass(frozen=True, kw_only=True)
class Combined(Sinkhorn):
    """Energy distance plus a Sinkhorn divergence, whose options it takes.

    Attributes:
        sinkhorn_weight: w above, at least 0.

    Raises:
        UserError: an option is out of range.
    """

    sinkhorn_weight: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sinkhorn_weight >= 0:
            raise UserError(f"sinkhorn_weight is {self.sinkhorn_weight}; it must be at least 0.")

    def __call__(
        self,
        predicted: CellFeatures,
        target: TargetFeatures,
        predicted_mask: CellMask,
        target_mask: TargetMask,
    ) -> SetLossValue:
        """The weighted sum of each set; both terms are among the diagnostics."""
        sets = (predicted, target, predicted_mask, target_mask)
        near, far = energy(*sets), super().__call__(*sets)
        terms = {"energy": near.value, "sinkhorn": far.value}
        return SetLossValue(
            near.value + self.sinkhorn_weight * far.value, {**terms, **far.diagnostics}
        )
