"""Where the change of a further animal would lie, from the animals there are.

Animals of one timepoint are few (one to three), so their spread is pooled over the timepoints t:

    s^2 = sum_t sum_a (x_ta - mean_t)^2 / df,   df = sum_t (n_t - 1)
    interval_t = mean_t +- q s sqrt(1 + 1 / n_t),   q the quantile of Student's t with df

the prediction interval of a normal sample (Hahn and Meeker 1991, Statistical Intervals, ch. 4).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from wound_jax.evaluation.biology.inputs import rows_by_animal
from wound_jax.evaluation.strata import Stratum

# Cells an animal must have in an arm for its mean to stand for it.
FEWEST_CELLS = 10
# With fewer degrees of freedom the interval is so wide that it accepts nearly anything.
FEWEST_DEGREES = 3


class AnimalChanges(NamedTuple):
    """What the treatment changed in each treated animal of one stratum.

    Attributes:
        by_animal: animal -> its mean minus that of the controls.
        controls: the control animals; none where each animal is its own control, so that the
            spread of the controls is in the changes already.
    """

    by_animal: dict[str, float]
    controls: frozenset[str]

    def joined(self, other: "AnimalChanges") -> "AnimalChanges":
        """These animals and those of `other` that are not among them."""
        return AnimalChanges({**other.by_animal, **self.by_animal}, self.controls | other.controls)


class Interval(NamedTuple):
    """An interval that another sample of the same truth should fall into.

    Attributes:
        low: lower end.
        high: upper end.
        sign: sign of the change where it can be told from none at 5 %, else 0.
        source: what its width is made of.
        n_animals: treated animals behind it; 0 where it is made of cells.
    """

    low: float
    high: float
    sign: int
    source: str
    n_animals: int


def animal_changes(
    stratum: Stratum, control: Float[np.ndarray, " cells"], treated: Float[np.ndarray, " targets"]
) -> AnimalChanges:
    """Change of each treated animal with at least `FEWEST_CELLS` cells.

    Args:
        stratum: names the animals.
        control: a value of each control cell.
        treated: a value of each treated cell.
    """
    sources = rows_by_animal(stratum.treated_animals, FEWEST_CELLS)
    controls = rows_by_animal(stratum.control_animals, FEWEST_CELLS)
    means = {name: float(treated[rows].mean()) for name, rows in sources.items()}
    if set(means) <= set(controls):
        own = {name: float(control[controls[name]].mean()) for name in means}
        return AnimalChanges({name: means[name] - own[name] for name in means}, frozenset())
    base = float(control.mean())
    # Controls of unknown animals count as one, the least that they can be.
    return AnimalChanges(
        {name: mean - base for name, mean in means.items()}, frozenset(controls or ("all",))
    )


def animal_intervals(
    changes: Sequence[AnimalChanges], alpha: float, source: str
) -> list[Interval] | None:
    """Prediction intervals (module docstring), one for each timepoint of a cell type.

    Whether a change differs from none is judged at 5 % with the control animals taken to vary as
    the treated ones do: |mean_t| > q s sqrt(1 / n_t + 1 / n_controls).

    Args:
        changes: of one cell type, one entry a timepoint.
        alpha: share of further animals that may fall outside.
        source: name of these animals.

    Returns:
        None where a timepoint has no animal, or they leave fewer than `FEWEST_DEGREES`.
    """
    samples = [np.array(list(one.by_animal.values())) for one in changes]
    degrees = sum(len(sample) - 1 for sample in samples)
    if not all(map(len, samples)) or degrees < FEWEST_DEGREES:
        return None
    spread = np.sqrt(sum(float(np.square(x - x.mean()).sum()) for x in samples) / degrees)
    wide, usual = stats.t.ppf([1 - alpha / 2, 0.975], degrees) * spread
    found = []
    for sample, one in zip(samples, changes, strict=True):
        mean, n = float(sample.mean()), len(sample)
        reach = wide * np.sqrt(1 + 1 / n)
        noise = usual * np.sqrt(1 / n + (1 / len(one.controls) if one.controls else 0.0))
        sign = int(np.sign(mean)) if abs(mean) > noise else 0
        found.append(Interval(float(mean - reach), float(mean + reach), sign, source, n))
    return found


def cell_interval(
    control: Float[np.ndarray, " cells"], treated: Float[np.ndarray, " targets"], alpha: float
) -> Interval:
    """Normal interval of the change from the spread of cells, where animals are too few.

    mean T - mean C +- z sqrt(var T / n_T + var C / n_C). It leaves out how animals differ, and is
    therefore narrower than one of animals.

    Args:
        control: a value of each control cell, at least two.
        treated: a value of each treated cell, at least two.
        alpha: share outside.
    """
    change = float(treated.mean() - control.mean())
    error = np.sqrt(sum(values.var(ddof=1) / len(values) for values in (control, treated)))
    wide, usual = stats.norm.ppf([1 - alpha / 2, 0.975]) * error
    sign = int(np.sign(change)) if abs(change) > usual else 0
    return Interval(float(change - wide), float(change + wide), sign, "cells", 0)
