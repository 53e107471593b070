"""Temporal coherence: is a day that was left out of training told better than by interpolation.

For a held-out day d between the training days a and b of its cell type, with w = (d - a) / (b - a):

    interpolation_d = mean T_a + w (mean T_b - mean T_a)
    error           = mean over genes of (mean P_d - mean T_d)^2, of the interpolation alike

and, over consecutive days of which one at least was held out,

    step correlation = corr(mean P_later - mean P_earlier, mean T_later - mean T_earlier)

against the same with the days of the predictions permuted, cell type by cell type. Accepted is a
prediction whose error is smaller, whose step correlation random orders reach in fewer than 5 of
100 cases, and is above that of the control cells. All three are needed: a smooth prediction comes
near the interpolation without knowing any day; one that is constant over days has no step, so that
no order of days suits it better than another; and one that adds the same to each day's control
cells takes its steps from them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import factorial, prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from wound_jax.data.strata import Stratum
from wound_jax.data.timepoints import time_of
from wound_jax.evaluation.biology.gene_sets import not_applicable, require_predictions

_ALPHA = 0.05
_DRAWS = 1000
# With fewer strata the interval of a paired difference says nothing.
_FEWEST_STRATA = 3
# Against the size of a mean cell; below it a step is the rounding of float32.
_ROUNDING = 1e-6

# Cell type and perturbation: what is followed over days.
Course = tuple[str, str]


class _Mean(NamedTuple):
    """Mean cells of one day."""

    control: Float[np.ndarray, " genes"]
    true: Float[np.ndarray, " genes"]
    predicted: Float[np.ndarray, " genes"]
    held_out: bool


def temporal_coherence(
    strata: Sequence[Stratum],
    predictions: Sequence[np.ndarray],
    training: Sequence[Stratum],
    *,
    split_kind: str,
    training_predictions: Sequence[np.ndarray] | None = None,
    seed: int = 0,
) -> dict:
    """Judge the prediction of a day that was not trained on (module docstring).

    Args:
        strata: the held-out strata.
        predictions: [n_control, genes] for each of them.
        training: the training strata, which hold the neighbouring days.
        split_kind: `split.kind` of the run; only "timepoint" leaves a day out.
        training_predictions: [n_control, genes] for each training stratum, by the same method;
            without them there are no steps, and no verdict.
        seed: seed of the permutations and of the bootstrap.

    Returns:
        "applicable"; "accepted"; "error" and "interpolation_error" (means over strata),
        "interpolated_change_error" (the interpolation of the changes, on the held-out day's own
        controls: reported, not judged), "error_gain" with "error_gain_low" and "error_gain_high"
        (interpolation minus prediction; 95 % bootstrap over strata); "step_correlation",
        "step_null_mean", "step_p_value", "control_step_correlation" (of the control cells
        themselves), "n_steps"; "strata" and "steps": one row each; "notes".

    Raises:
        UserError: predictions do not belong to their strata.
    """
    require_predictions(strata, predictions)
    if split_kind != "timepoint":
        return not_applicable(
            f"no day was left out of training (split.kind={split_kind}); train with "
            "split.kind=timepoint"
        )
    rows = list(_forecasts(strata, predictions, training))
    if not rows:
        return not_applicable(
            "no held-out day lies between two training days with treated cells of the same type"
        )
    errors = _errors(rows, seed)
    if training_predictions is None:
        return {**not_applicable("steps need predictions of the training days"), **errors}
    require_predictions(training, training_predictions)
    steps = _steps(_means(strata, predictions, training, training_predictions), seed)
    if "reason" in steps:
        return {**not_applicable(steps["reason"]), **errors}
    return {"applicable": True, "accepted": _accepted(errors, steps), **errors, **steps}


def _accepted(errors: dict, steps: dict) -> bool:
    """Nearer than the line, in the order of the days, and by more than the controls tell."""
    # Where strata are too few for an interval its end is NaN, and the mean decides.
    nearer = errors["error_gain"] > 0 and not errors["error_gain_low"] <= 0
    beyond = steps["step_correlation"] - steps["control_step_correlation"] > _ROUNDING
    return nearer and beyond and steps["step_p_value"] < _ALPHA


def _course(stratum: Stratum) -> Course:
    return stratum.cell_type, stratum.perturbation


def _day(stratum: Stratum) -> float:
    return time_of(stratum.timepoint or "")


def _by_day(strata: Iterable[Stratum]) -> dict[Course, dict[float, Stratum]]:
    """The strata with treated cells and a day, by what they follow and by day."""
    found: dict[Course, dict[float, Stratum]] = {}
    for stratum in strata:
        if stratum.n_treated and np.isfinite(_day(stratum)):
            found.setdefault(_course(stratum), {})[_day(stratum)] = stratum
    return found


def _forecasts(
    strata: Sequence[Stratum], predictions: Sequence[np.ndarray], training: Sequence[Stratum]
) -> Iterator[dict]:
    """The errors of each held-out stratum whose day lies between training days."""
    by_day = _by_day(training)
    for stratum, predicted in zip(strata, predictions, strict=True):
        yield from _forecast(stratum, predicted, by_day.get(_course(stratum), {}))


def _forecast(
    stratum: Stratum, predicted: np.ndarray, trained: Mapping[float, Stratum]
) -> Iterator[dict]:
    """The errors of one held-out stratum, if its day lies between training days."""
    day = _day(stratum)
    before = [d for d in trained if d < day]
    after = [d for d in trained if d > day]
    if day in trained or not before or not after or not stratum.n_treated:
        return
    first, last = trained[max(before)], trained[min(after)]
    weight = (day - max(before)) / (min(after) - max(before))
    told = {
        "error": predicted.mean(axis=0, dtype=np.float64),
        "interpolation_error": _between(_treated_mean(first), _treated_mean(last), weight),
        "interpolated_change_error": stratum.control_mean
        + _between(first.mean_delta, last.mean_delta, weight),
    }
    treated = _treated_mean(stratum)
    yield {
        "cell_type": stratum.cell_type,
        "timepoint": stratum.timepoint,
        "perturbation": stratum.perturbation,
        "between": [first.timepoint, last.timepoint],
        **{name: float(np.square(mean - treated).mean()) for name, mean in told.items()},
    }


def _treated_mean(stratum: Stratum) -> Float[np.ndarray, " genes"]:
    return stratum.treated.mean(axis=0, dtype=np.float64)


def _between(
    first: Float[np.ndarray, " genes"], last: Float[np.ndarray, " genes"], weight: float
) -> Float[np.ndarray, " genes"]:
    return first + weight * (last - first)


def _errors(rows: Sequence[dict], seed: int) -> dict:
    """Means over strata, and the paired difference to the interpolation."""
    names = ("error", "interpolation_error", "interpolated_change_error")
    gains = np.array([row["interpolation_error"] - row["error"] for row in rows])
    low, high, notes = float("nan"), float("nan"), []
    if len(rows) >= _FEWEST_STRATA:
        drawn = np.random.default_rng(seed).integers(len(rows), size=(_DRAWS, len(rows)))
        low, high = map(float, np.quantile(gains[drawn].mean(axis=1), [0.025, 0.975]))
    else:
        notes.append(
            f"{len(rows)} held-out strata, too few for an interval: their mean error decides alone"
        )
    return {
        **{name: float(np.mean([row[name] for row in rows])) for name in names},
        "error_gain": float(gains.mean()),
        "error_gain_low": low,
        "error_gain_high": high,
        "strata": list(rows),
        "notes": notes,
    }


def _means(
    strata: Sequence[Stratum],
    predictions: Sequence[np.ndarray],
    training: Sequence[Stratum],
    training_predictions: Sequence[np.ndarray],
) -> dict[Course, dict[float, _Mean]]:
    """True and predicted mean cell of every day, of the types with a held-out day among three."""
    found: dict[Course, dict[float, _Mean]] = {}
    parts = ((training, training_predictions, False), (strata, predictions, True))
    for part, predicted, held_out in parts:
        for stratum, cells in zip(part, predicted, strict=True):
            if stratum.n_treated and np.isfinite(_day(stratum)):
                true = _treated_mean(stratum)
                told = cells.mean(axis=0, dtype=np.float64)
                days = found.setdefault(_course(stratum), {})
                days.setdefault(_day(stratum), _Mean(stratum.control_mean, true, told, held_out))
    return {
        course: dict(sorted(days.items()))
        for course, days in found.items()
        if len(days) > 2 and any(mean.held_out for mean in days.values())
    }


def _steps(means: Mapping[Course, Mapping[float, _Mean]], seed: int) -> dict:
    """Step correlation, that of the controls, and how often permuted days reach it."""
    if prod(factorial(len(days)) for days in means.values()) * _ALPHA <= 1:
        return {"reason": f"{len(means)} cell types with three days permit no permutation test"}
    courses = [list(days.values()) for days in means.values()]
    kept = [_with_held_out(days) for days in courses]
    tables = [_correlations(days, [mean.predicted for mean in days]) for days in courses]
    controls = [_correlations(days, [mean.control for mean in days]) for days in courses]
    orders = [np.arange(len(days))[None] for days in courses]
    observed = _per_course(tables, kept, orders)
    rng = np.random.default_rng(seed)
    permuted = [rng.permuted(np.repeat(order, _DRAWS, axis=0), axis=1) for order in orders]
    null = sum(own.sum(axis=1) for own in _per_course(tables, kept, permuted))
    total = sum(float(own.sum()) for own in observed)
    n_steps = int(sum(map(np.sum, kept)))
    # Equal sums may differ in the last digit, by the order of their terms.
    reached = int((np.asarray(null) >= total - 1e-9).sum())
    return {
        "step_correlation": total / n_steps,
        "step_null_mean": float(np.mean(null) / n_steps),
        "step_p_value": (1 + reached) / (1 + _DRAWS),
        "control_step_correlation": sum(
            float(own.sum()) / n_steps for own in _per_course(controls, kept, orders)
        ),
        "n_steps": n_steps,
        "steps": list(_step_rows(means, kept, observed)),
    }


def _correlations(
    days: Sequence[_Mean], told: Sequence[np.ndarray]
) -> Float[np.ndarray, "steps days days"]:
    """corr(told_k - told_j, T_{i+1} - T_i) at [i, j, k]; 0 where one of them is no step."""
    true = [_direction(a.true, b.true) for a, b in pairwise(days)]
    steps = np.array([[_direction(earlier, later) for later in told] for earlier in told])
    return np.einsum("ig,jkg->ijk", np.array(true), steps)


def _direction(
    earlier: Float[np.ndarray, " genes"], later: Float[np.ndarray, " genes"]
) -> Float[np.ndarray, " genes"]:
    """The centred step at length one, so that products are correlations; zero for no step."""
    step = later - earlier
    if np.linalg.norm(step) <= _ROUNDING * np.linalg.norm(earlier):
        return np.zeros_like(step)
    centred = step - step.mean()
    length = np.linalg.norm(centred)
    return centred / length if length > 0 else np.zeros_like(step)


def _with_held_out(days: Sequence[_Mean]) -> Bool[np.ndarray, " steps"]:
    """Which steps begin or end on a held-out day; the others were trained on."""
    held_out = np.array([mean.held_out for mean in days])
    return held_out[1:] | held_out[:-1]


def _per_course(
    tables: Sequence[np.ndarray], kept: Sequence[np.ndarray], orders: Sequence[np.ndarray]
) -> list[Float[np.ndarray, "draws steps"]]:
    """Correlations of the judged steps of each course, with predictions put in these orders."""
    return [
        np.stack([table[i, order[:, i], order[:, i + 1]] for i in np.flatnonzero(steps)], axis=1)
        for table, steps, order in zip(tables, kept, orders, strict=True)
    ]


def _step_rows(
    means: Mapping[Course, Mapping[float, _Mean]],
    kept: Sequence[np.ndarray],
    observed: Sequence[np.ndarray],
) -> Iterator[dict]:
    """One row for each judged step."""
    for (course, days), steps, values in zip(means.items(), kept, observed, strict=True):
        labels = list(days)
        for i, value in zip(np.flatnonzero(steps), values[0], strict=True):
            yield {
                "cell_type": course[0],
                "perturbation": course[1],
                "from_day": labels[i],
                "to_day": labels[i + 1],
                "correlation": float(value),
            }
