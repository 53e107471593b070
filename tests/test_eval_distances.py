"""Distances between sets of cells against their definitions in float64."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_strata import distances_float64, energy_float64

from wound_jax.evaluation import distances
from wound_jax.evaluation.distances import (
    SETS_PER_CALL,
    energy_distance,
    mean_distances,
    nearest_cosine_distances,
    pair_means,
    self_pair_means,
)

pytestmark = pytest.mark.blas


@pytest.mark.parametrize(("n", "m"), [(2, 3), (63, 64), (65, 130), (257, 31)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_energy_distance_agrees_with_float64(n: int, m: int, offset: float) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 50)) + offset
    y = rng.normal(size=(m, 50)) + offset + 0.5
    assert energy_distance(x, y) == pytest.approx(energy_float64(x, y), rel=1e-9)


def test_energy_distance_of_collapsed_cells_agrees_with_float64() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 50)) + 3.0
    x = np.repeat(y.mean(axis=0, keepdims=True), 150, axis=0) + 1e-4 * rng.normal(size=(150, 50))
    assert energy_distance(x, y) == pytest.approx(energy_float64(x, y), rel=1e-9)


def test_energy_distance_closed_form() -> None:
    # 2 * mean(2, 4, 1, 3) - 1 - 2
    assert energy_distance(np.array([[0.0], [1.0]]), np.array([[2.0], [4.0]])) == pytest.approx(2.0)
    assert np.isnan(energy_distance(np.zeros((1, 3)), np.zeros((5, 3))))


def test_energy_distance_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(400, 20, 5)), rng.normal(size=(400, 30, 5))
    widths = [1.0] * 400
    within = [self_pair_means(list(cells), widths).distance for cells in (xs, ys)]
    values = 2 * pair_means(list(xs), list(ys), widths).distance - within[0] - within[1]
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean()) < 3 * error
    # Keeping each cell's pair with itself would add E|x - x'| (1/20 + 1/30), about 3.1 * 0.083.
    assert error < 0.01


def test_kernel_means_follow_their_definition() -> None:
    rng = np.random.default_rng(1)
    x, y, width = rng.normal(size=(40, 5)), rng.normal(size=(70, 5)) + 0.3, 1.7

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-np.square(distances_float64(a, b)) / (2 * width**2))

    assert pair_means([x], [y], [width]).kernel == pytest.approx(kernel(x, y).mean(), rel=1e-12)
    own = (kernel(x, x).sum() - 40) / (40 * 39)
    assert self_pair_means([x], [width]).kernel == pytest.approx(own, rel=1e-12)


def test_many_sets_of_all_sizes_come_back_in_their_order() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, 120, size=(2 * SETS_PER_CALL + 3, 2))
    xs = [rng.normal(size=(n, 4)) for n, _ in sizes]
    ys = [rng.normal(size=(m, 4)) for _, m in sizes]
    expected = [distances_float64(x, y).mean() for x, y in zip(xs, ys, strict=True)]
    np.testing.assert_allclose(pair_means(xs, ys, [1.0] * len(xs)).distance, expected, rtol=1e-12)
    np.testing.assert_allclose(mean_distances(xs, ys), expected, rtol=1e-6)
    for nothing in (pair_means([], [], []).distance, mean_distances([], [])):
        assert nothing.shape == (0,)


def test_sets_of_all_sizes_share_a_few_programs() -> None:
    rng = np.random.default_rng(3)
    programs: Any = distances._map_couples
    before = programs._cache_size()
    for _ in range(3):
        xs = [rng.normal(size=(n, 7)) for n in rng.integers(2, 257, size=12)]
        self_pair_means(xs, [1.0] * 12)
    # Padded to 64, 128 and 256 cells, eight sets a call.
    assert programs._cache_size() - before <= 3


def test_mean_distances_of_a_set_with_itself_count_the_diagonal() -> None:
    rng = np.random.default_rng(4)
    x = np.log1p(rng.poisson(0.5, size=(90, 800))).astype(np.float32)
    y = np.log1p(rng.poisson(0.6, size=(40, 800))).astype(np.float32)
    found = mean_distances([x, x, x], [x, y, x.copy()])
    expected = [distances_float64(x, z).mean() for z in (x, y, x)]
    # The small differences between these means are what is of interest.
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-7)
    # A copy is another set, of which 90 pairs of 90^2 coincide. A float32 sum of d terms rounds by
    # sqrt(d) eps / 2 of the sum of their sizes as a standard deviation (Higham and Mary 2019, SIAM
    # J. Sci. Comput. 41, A2815), and a square is the difference of 2 |x|^2 and such a sum: 4 times
    # that is what may be left of it.
    norms = np.square(x - x.mean(axis=0)).sum(axis=1)
    left = np.sqrt(2 * np.sqrt(800) * np.finfo(np.float32).eps * 2 * norms).sum() / 90**2
    assert left < 1e-4 * expected[2]
    assert (1 - 1e-7) * expected[2] < found[2] < (1 + 1e-7) * expected[2] + left
    collapsed = np.repeat(y.mean(axis=0, keepdims=True), 30, axis=0)
    assert mean_distances([collapsed] * 2, [collapsed, collapsed.copy()]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("n", "m"), [(5, 70), (64, 64), (100, 33)])
def test_nearest_cosine_agrees_with_float64(n: int, m: int) -> None:
    rng = np.random.default_rng(m)
    x, y = rng.random((n, 40)), rng.random((m, 40))
    x[0] = 0.0
    y[1] = x[1] * 2.5
    norms = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None]
    cosine = np.divide(x @ y.T, norms, out=np.zeros((n, m)), where=norms > 0)
    expected = (1 - cosine).min(axis=1).mean()
    assert nearest_cosine_distances([x], [y]) == pytest.approx(expected, rel=1e-5)
    assert np.isnan(nearest_cosine_distances([x[:0]], [y]))
    assert np.isnan(nearest_cosine_distances([x], [y[:0]]))


@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_energy_distance_is_symmetric_and_blind_to_order_rotation_and_place(n, m, seed) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 6)), rng.normal(size=(m, 6)) * 2.0
    found = energy_distance(x, y)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert energy_distance(y, x) == pytest.approx(found, abs=1e-9)
    assert energy_distance(rng.permutation(x), y) == pytest.approx(found, abs=1e-9)
    assert energy_distance(x @ rotation + 5.0, y @ rotation + 5.0) == pytest.approx(found, abs=1e-9)
