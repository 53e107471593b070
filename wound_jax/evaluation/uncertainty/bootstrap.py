"""The bootstrap itself: the headline figures of every method in every draw.

A draw is the mean over strata as the summary takes it, equal weights, undefined values left out,
and strata that lost an arm in the draw along with them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from wound_jax.data.strata import Stratum
from wound_jax.errors import UserError
from wound_jax.evaluation.context import ScoreContext
from wound_jax.evaluation.uncertainty.drawn_metrics import EnergyRatio, MeanProfiles
from wound_jax.evaluation.uncertainty.draws import Draws
from wound_jax.evaluation.uncertainty.resampling import fingerprint, plan_resampling
from wound_jax.evaluation.uncertainty.weights import ArmWeights, draw_weights


@runtime_checkable
class Predictions(Protocol):
    """Predictions of one method, an array a stratum; they may be made as they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> Float[np.ndarray, "cells genes"]: ...


BOOTSTRAPPED = ("pearson_delta", "pearson_delta_top100", "mse", "e_distance_ratio")


def bootstrap(
    strata: Sequence[Stratum],
    predictions: Mapping[str, Predictions],
    context: ScoreContext,
    *,
    draws: int = 1000,
    seed: int,
) -> Draws:
    """Draw the held-out replicates again and score every method on each draw.

    Without a draw the figures are those of the metrics, e_distance_ratio included: it is computed
    from the same sample of cells (`Comparison.samples`), whose cells the draws weight.

    Args:
        strata: the held-out strata.
        predictions: method -> one prediction for each stratum, in the same order, [n_control,
            genes], row i made from control cell i. Each is asked for once, stratum by stratum, so
            a sequence may make them on demand.
        context: genes and components, as for the scores.
        draws: number of draws.
        seed: of the draws. Runs that are to be compared need the same one, whatever they were
            trained with; neither it nor the predictions decide who is in which pool.

    Returns:
        The draws of the metrics `BOOTSTRAPPED`.

    Raises:
        UserError: there is no stratum, or the predictions do not fit the strata.
    """
    _check_counts(strata, predictions)
    plan = plan_resampling(strata, draws, seed)
    values = [
        _score_stratum(stratum, plan.arms(place), context, predictions, place)
        for place, stratum in enumerate(strata)
    ]
    figures = _weighted_means(np.stack(values, axis=2), plan.stratum_weights.T)
    return Draws(
        methods=tuple(predictions),
        metrics=BOOTSTRAPPED,
        units=plan.units,
        n_units=plan.n_units,
        degrees=plan.degrees,
        note=plan.note,
        fingerprint=fingerprint(strata, seed),
        values=figures[..., 1:],
        point=figures[..., 0],
    )


def bootstrap_units(
    values: Mapping[str, Float[np.ndarray, "units methods"]],
    methods: Sequence[str],
    names: Sequence[str],
    *,
    units: str,
    draws: int = 1000,
    seed: int,
) -> Draws:
    """Draw the rows of tables again, where rows are independent folds.

    Leave-one-type-out over cell types, leave-one-donor-out over donors. Folds share training
    cells, so they are not quite independent, and the intervals a little short.

    Args:
        values: metric -> [units, methods]. A unit that lacks a value for one method (NaN) is left
            out of that metric for all, so that differences stay paired.
        methods: name of each column, the model's is "model".
        names: name of each unit.
        units: what they are, in the plural ("cell types", "donors").
        draws: number of draws.
        seed: of the draws.

    Returns:
        The draws of the means over units, with intervals of the same kind as `bootstrap`'s. A
        single unit has figures and no interval.

    Raises:
        UserError: a table has another shape than [names, methods], or there are no units.
    """
    _check_tables(values, methods, names, units)
    digest = hashlib.sha256("\n".join([str(seed), units, *names]).encode()).hexdigest()
    rng = np.random.default_rng([seed, int(digest[:8], 16)])
    tables = np.stack([np.asarray(table, dtype=np.float64).T for table in values.values()], axis=1)
    whole = np.where(np.isnan(tables).any(axis=0), np.nan, tables)
    figures = _weighted_means(whole[..., None], draw_weights(len(names), draws, rng).T)
    return Draws(
        methods=tuple(methods),
        metrics=tuple(values),
        units=units,
        n_units=len(names),
        degrees=len(names) - 1,
        note=f"{len(names)} {units}, drawn in one group",
        fingerprint=digest,
        values=figures[..., 1:],
        point=figures[..., 0],
    )


def _check_counts(strata: Sequence[Stratum], predictions: Mapping[str, Predictions]) -> None:
    if not strata:
        raise UserError("no stratum to draw replicates from; expected at least one.")
    for method, sequence in predictions.items():
        if len(sequence) != len(strata):
            raise UserError(
                f"{len(sequence)} predictions of {method} for {len(strata)} strata; expected one "
                "for each."
            )


def _check_tables(
    values: Mapping[str, np.ndarray], methods: Sequence[str], names: Sequence[str], units: str
) -> None:
    for metric, table in values.items():
        if np.shape(table) != (len(names), len(methods)) or not len(names):
            raise UserError(
                f"table of {metric} of shape {np.shape(table)} for {len(names)} {units} and "
                f"{len(methods)} methods; expected [{units}, methods], one of them at least."
            )


def _score_stratum(
    stratum: Stratum,
    arms: tuple[ArmWeights, ArmWeights],
    context: ScoreContext,
    predictions: Mapping[str, Predictions],
    place: int,
) -> Float[np.ndarray, "methods metrics rows"]:
    """The figures of one stratum for every method and row of weights."""
    means = MeanProfiles(stratum, *arms, context)
    energy = EnergyRatio(stratum, *arms, context)
    found = []
    for method, sequence in predictions.items():
        predicted = sequence[place]
        if predicted.shape != stratum.control.shape:
            raise UserError(
                f"stratum {stratum.key}: prediction of {method} of shape {predicted.shape}; "
                f"expected {stratum.control.shape}, one row for each control cell."
            )
        scores = {**means.score(predicted), "e_distance_ratio": energy.score(predicted)}
        found.append([scores[name] for name in BOOTSTRAPPED])
    return np.array(found)


def _weighted_means(
    values: Float[np.ndarray, "methods metrics parts #rows"],
    weights: Float[np.ndarray, "parts rows"],
) -> Float[np.ndarray, "methods metrics rows"]:
    """Means over parts of the values that are defined; NaN where none is."""
    weighted = np.where(np.isnan(values), 0.0, values) * weights
    mass = np.where(np.isnan(values), 0.0, weights).sum(axis=-2)
    with np.errstate(invalid="ignore"):
        return weighted.sum(axis=-2) / mass
