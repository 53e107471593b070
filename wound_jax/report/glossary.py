"""Names in words: metrics with their formula, methods with what they do.

What is not listed here is shown under its own name with the first lines of its own documentation,
so that a new metric or baseline appears without a change.
"""

import inspect
from dataclasses import dataclass

from wound_jax.baselines import BASELINES
from wound_jax.evaluation.metrics import METRICS
from wound_jax.report.markup import DASH


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
        "correlation of change",
        "Pearson correlation, over all genes, of the predicted change (mean predicted minus mean "
        "control cell) with the true change (mean treated minus mean control cell). 1 is perfect; "
        "a prediction of no change scores 0.",
    ),
    "pearson_delta_top100": Term(
        "correlation of change, top 100 genes",
        "The same over the 100 genes that respond most strongly in the training cells.",
    ),
    "e_distance_ratio": Term(
        "remaining distance",
        "Squared energy distance between predicted and treated cells, divided by that between "
        "control and treated cells, on 50 principal components of the training cells. 0 means the "
        "two clouds of cells coincide; 1 is no better than predicting no change.",
    ),
    "mse": Term(
        "squared error of the mean",
        "Mean over genes of the squared difference of the mean predicted and the mean treated "
        "cell. 0 is perfect; its size depends on the scale of the data.",
    ),
    "type_retrieval": Term(
        "retrieval of the type",
        "Share of cell types whose predicted change is nearest to their own true change among "
        "those of all types of that day. 1 is perfect.",
    ),
    "sign_share": Term(
        "right direction",
        "Share of groups whose predicted change points the same way as the true one. 1 is perfect.",
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
    "model": Term("model", "The trained set transformer."),
    "ceiling": Term(
        "ceiling",
        "Measured cells scored as if they had been predicted: treated cells of other replicates, "
        "or one half of the treated cells against the other. One replicate has noise of its own, "
        "so that a prediction learnt from many replicates can lie ahead of it.",
    ),
    "identity": Term("no change", "Every cell stays as it was."),
    "global_mean_delta": Term("mean delta", "Every cell moves by the mean change over all types."),
    "type_mean_delta": Term("mean delta by type", "Cells move by their type's mean change."),
    "type_timepoint_mean_delta": Term(
        "mean delta by type and day", "Cells move by the mean change of their type on that day."
    ),
    "covariate_only": Term(
        "labels only",
        "Every cell becomes the mean treated training cell of its type and day: all cells alike.",
    ),
    "regressed_mean_delta": Term(
        "regressed mean delta",
        "The mean delta by type and day, which trusts what sets these control cells apart only as "
        "far as it held in training.",
    ),
    "additive_ridge": Term(
        "type plus day",
        "Ridge regression: the change is a sum of a part of the type and one of the day.",
    ),
    "gene_wise": Term(
        "gene by gene", "The change of a gene is a line of that gene's expression in the controls."
    ),
    "kernel_mean_delta": Term(
        "mean of similar groups",
        "Mean change of the training groups whose control cells are alike.",
    ),
    "ridge_pca": Term(
        "linear on components",
        "Ridge regression from principal components of the control cells to the change.",
    ),
    "pls_pca": Term(
        "partial least squares",
        "Partial least squares from principal components of the control cells to the change.",
    ),
    "matched_displacement": Term(
        "matched cells",
        "Every cell moves as the training cells nearest to it did, paired by optimal transport.",
    ),
    "scgen_like_linear": Term(
        "latent delta", "One delta in a linear latent space, as scGen does with an autoencoder."
    ),
    "stacked_linear": Term(
        "linear rules together", "The linear baselines averaged, weighted by their training error."
    ),
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


def method_term(name: str) -> Term:
    """The model or a baseline in words: those written here, else its own documentation."""
    if name in METHOD_TERMS:
        return METHOD_TERMS[name]
    meaning = ""
    if name in BASELINES:
        # A rule is documented by its function.
        documented = getattr(BASELINES.get(name), "compute", BASELINES.get(name))
        meaning = (inspect.getdoc(documented) or "").partition("\n\n")[0]
    return Term(name.replace("_", " "), meaning.replace("\n", " ").replace("`", ""))


def method_name(name: str | None) -> str:
    """The model or a baseline in words."""
    return DASH if name is None else method_term(name).name


def is_ranked(metric: str) -> bool:
    """Whether methods are ranked by a metric."""
    return metric in METRICS and METRICS.get(metric).direction is not None


def lower_is_better(metric: str) -> bool:
    """Whether small values of a metric are better."""
    return metric in METRICS and METRICS.get(metric).direction == "lower"


def goodness(metric: str, value: float) -> float:
    """A ranked metric's value on a scale where more is better."""
    return METRICS.get(metric).goodness(value)
