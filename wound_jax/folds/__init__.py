"""Leave-one-out: one cell type, animal or timepoint after the other held out, and scored.

Each label is a fold: variants are trained on all others, with several seeds, and predict its
treated cells from its control cells. Folds are what figures are averaged over and drawn from.
"""
