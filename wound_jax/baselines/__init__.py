"""Predictions that need no network: what a model has to beat.

Owns the baselines, one file for each family in this folder; a new file that registers itself is
found by itself. Three kinds of them:

- delta rules (`rules`): one delta for all control cells of a stratum, computed from the means of
  training strata; what they leave open is chosen on training strata held out;
- others that move control cells: each by a delta of its own, or by a delta of a latent space;
- `covariate_only`, which ignores the control cells on purpose: a probe for what labels alone
  explain, and for metrics that reward a collapse of all cells to their mean.

All others move cells and do not replace them by a mean, so that the spread of the cells survives
and distances between sets stay meaningful:

    predicted_i = control_i + delta      (kept non-negative without changing the mean: `moving`)
"""

import importlib
import pkgutil
from collections.abc import Iterable, Sequence

from wound_jax.baselines.registry import BASELINES, Baseline, BaselineFamily, baseline
from wound_jax.baselines.training import Training
from wound_jax.data.strata import Stratum
from wound_jax.errors import unknown_name

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["BASELINES", "Baseline", "BaselineFamily", "baseline", "fit_baselines"]


def fit_baselines(
    training: Sequence[Stratum], non_negative: bool, names: Iterable[str] | None = None
) -> dict[str, Baseline]:
    """Fit baselines by name; where no names are given all of them, the identity first.

    Args:
        training: the training strata; those without treated cells teach nothing.
        non_negative: whether the space holds no negative value.
        names: of the baselines wanted.

    Returns:
        name -> fitted baseline, in the order of the names.

    Raises:
        UserError: a name is not registered, or no training stratum has treated cells.
    """
    every = sorted(BASELINES, key=lambda name: (name != "identity", name))
    chosen = every if names is None else list(names)
    for name in chosen:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    prepared = Training(training)
    return {name: BASELINES[name].fit(prepared, non_negative) for name in chosen}
