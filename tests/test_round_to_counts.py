"""Rounding to counts: what changes, what does not, and that means stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wound_jax.errors import UserError
from wound_jax.prediction.calibration.round_to_counts import rounded_to_counts

pytestmark = pytest.mark.quick


def counted_control(n: int, rng: np.random.Generator) -> np.ndarray:
    """Log-normalised counts of cells of different depth; one count is another value in each."""
    counts = rng.poisson(0.7, size=(n, 30)) + (np.arange(30) == 0)
    depth = rng.uniform(800, 3000, size=(n, 1))
    return np.log1p(counts * 1e4 / depth).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80))
def test_values_are_zero_one_count_or_as_they_were_and_means_stay(seed, n):
    rng = np.random.default_rng(seed)
    control = counted_control(n, rng)
    cells = np.maximum(control + rng.normal(0.2, 0.5, control.shape), 0).astype(np.float32)
    rounded = rounded_to_counts(cells, control, seed)
    one = np.where(control > 0, control, np.inf).min(axis=1, keepdims=True)
    low = cells < one
    np.testing.assert_array_equal(rounded[~low], cells[~low])
    assert ((rounded == 0) | (rounded == one))[low].all()
    # By Abel summation a systematic sample is off by the largest weight and the weights' variation.
    bound = 2 * (one.max() + np.abs(np.diff(one[:, 0])).sum()) / n
    assert np.abs(rounded.mean(axis=0) - cells.mean(axis=0)).max() <= bound


def test_with_one_depth_a_gene_gets_as_many_counts_as_expected():
    rng = np.random.default_rng(0)
    control = np.full((200, 8), 2.0, np.float32)
    cells = rng.uniform(0, 2, size=control.shape).astype(np.float32)
    rounded = rounded_to_counts(cells, control, 1)
    expected = cells.sum(axis=0) / 2.0
    assert (np.abs((rounded > 0).sum(axis=0) - expected) <= 1).all()


def test_each_cell_is_rounded_with_its_own_probability():
    """Over many roundings the mean of each value is the value."""
    control = np.array([[1.0, 3.0], [2.0, 4.0], [1.5, 0.0]], np.float32)
    cells = np.array([[0.3, 0.9], [0.5, 1.7], [0.1, 1.2]], np.float32)
    draws = np.stack([rounded_to_counts(cells, control, seed) for seed in range(4000)])
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - cells) < 5 * error + 1e-6).all()


def test_genes_are_rounded_on_their_own():
    """Equal genes do not get their counts in the same cells."""
    control = np.full((400, 2), 1.0, np.float32)
    rounded = rounded_to_counts(np.full((400, 2), 0.5, np.float32), control, 0)
    assert abs(np.corrcoef(rounded.T)[0, 1]) < 0.2


def test_an_embedding_is_refused():
    cells = np.array([[-0.5, 1.0]], np.float32)
    with pytest.raises(UserError, match="round_to_counts"):
        rounded_to_counts(cells, cells, 0)


def test_a_control_cell_without_any_expression_leaves_its_cell_alone():
    cells = np.array([[0.2, 0.4]], np.float32)
    np.testing.assert_array_equal(rounded_to_counts(cells, np.zeros_like(cells), 0), cells)
