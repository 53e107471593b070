"""What the criteria are given: strata, one prediction for each, and the names of the genes."""

from collections.abc import Sequence

import numpy as np

from wound_jax.data.annotations import NO_LABEL
from wound_jax.errors import UserError
from wound_jax.evaluation.strata import Stratum


def require_predictions(
    strata: Sequence[Stratum],
    predictions: Sequence[np.ndarray],
    genes: Sequence[str] | None = None,
) -> None:
    """Refuses predictions that do not belong to the strata, or gene names that do not.

    Raises:
        UserError: a prediction is missing, has another shape than the stratum's control cells or
            values that are not finite; or the genes are not one name a column.
    """
    if len(strata) != len(predictions):
        raise UserError(
            f"{len(predictions)} predictions for {len(strata)} strata; expected one for each, in "
            "the order of the strata."
        )
    for stratum, predicted in zip(strata, predictions, strict=True):
        if predicted.shape != stratum.control.shape:
            raise UserError(
                f"stratum {stratum.key}: prediction of shape {predicted.shape}; expected "
                f"{stratum.control.shape}, one row for each control cell."
            )
        if not np.isfinite(predicted).all():
            raise UserError(
                f"stratum {stratum.key}: the prediction holds NaN or infinity; expected finite "
                "values. Take a checkpoint from before training diverged."
            )
        if genes is not None and predicted.shape[1] != len(genes):
            raise UserError(
                f"stratum {stratum.key}: {len(genes)} gene names for {predicted.shape[1]} columns; "
                "expected one name for each column."
            )


def not_applicable(reason: str) -> dict:
    """The result of a criterion that says nothing about these data."""
    return {"applicable": False, "reason": reason}


def rows_by_animal(animals: np.ndarray | None, fewest: int) -> dict[str, np.ndarray]:
    """Rows of each animal that has at least `fewest` cells, sorted by name; unknown ones none."""
    if animals is None:
        return {}
    names = animals.astype(str)
    rows = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
    return {name: r for name, r in rows.items() if name != NO_LABEL and len(r) >= fewest}
