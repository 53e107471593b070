"""A network's mean cell, drawn back to what it makes of the controls that it was trained with.

What sets the control cells of a held-out stratum s apart from training controls of the same type is
partly biology and partly the sampling of a few replicates. A network that adds a delta to the
control cells hands all of it on to its prediction. With n the mean cell that the network predicts,
and l the training strata most like s by label (as for `type_timepoint_mean_delta`),

    regressed mean = n_l + slope (n_s - n_l),     0 <= slope <= 1,

where the slope is the one that `regressed_mean_delta` chose on training strata held out, for each
kind of novelty: 1 keeps what sets the controls apart, 0 takes it for noise. An unknown cell type
has no training stratum of its own, and is left as the network predicts it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wound_jax.baselines.mean_rules import type_timepoint_mean
from wound_jax.baselines.profiles import Novelty
from wound_jax.baselines.stacked_linear import StackedLinear
from wound_jax.baselines.training import Learnt
from wound_jax.data.strata import Stratum

_RULE = "regressed_mean_delta"

Mean = Float[np.ndarray, " genes"]


@dataclass(frozen=True, eq=False)
class ShrunkControls:
    """What the network makes of the training strata, and how much of a difference to keep.

    Attributes:
        training: the training strata.
        made: float64 [strata, genes], the mean cell that the network predicts for each.
        slopes: for each kind of novelty; that of an unknown type is 1.
    """

    training: Learnt
    made: Float[np.ndarray, "strata genes"]
    slopes: Mapping[Novelty, float]

    @classmethod
    def of(cls, rule: StackedLinear, made: Sequence[Mean] | np.ndarray) -> "ShrunkControls":
        """The regression with the slopes that the linear rules chose.

        Args:
            rule: fitted on the training strata.
            made: for each of them the mean cell that the network predicts, in their order.
        """
        (regressed,) = (member for member in rule.members if member.rule.name == _RULE)
        slopes = {novelty: float(regressed.settings[novelty]) for novelty in Novelty}
        means = np.asarray(made, dtype=np.float64)
        assert means.shape == rule.training.examples.deltas.shape, "one mean a training stratum"
        return cls(rule.training, means, slopes | {Novelty.TYPE: 1.0})

    def slope(self, stratum: Stratum) -> float:
        """How much of what sets the controls of a stratum apart is kept."""
        return self.slopes[self.training.novelty_of(stratum)]

    def mean(self, predicted: Mean, stratum: Stratum) -> Mean:
        """The regressed mean of a stratum.

        Args:
            predicted: the mean cell that the network predicts for it.
            stratum: its control cells.
        """
        known, wanted = self.training.examples.profiles, self.training.profiles([stratum])
        same_perturbation = known.perturbation == stratum.perturbation
        (alike,) = type_timepoint_mean(
            known.take(same_perturbation), self.made[same_perturbation], wanted
        )
        return alike + self.slope(stratum) * (predicted - alike)
