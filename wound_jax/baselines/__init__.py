"""Predictions that need no network: what a model has to beat.

Owns the baselines. A new one is a class or a rule that registers itself, in a new file of this
folder, which is found by itself, or in a module of your own. Three kinds of them:

- delta rules (`rules`): one delta for all control cells of a stratum, computed from the means of
  training strata; what they leave open is chosen on training strata held out;
- others that move control cells: each by a delta of its own, or by a delta of a latent space;
- `covariate_only`, which ignores the control cells on purpose: a probe for what labels alone
  explain, and for metrics that reward a collapse of all cells to their mean.

All others move cells and do not replace them by a mean, so that the spread of the cells survives
and distances between sets stay meaningful:

    predicted_i = control_i + delta      (kept non-negative without changing the mean: `moving`)
"""

from wound_jax.baselines.registry import (
    BASELINES,
    Baseline,
    BaselineFamily,
    baseline,
    fit_baselines,
)

__all__ = ["BASELINES", "Baseline", "BaselineFamily", "baseline", "fit_baselines"]
