"""Nothing changes: the baseline that every effect is measured against."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from wound_jax.evaluation.baselines.registry import baseline
from wound_jax.evaluation.strata import Stratum


@baseline("identity")
@dataclass(frozen=True, eq=False)
class Identity:
    """The control cells themselves."""

    @classmethod
    def fit(cls, training: Sequence[Stratum], non_negative: bool) -> "Identity":
        """Nothing to learn."""
        return cls()

    def predict(self, stratum: Stratum) -> Float[np.ndarray, "cells genes"]:
        """The control cells, float32."""
        return stratum.control.astype(np.float32)
