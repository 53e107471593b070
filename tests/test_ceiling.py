"""Ceilings: the kinds, what is scored against what, and the correction of halves."""

from collections.abc import Callable

import numpy as np
import pytest

from wound_jax.data.strata import Stratum
from wound_jax.evaluation.distances import energy_distance
from wound_jax.evaluation.noise_ceiling import ceiling_scores, ceiling_sources, spearman_brown

pytestmark = [pytest.mark.blas, pytest.mark.quick]

N_GENES = 300


def stratum(
    treated: np.ndarray,
    replicates: list[str] | np.ndarray | None = None,
    *,
    cell_type: str = "Fib",
    timepoint: str = "day10",
    n_control: int = 30,
) -> Stratum:
    control = np.random.default_rng(0).normal(size=(n_control, treated.shape[1]))
    of_cells = None if replicates is None else np.asarray(replicates)
    return Stratum(cell_type, timepoint, control, treated, "Burn", None, of_cells)


def constant(value: float, n: int) -> np.ndarray:
    """Cells that can be told by their value."""
    return np.full((n, 4), value)


def recorded(calls: list) -> Callable:
    """A score that notes what it is given."""

    def score(strata: list[Stratum], predictions: list[np.ndarray]) -> list[dict[str, float]]:
        calls.append((strata, predictions))
        return [{"n": float(len(cells))} for cells in predictions]

    return score


def kinds(strata: list[Stratum], training: list[Stratum]) -> list[str | None]:
    sources = ceiling_sources(strata, training)
    return [None if source is None else source.kind for source in sources]


def test_replicates_are_other_replicates_of_the_same_labels() -> None:
    test = stratum(constant(1.0, 20), ["m1"] * 20)
    training = [
        stratum(constant(2.0, 40), ["m1"] * 20 + ["m2"] * 20),
        stratum(constant(3.0, 40), ["m3"] * 40, cell_type="Mac"),
        stratum(constant(4.0, 40), ["m3"] * 40, timepoint="day14"),
    ]
    training[0].treated[:20] = 9.0
    calls: list = []
    assert kinds([test], training) == ["replicate"]
    assert ceiling_scores(ceiling_sources([test], training), recorded(calls)) == [{"n": 30.0}]
    ((strata, (cells,)),) = calls
    assert strata == [test], "nothing of the stratum is taken away"
    np.testing.assert_array_equal(cells, constant(2.0, 30))


@pytest.mark.parametrize(
    "replicates", [None, ["m1"] * 20], ids=["replicates unknown", "the same replicate in training"]
)
def test_what_is_not_known_to_be_another_replicate_is_no_replicate(replicates) -> None:
    test = stratum(np.arange(80.0).reshape(20, 4), replicates)
    assert kinds([test], [test]) == ["split-half"]
    calls: list = []
    ceiling_scores(ceiling_sources([test], [test]), recorded(calls), n_splits=3)
    assert len(calls) == 3
    for (truth,), (cells,) in calls:
        assert cells.shape == test.control.shape
        left_out = {tuple(cell) for cell in truth.treated}
        drawn = {tuple(cell) for cell in cells}
        assert len(left_out) == len(drawn) == 10, "every cell of a half is used"
        assert not left_out & drawn
        np.testing.assert_array_equal(truth.control, test.control)


def test_halves_keep_replicates_whole_where_they_have_enough_cells() -> None:
    replicates = np.repeat(["m1", "m2", "m3", "m4"], [30, 5, 20, 25])
    test = stratum(np.repeat([[1.0], [2.0], [3.0], [4.0]], [30, 5, 20, 25], axis=0), replicates)
    calls: list = []
    ceiling_scores(ceiling_sources([test], []), recorded(calls), n_splits=10)
    splits = set()
    for (truth,), (cells,) in calls:
        first, second = set(cells[:, 0]), set(truth.treated[:, 0])
        assert first | second == {1.0, 2.0, 3.0, 4.0}
        assert not first & second
        assert truth.treated_replicates is not None
        assert len(truth.treated_replicates) == truth.n_treated
        assert 20 <= truth.n_treated <= 60
        splits.add(frozenset(first))
    assert len(splits) > 1, "splits differ"


