"""The metrics: how good a prediction of treated cells is, in numbers.

    score_all(strata, predictions, context) -> [{metric name: value}, ...]

One registry (`METRICS`) holds them all. To add one, write a function with a docstring in the module
it belongs to, or in a new one imported below:

- `profiles`: changes of the mean (correlation, errors, explained variance, sign);
- `populations`: distances between sets of cells;
- `realism`: spread, co-expression, zeros, cell type;
- `differential_expression`: genes expression, as cell-eval tests it (`rank_sum`);
- `among_strata`: retrieval of the own cell type or perturbation.

Metrics that a worthless prediction passes have no best value, are ranked by nobody, and say so in
`Metric.trap`.
"""

from wound_jax.evaluation.metrics import (  # noqa: F401  (importing registers the metrics)
    among_strata,
    differential_expression,
    populations,
    profiles,
    realism,
)
from wound_jax.evaluation.metrics.comparison import Comparison, Comparisons
from wound_jax.evaluation.metrics.registry import METRICS, Metric, get_metric, metric, set_metric
from wound_jax.evaluation.metrics.scoring import score_all

__all__ = [
    "METRICS",
    "Comparison",
    "Comparisons",
    "Metric",
    "get_metric",
    "metric",
    "score_all",
    "set_metric",
]
