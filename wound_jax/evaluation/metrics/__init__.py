"""Metrics: how good a prediction of treated cells is, in numbers.

    score_all(strata, predictions, context) -> [{metric name: value}, ...]

One registry (`METRICS`) holds them all. To add one, write a function with a docstring, decorated
with `metric` or `set_metric`, in the module it belongs to, in a new one (modules of this package
are found by themselves), or in your own package:

- `profiles`: deltas of the mean (correlation, errors, explained variance, sign);
- `populations`: distances between sets of cells;
- `realism`: spread, co-expression, zeros, cell type;
- `differential_expression`: genes and signs as cell-eval tests them (`rank_sum`);
- `among_strata`: retrieval of the own cell type or perturbation.

Metrics that a worthless prediction passes have no best value, are ranked by nobody, and say so in
`Metric.trap`.
"""

from wound_jax.evaluation.metrics.comparison import Comparison, Comparisons, RealStratum
from wound_jax.evaluation.metrics.registry import METRICS, Metric, metric, score_all, set_metric

__all__ = [
    "METRICS",
    "Comparison",
    "Comparisons",
    "Metric",
    "RealStratum",
    "metric",
    "score_all",
    "set_metric",
]
