"""The synthetic wound set: burnt and sham mouse skin with a known burn effect.

It imitates the design of the study the model is meant for (16 mice in condition x day, 11 types,
57,298 cells) with real marker genes, and knows what no experiment does: the counterfactual of each
control cell, the true velocity and the true effect of the burn on every gene, type and day. The
burn acts on expression only; composition differs between conditions whatever its strength.
"""

from wound_jax.data.synthetic.simulate import SyntheticTruth, SyntheticWound, simulate

__all__ = ["SyntheticTruth", "SyntheticWound", "simulate"]
