"""Scores of predicted cells against held-out cells, beside baselines that need no network.

Owns the strata (one cell type at one timepoint under one perturbation), the metrics, the
baselines, and how results are shown. All cells live in one space, either expression (log1p of
counts per 10,000) or the features of an embedding.

The two figures that decide, for a stratum with control cells C, treated cells T, predictions P:

    pearson_delta    = corr(mean P - mean C, mean T - mean C)      1 is perfect, identity is 0
    e_distance_ratio = E^2(P, T) / E^2(C, T)                       0 is perfect, identity is 1
"""
