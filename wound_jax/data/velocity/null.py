"""Null test: does the velocity of control cells point to the treated cells, more than by chance?

For a cell type with control cells C and treated cells T in a representation z,

    delta      e = mean z over T - mean z over C
    statistic  A = mean over C of cos(v_i, e)

The null must keep what is not in question. Permuting velocities between the cells of a type leaves
A as it is, since e is one direction for all. Turning each cell's velocity by itself treats cells
as independent, while they share one flow: any flow, related to the treatment or not, would then
look significant. And turning the shared flow anywhere ignores that flows and deltas both lie along
the few axes in which cells vary at all. What is in question is whether the flow runs *the way the
delta does* along these axes. So the principal axes of the cells (variation within C and within T)
are kept with all magnitudes along them, and the flow's sign along each axis is tossed, one toss
for all cells:

    A = sum_a m_a e_a / |e|,  m = mean of v_i / |v_i|;      A* = sum_a s_a m_a e_a / |e|,  s_a = +-1

This is an exact randomisation test of "the flow is as likely to run up an axis as down it, whatever
the delta does there" (Fisher 1935, The Design of Experiments, ch. 3; Good 2005, Permutation Tests,
ch. 2). It is honest about dimension: a flow and a delta that share just one axis agree by one
toss, which proves nothing.

The control cells' own noise enters e, and velocities depend on the cells' positions; m and e are
therefore taken from different halves of the control cells (of the control replicates where these
are given), crosswise.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from wound_jax.data.velocity.contract import VelocityData
from wound_jax.errors import UserError

COLUMNS = [
    "cell_type",
    "condition",
    "n",
    "mean_cosine",
    "null_mean",
    "null_sd",
    "p",
    "q",
    "verdict",
]
TOO_FEW = "too few cells"
CIRCULAR = (
    "these directions were made from the treated cells they are compared with; that they point "
    "there is how they were made, and no finding."
)
_MAX_AXES = 50


@dataclass(frozen=True)
class NullOptions:
    """How the null is drawn and read.

    Attributes:
        draws: number of sign patterns drawn; the smallest p is 1 / (draws + 1).
        min_cells: fewest control cells with a velocity, and fewest treated cells.
        alpha: share of false findings allowed among the verdicts (Benjamini-Hochberg).
        seed: of the halves and the draws.
    """

    draws: int = 9_999
    min_cells: int = 20
    alpha: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or self.min_cells < 4 or not 0 < self.alpha < 1:
            raise UserError(
                f"draws={self.draws}, min_cells={self.min_cells}, alpha={self.alpha}: the null "
                "needs at least 1 draw, halves of at least 2 cells, and alpha between 0 and 1."
            )


def alignment_table(
    representation: Float[np.ndarray, "cells dims"],
    velocity: VelocityData,
    labels: pd.DataFrame,
    control: str,
    options: NullOptions | None = None,
) -> pd.DataFrame:
    """Tests every (cell type, treated condition).

    Args:
        representation: [cells, dims], what the velocities are displacements of; only the
            dimensions that have a velocity are compared.
        velocity: of the same cells, in the same basis.
        labels: columns "cell_type" and "condition", one row a cell; "replicate" if known.
        control: the condition of the control cells.
        options: of the test.

    Returns:
        A row for each pair: `n` control cells with a velocity, their mean cosine with the delta,
        mean and standard deviation of the null, its two-sided p-value, q (Benjamini-Hochberg over
        the table) and a verdict: "towards <condition>", "away from <condition>", "not shown" or
        "too few cells" (figures NaN).

    Raises:
        UserError: no cell is a control, or all are.
    """
    options = options or NullOptions()
    conditions = sorted(set(labels["condition"]))
    if control not in conditions or len(conditions) < 2:
        shown = ", ".join(conditions)
        raise UserError(f"no {control!r} cells beside treated ones: the conditions are {shown}.")
    rows = []
    for cell_type in sorted(set(labels["cell_type"])):
        for condition in conditions:
            if condition != control:
                rng = np.random.default_rng([options.seed, len(rows)])
                pair = (cell_type, control, condition)
                rows.append(_row(representation, velocity, labels, pair, options, rng))
    return _with_verdicts(pd.DataFrame(rows, columns=pd.Index(COLUMNS)), options.alpha)


def _row(
    representation: Float[np.ndarray, "cells dims"],
    velocity: VelocityData,
    labels: pd.DataFrame,
    pair: tuple[str, str, str],
    options: NullOptions,
    rng: np.random.Generator,
) -> dict[str, str | int | float]:
    """The figures of one (cell type, control, treated condition); without a test if it is small."""
    cell_type, control, condition = pair
    of_type = (labels["cell_type"] == cell_type).to_numpy()
    is_control = of_type & (labels["condition"] == control).to_numpy() & velocity.known
    is_treated = of_type & (labels["condition"] == condition).to_numpy()
    n = int(is_control.sum())
    row: dict[str, str | int | float] = {"cell_type": cell_type, "condition": condition, "n": n}
    if min(n, int(is_treated.sum())) < options.min_cells:
        return row
    found = randomisation_test(
        representation[np.ix_(is_control, velocity.dims)],
        velocity.velocity[np.ix_(is_control, velocity.dims)],
        representation[np.ix_(is_treated, velocity.dims)],
        options,
        rng=rng,
        replicates=labels["replicate"].to_numpy()[is_control] if "replicate" in labels else None,
    )
    return row | found


def randomisation_test(
    control: Float[np.ndarray, "cells dims"],
    velocity: Float[np.ndarray, "cells dims"],
    treated: Float[np.ndarray, "targets dims"],
    options: NullOptions,
    *,
    rng: np.random.Generator,
    replicates: np.ndarray | None = None,
) -> dict[str, float]:
    """The test for one cell type.

    Args:
        control: [cells, dims], control cells.
        velocity: [cells, dims], theirs.
        treated: [targets, dims], treated cells.
        options: of the test.
        rng: draws halves and signs.
        replicates: [cells], of the control cells; halves are of replicates if there are two.

    Returns:
        "mean_cosine", "null_mean", "null_sd" and "p".
    """
    axes = principal_axes(control, treated, seed=options.seed)
    halves = [
        _axis_terms(velocity[flow], treated.mean(axis=0) - control[other].mean(axis=0), axes)
        for flow, other in _halves(len(control), replicates, rng)
    ]
    terms = np.mean(halves, axis=0)
    observed = terms.sum()
    signs = rng.integers(0, 2, size=(options.draws, len(terms)), dtype=np.int8) * 2 - 1
    null = signs @ terms
    # Patterns equal to the observed one must count, whatever the rounding of their sums.
    extreme = np.abs(null) >= np.abs(observed) * (1 - 1e-9)
    return {
        "mean_cosine": float(observed),
        "null_mean": float(null.mean()),
        "null_sd": float(null.std()),
        "p": float((1 + extreme.sum()) / (1 + options.draws)),
    }


def principal_axes(
    control: Float[np.ndarray, "cells dims"],
    treated: Float[np.ndarray, "targets dims"],
    *,
    seed: int = 0,
) -> Float[np.ndarray, "axes dims"]:
    """Unit axes of the variation within the two groups, at most 50, the widest first."""
    from sklearn.decomposition import PCA

    within = np.concatenate([control - control.mean(axis=0), treated - treated.mean(axis=0)])
    n_axes = min(_MAX_AXES, within.shape[1], len(within) - 1)
    return np.asarray(PCA(n_axes, random_state=seed).fit(within.astype(float)).components_)


def _axis_terms(
    velocity: Float[np.ndarray, "cells dims"],
    delta: Float[np.ndarray, " dims"],
    axes: Float[np.ndarray, "axes dims"],
) -> Float[np.ndarray, " terms"]:
    """What each axis adds to the mean cosine; the last term is all that lies off the axes."""
    speed = np.linalg.norm(velocity.astype(np.float64), axis=1, keepdims=True)
    flow = (velocity / np.where(speed > 0, speed, np.inf)).mean(axis=0)
    delta = delta / max(float(np.linalg.norm(delta)), np.finfo(float).tiny)
    on_axes = (axes @ flow) * (axes @ delta)
    return np.append(on_axes, flow @ delta - on_axes.sum())


def _halves(
    n: int, replicates: np.ndarray | None, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Two disjoint halves of the cells, each taking either part once: boolean [cells]."""
    replicates = np.arange(n) if replicates is None or len(set(replicates)) < 2 else replicates
    distinct = rng.permutation(np.unique(replicates))
    first = np.isin(replicates, distinct[: len(distinct) // 2])
    return [(first, ~first), (~first, first)]


def _with_verdicts(table: pd.DataFrame, alpha: float) -> pd.DataFrame:
    from scipy.stats import false_discovery_control

    tested = table["p"].notna()
    table["verdict"] = TOO_FEW
    if bool(np.any(tested)):
        table.loc[tested, "q"] = false_discovery_control(table.loc[tested, "p"].astype(float))
        table.loc[tested, "verdict"] = [
            "not shown" if q > alpha else f"{'towards' if cosine > 0 else 'away from'} {condition}"
            for q, cosine, condition in table.loc[
                tested, ["q", "mean_cosine", "condition"]
            ].itertuples(index=False)
        ]
    return table
