"""Metrics that compare strata with each other: groups, ties, chance."""

import numpy as np
import pytest
from metric_strata import distances_float64

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.context import ScoreContext, fit_context
from wound_jax.evaluation.metrics import score_all

pytestmark = pytest.mark.blas

N_GENES = 20
TYPES = ("Fib", "Mac", "Neu")
DAYS = ("d10", "d14", "d19")


def direction(*genes: int) -> np.ndarray:
    shift = np.zeros(N_GENES)
    shift[list(genes)] = 1.0
    return shift


def make_stratum(shift: np.ndarray, cell_type: str, day: str, perturbation="Burn") -> Stratum:
    """Control cells, and the same cells moved: the true delta is the shift."""
    rng = np.random.default_rng([*cell_type.encode(), *day.encode()])
    # Sums of such fractions are exact, and so is the delta.
    control = 3.0 + rng.integers(0, 16, (16, N_GENES)) / 16
    return Stratum(cell_type, day, control, control + shift, perturbation)


@pytest.fixture(scope="module")
def strata() -> list[Stratum]:
    """Every stratum has a direction of its own."""
    return [
        make_stratum(direction(3 * i + j), t, d)
        for i, t in enumerate(TYPES)
        for j, d in enumerate(DAYS)
    ]


@pytest.fixture(scope="module")
def context(strata) -> ScoreContext:
    cells = np.concatenate([s.control for s in strata])
    return fit_context(strata, cells, n_pcs=5, n_top_genes=10, seed=0)


def values(strata, shifts, context, name: str) -> list[float]:
    predictions = [s.control + shift for s, shift in zip(strata, shifts, strict=True)]
    return [scores[name] for scores in score_all(strata, predictions, context)]


def test_a_type_that_takes_the_response_of_another_is_not_retrieved(strata, context) -> None:
    shifts = [s.mean_delta for s in strata]
    assert values(strata, shifts, context, "type_retrieval") == [1.0] * 9
    # At day 10 fibroblasts and macrophages are exchanged; sizes do not matter.
    shifts[0], shifts[3] = 5.0 * shifts[3], 0.1 * shifts[0]
    found = values(strata, shifts, context, "type_retrieval")
    assert [found[i] for i in (0, 3, 6)] == [0.0, 0.0, 1.0]
    assert [found[i] for i in (1, 2, 4, 5, 7, 8)] == [1.0] * 6


def test_one_response_for_all_retrieves_no_type_or_one(strata, context) -> None:
    same = [np.ones(N_GENES)] * 9
    assert values(strata, same, context, "type_retrieval") == [0.0] * 9, "all types are tied"
    shared = [
        sum(w * strata[3 * i + j].mean_delta for i, w in enumerate((3.0, 2.0, 1.0)))
        for _ in TYPES
        for j in range(3)
    ]
    found = values(strata, shared, context, "type_retrieval")
    assert found == [1.0] * 3 + [0.0] * 6, "chance: one type of three"


def test_discrimination_counts_what_is_nearer_than_the_own_perturbation(strata, context) -> None:
    """Fibroblasts at day 10 predicted as at day 14 and a little as at day 19."""
    shifts = [s.mean_delta for s in strata]
    shifts[0] = shifts[1] + 0.2 * shifts[2]
    for name in ("l1", "l2", "cosine"):
        found = values(strata, shifts, context, f"discrimination_score_{name}")
        # Of three, both others are nearer.
        assert found[0] == pytest.approx(1 / 3)
        assert found[1:] == [1.0] * 8


def test_discrimination_distances_differ_as_their_names_say(context) -> None:
    a = make_stratum(direction(0, 1, 2, 3), "Fib", "d10")
    b = make_stratum(10.0 * direction(4), "Fib", "d14")
    # l1: 4.0 to a against 10.0 to b; l2: 2.0 against 10.0; the cosine does not see the size.
    tiny = [0.001 * direction(4) + 0.0005 * direction(0), direction(4)]
    for name, expected in (("l1", 1.0), ("l2", 1.0), ("cosine", 0.5)):
        found = values([a, b], tiny, context, f"discrimination_score_{name}")
        assert found[0] == expected, name


def test_ties_count_half(strata, context) -> None:
    found = values(strata, [np.zeros(N_GENES)] * 9, context, "discrimination_score_l1")
    # At the same distance of all three: (0 + 2/2) / 3 places lost.
    assert found == pytest.approx([2 / 3] * 9)


def test_groups_of_one_compare_with_nothing(strata, context) -> None:
    some = [strata[0], strata[4]]
    for name in ("type_retrieval", "discrimination_score_l2", "pearson_edistance"):
        assert np.isnan(values(some, [s.mean_delta for s in some], context, name)).all(), name
    # The same day under another perturbation is another question.
    freeze = [strata[0], make_stratum(direction(7), "Mac", "d10", "Freeze")]
    shifts = [s.mean_delta for s in freeze]
    assert np.isnan(values(freeze, shifts, context, "type_retrieval")).all()


def test_sizes_of_effects_correlate_by_their_definition(strata, context) -> None:
    fib = strata[:3]
    sizes = (1.0, 3.0, 2.0)
    shifts = [size * s.mean_delta for size, s in zip(sizes, fib, strict=True)]
    true = [
        Stratum(s.cell_type, s.timepoint, s.control, s.control + k * s.mean_delta, "Burn")
        for k, s in zip((1.0, 2.5, 2.4), fib, strict=True)
    ]

    def energy(x: np.ndarray, c: np.ndarray) -> float:
        between, *own = (distances_float64(*p).mean() for p in ((x, c), (x, x), (c, c)))
        return 2 * between - sum(own)

    expected = np.corrcoef(
        [energy(s.control + shift, s.control) for s, shift in zip(true, shifts, strict=True)],
        [energy(s.treated, s.control) for s in true],
    )[0, 1]
    found = values(true, shifts, context, "pearson_edistance")
    assert found == pytest.approx([expected] * 3, abs=1e-5)
    assert 0.3 < expected < 0.99
    assert np.isnan(values(true[:2], shifts[:2], context, "pearson_edistance")).all()
    assert values(true, [np.zeros(N_GENES)] * 3, context, "pearson_edistance") == [0.0] * 3