def test_an_replicate_of_few_cells_makes_no_half() -> None:
    test = stratum(np.arange(160.0).reshape(40, 4), ["m1"] * 37 + ["m2"] * 3)
    calls: list = []
    ceiling_scores(ceiling_sources([test], []), recorded(calls), n_splits=1)
    (((truth,), _),) = calls
    assert truth.n_treated == 20


def test_strata_without_a_ceiling_are_none_and_are_not_scored() -> None:
    strata = [stratum(constant(1.0, 3)), stratum(constant(1.0, 20)), stratum(constant(1.0, 0))]
    calls: list = []
    scores = ceiling_scores(ceiling_sources(strata, []), recorded(calls), n_splits=2)
    assert kinds(strata, []) == [None, "split-half", None]
    assert [one is None for one in scores] == [True, False, True]
    assert all(len(given) == 1 for given, _ in calls)
    assert ceiling_scores(ceiling_sources(strata[:1], []), recorded(calls)) == [None]


def test_the_same_seed_draws_the_same_cells() -> None:
    test = stratum(np.random.default_rng(0).normal(size=(30, 4)))
    drawn = []
    for seed in (1, 1, 2):
        calls: list = []
        ceiling_scores(ceiling_sources([test], []), recorded(calls), seed=seed)
        drawn.append(calls[0][1][0])
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_rounds_are_averaged_and_correlations_alone_are_corrected() -> None:
    values = iter([(0.4, 3.0, np.nan), (0.6, 5.0, np.nan)])

    def score(strata, predictions) -> list[dict[str, float]]:
        return [dict(zip(("pearson_delta", "mse", "nothing"), next(values), strict=True))]

    (scores,) = ceiling_scores(ceiling_sources([stratum(constant(1.0, 20))], []), score, n_splits=2)
    assert scores is not None
    assert scores["pearson_delta"] == pytest.approx(2 * 0.5 / 1.5)
    assert scores["mse"] == 4.0
    assert np.isnan(scores["nothing"])


def test_spearman_brown() -> None:
    assert spearman_brown(1.0) == 1.0
    assert spearman_brown(0.5) == pytest.approx(2 / 3)
    assert spearman_brown(-0.3) == -0.3
    assert np.isnan(spearman_brown(float("nan")))


def test_corrected_halves_estimate_the_correlation_of_whole_replicates() -> None:
    """Noisy cells around a known shift: two independent samples of 60 are the truth."""
    rng = np.random.default_rng(3)
    shift = 0.3 * rng.normal(size=N_GENES)
    control = rng.normal(size=(60, N_GENES))

    def sample() -> np.ndarray:
        return shift + 2.0 * rng.normal(size=(60, N_GENES))

    def correlation(truth: np.ndarray, predicted: np.ndarray) -> float:
        first, second = (cells.mean(axis=0) - control.mean(axis=0) for cells in (truth, predicted))
        return float(np.corrcoef(first, second)[0, 1])

    def score(strata, predictions) -> list[dict[str, float]]:
        pairs = zip(strata, predictions, strict=True)
        values = [correlation(s.treated, cells) for s, cells in pairs]
        return [{"pearson_delta": r, "uncorrected": r} for r in values]

    truth = np.mean([correlation(sample(), sample()) for _ in range(40)])
    strata = [Stratum("Fib", None, control, sample(), "Burn") for _ in range(40)]
    halves = [one for one in ceiling_scores(ceiling_sources(strata, []), score) if one is not None]
    assert len(halves) == 40
    corrected = np.mean([scores["pearson_delta"] for scores in halves])
    assert 0.5 < truth < 0.8
    assert corrected == pytest.approx(truth, abs=0.02)
    assert np.mean([scores["uncorrected"] for scores in halves]) < truth - 0.1


def test_replicates_of_one_population_are_at_no_distance() -> None:
    rng = np.random.default_rng(4)

    def cells(n: int) -> np.ndarray:
        return rng.normal(size=(n, 4))

    def score(strata, predictions) -> list[dict[str, float]]:
        pairs = zip(strata, predictions, strict=True)
        return [{"e_distance": energy_distance(p, s.treated)} for s, p in pairs]

    tests = [stratum(cells(60), ["m1"] * 60, n_control=40) for _ in range(20)]
    training = [stratum(cells(200), ["m2"] * 200)]
    scores = ceiling_scores(ceiling_sources(tests, training), score)
    values = [one["e_distance"] for one in scores if one is not None]
    assert len(values) == 20
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(20) < 0.05
