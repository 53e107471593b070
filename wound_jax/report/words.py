"""How things are said on the page: numbers as text, metrics and methods in words.

A metric that is not listed here is shown under its own name with the first lines of its own
documentation, so that a new one appears without a change.
"""

import inspect
import math
from dataclasses import dataclass

from wound_jax.baselines import BASELINES
from wound_jax.evaluation.metrics import METRICS

# Named, because in most fonts of an editor they cannot be told from a hyphen.
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


@dataclass(frozen=True)
class Term:
    """A metric in words.

    Attributes:
        name: what it is called on the page.
        meaning: formula in words, and how to read it.
    """

    name: str
    meaning: str


METRIC_TERMS = {
    "pearson_delta": Term(
        "correlation of deltas",
        "Pearson correlation, over all genes, of the predicted delta (mean predicted minus mean "
        "control cell) with the true delta (mean treated minus mean control cell). 1 is perfect; "
        "the identity, which predicts the control cells themselves, scores 0.",
    ),
    "pearson_delta_top100": Term(
        "correlation of deltas, top 100 genes",
        "The same over the 100 genes of the largest deltas in the training cells.",
    ),
    "e_distance_ratio": Term(
        "remaining distance",
        "Squared energy distance between predicted and treated cells, divided by that between "
        "control and treated cells, on 50 principal components of the training cells. 0 means the "
        "two clouds of cells coincide; 1 is no better than the identity.",
    ),
    "mse": Term(
        "squared error of the mean",
        "Mean over genes of the squared difference of the mean predicted and the mean treated "
        "cell. 0 is perfect; its size depends on the scale of the data.",
    ),
    "type_retrieval": Term(
        "retrieval of the type",
        "Share of cell types whose predicted delta is nearest to their own true delta among "
        "those of all types of that timepoint. 1 is perfect.",
    ),
    "sign_share": Term(
        "right direction",
        "Share of groups whose predicted delta points the same way as the true one. 1 is perfect.",
    ),
    "type_kept": Term(
        "cell type kept",
        "Share of predicted cells that a classifier of real cells takes for their own cell type. "
        "1 is perfect.",
    ),
    "legacy_nn_cosine": Term(
        "nearest-neighbour cosine distance",
        "Mean cosine distance of each predicted cell to its nearest treated cell. Kept for "
        "comparison with earlier work: it improves when all predictions collapse onto one cell.",
    ),
    "knn_mixing": Term(
        "neighbourhood mixing",
        "Share of the 15 nearest neighbours of a cell that are of the other group, predicted or "
        "treated. About 0.5 when the groups are alike, 0 when they are apart.",
    ),
    "classifier_auc": Term(
        "classifier AUC",
        "How well a classifier tells predicted from treated cells that it was not fitted to: 0.5 "
        "means not at all, 1 always.",
    ),
    "silhouette": Term(
        "silhouette",
        "How much nearer cells lie to their own group than to the other: about 0 when the groups "
        "are alike, 1 when they are apart.",
    ),
}

METHOD_TERMS = {
    "model": "The trained network with its calibration, as the config asks for it.",
    "noise ceiling": "Measured cells scored as if they had been predicted: treated cells of other "
    "replicates, or one half of the treated cells against the other. One replicate has noise of "
    "its own, so that a prediction learnt from many replicates can lie ahead of it.",
}


def metric_term(name: str) -> Term:
    """A metric in words: those written here, else its own documentation, with its trap if any."""
    if name in METRIC_TERMS:
        return METRIC_TERMS[name]
    meaning, words = "", name.replace("_", " ")
    if name in METRICS:
        entry = METRICS.get(name)
        meaning = entry.summary + (f" Beware: {entry.trap}." if entry.trap else "")
    return Term(words, meaning.replace("`", ""))


def metric_name(name: str) -> str:
    """A metric in words."""
    return metric_term(name).name


def metric_heading(name: str) -> str:
    """A metric in words, with an arrow towards better values."""
    arrow = METRICS.get(name).arrow if name in METRICS else ""
    return f"{metric_name(name)} {arrow}".strip()


def metric_help(name: str) -> str:
    """Name in the files, and what the metric means."""
    return f"{name}: {metric_term(name).meaning}".rstrip(": ")


def method_name(key: str | None) -> str:
    """The name of a method, the same everywhere: a baseline's is that of the config."""
    return DASH if key is None else "noise ceiling" if key == "ceiling" else key


def method_meaning(name: str) -> str:
    """What a method does; a baseline speaks for itself by its own documentation."""
    if name in METHOD_TERMS or name not in BASELINES:
        return METHOD_TERMS.get(name, "")
    # A rule is documented by its function.
    documented = getattr(BASELINES.get(name), "compute", BASELINES.get(name))
    meaning = (inspect.getdoc(documented) or "").partition("\n\n")[0]
    return meaning.replace("\n", " ").replace("`", "")


def is_ranked(metric: str) -> bool:
    """Whether methods are ranked by a metric."""
    return metric in METRICS and METRICS.get(metric).direction is not None


def lower_is_better(metric: str) -> bool:
    """Whether small values of a metric are better."""
    return metric in METRICS and METRICS.get(metric).direction == "lower"


def goodness(metric: str, value: float) -> float:
    """A ranked metric's value on a scale where more is better."""
    return METRICS.get(metric).goodness(value)


def number(value: float | None, digits: int = 3) -> str:
    """A number as text.

    A value too small for the decimals is shown by its leading digits instead, so that 0.00043 does
    not read 0.000.
    """
    if value and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}".replace("-", MINUS)
    return fixed(value, digits)


def fixed(value: float | None, digits: int = 3) -> str:
    """`number` without leading digits of small values; counts and thousands have no decimals."""
    if value is None or value != value:
        return DASH
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else MINUS + "∞"
    whole = isinstance(value, int) or abs(value) >= 1000
    text = f"{value:,.0f}" if whole else f"{value:.{digits}f}"
    # What rounds to zero has no sign.
    return text.replace("-", MINUS) if float(text.replace(",", "")) else text.lstrip("-")


def signed(value: float | None, digits: int = 3) -> str:
    """`number` with a plus in front of a value above 0."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """`[0.020, 0.120]`; nothing where an end is not defined."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def counted(n: int, one: str, several: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{n} {one if n == 1 else several}"
