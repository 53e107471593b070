"""Biological criteria: does a prediction say about wounds what the held-out replicates say.

Owns the frozen gene lists and three criteria, each a function of held-out strata and any method's
predictions [n_control, genes], so that baselines are judged as a model is:

    polarisation        macrophages move towards inflammation and repair as the replicates do
    wound_markers       registered genes move the registered way, beyond random gene sets
    temporal_coherence  a day left out of training is told better than by interpolation

Each returns a plain dict with "applicable", and "reason" where it is not.
"""

from wound_jax.evaluation.biology.polarisation import polarisation
from wound_jax.evaluation.biology.temporal import temporal_coherence
from wound_jax.evaluation.biology.wound_markers import wound_markers

__all__ = ["polarisation", "temporal_coherence", "wound_markers"]
