"""What rules learn from, and how their settings are chosen: folds, parts, kinds of novelty."""

import numpy as np
import pytest
from rule_strata import DAYS, N_GENES, additive_strata, stratum

from wound_jax.baselines import training as baseline_training
from wound_jax.baselines.inner_folds import folds_of
from wound_jax.baselines.profiles import Novelty, Profiles, labels_of
from wound_jax.baselines.rules import DeltaRule, named_rule, tune
from wound_jax.baselines.stacked_linear import StackedLinear
from wound_jax.baselines.training import Training, drawn, part_sums
from wound_jax.data.strata import Stratum

pytestmark = [pytest.mark.blas, pytest.mark.quick]


def test_folds_leave_out_what_they_are_named_after() -> None:
    # Without its only pair a type is unknown, and so judges nothing but unknown types.
    training, _ = additive_strata({("Neu", "day14"), ("Neu", "day19")})
    prepared = Training(training)
    folds = {kind: folds_of(prepared, kind) for kind in Novelty}
    judged = {kind: [len(f.held_out) for f in of_kind] for kind, of_kind in folds.items()}
    assert judged == {
        Novelty.NONE: [],  # five cells a part are too few to judge by
        Novelty.PAIR: 9 * [1],
        Novelty.TIMEPOINT: [3, 3, 3],
        Novelty.TYPE: [3, 3, 3, 1],
    }
    for novelty, of_kind in folds.items():
        for fold in of_kind:
            novelties = fold.kept.profiles.novelty_of(fold.held_out.profiles)
            assert set(novelties) == {novelty}


def test_a_fold_learns_from_all_but_what_it_is_judged_by() -> None:
    """The means of every fold, from the cells of the other labels and of the other replicates."""
    rng = np.random.default_rng(0)
    animals = np.array([f"m{i}" for i in range(4)])[np.arange(48) % 4]

    def made(cell_type: str, day: str) -> Stratum:
        control, treated = rng.normal(size=(2, 48, N_GENES))
        return Stratum(cell_type, day, control, treated + 1.0, "Burn", animals, animals)

    strata = [made(cell_type, day) for cell_type in ("Fib", "Mac") for day in DAYS]
    prepared = Training(strata)
    parts = folds_of(prepared, Novelty.NONE)
    assert len(parts) == 4
    for animal, fold in zip(sorted(set(animals)), parts, strict=True):
        for examples, cells in ((fold.held_out, animals == animal), (fold.kept, animals != animal)):
            control, treated = (
                np.stack([getattr(s, arm)[cells].mean(axis=0) for s in strata])
                for arm in ("control", "treated")
            )
            np.testing.assert_allclose(examples.profiles.control, control)
            np.testing.assert_allclose(examples.deltas, treated - control)
            scores = prepared.components.project(control)
            np.testing.assert_allclose(examples.profiles.scores, scores)
    for novelty, of_fold in (
        (Novelty.TYPE, lambda p: p.cell_type),
        (Novelty.TIMEPOINT, lambda p: p.timepoint),
        (Novelty.PAIR, lambda p: p.cell_type + p.timepoint),
    ):
        folds = folds_of(prepared, novelty)
        assert len(folds) == len(set(of_fold(prepared.examples.profiles)))
        for fold in folds:
            (label,) = set(of_fold(fold.held_out.profiles))
            assert label not in of_fold(fold.kept.profiles)
            assert len(fold.kept) + len(fold.held_out) == len(strata)


def test_novelty_is_that_of_the_perturbation() -> None:
    """What is known under another perturbation is unknown under this one."""
    known = [("Fib", "day10", "Burn"), ("Fib", "day14", "Burn"), ("Mac", "day10", "Burn")]
    known += [("Mac", "day14", "Freeze"), ("Neu", "day19", "Freeze")]
    expected = {
        ("Fib", "day10", "Burn"): Novelty.NONE,
        ("Mac", "day14", "Burn"): Novelty.PAIR,
        ("Fib", "day19", "Burn"): Novelty.TIMEPOINT,
        ("Neu", "day19", "Burn"): Novelty.TYPE,
        ("Fib", "day14", "Freeze"): Novelty.TYPE,
        ("Neu", "day10", "Freeze"): Novelty.TIMEPOINT,
        ("Neu", "day14", "Freeze"): Novelty.PAIR,
    }

    def profiles(of) -> Profiles:
        strata = [stratum(kind, day, 0.0, 0.0, perturbation) for kind, day, perturbation in of]
        return Profiles(*labels_of(strata), *np.zeros((2, len(strata), 1)))

    assert profiles(known).novelty_of(profiles(expected)) == list(expected.values())
    learnt = Training([stratum(kind, day, 5.0, 1.0, p) for kind, day, p in known]).learnt
    for (kind, day, perturbation), novelty in expected.items():
        assert learnt.novelty_of(stratum(kind, day, 5.0, 0.0, perturbation)) is novelty


def test_parts_keep_replicates_whole_and_add_up() -> None:
    rng = np.random.default_rng(0)
    replicates = np.array(["m1", "m2", "m3", "m4", "m5"])[np.arange(50) % 5]
    cells = rng.normal(size=(50, N_GENES))
    one = Stratum("Fib", None, cells, cells + 1.0, "Burn", replicates, replicates)
    control, treated = part_sums([one])
    assert control.n_parts == treated.n_parts == 4
    np.testing.assert_array_equal(control.counts, [[20, 10, 10, 10]])
    of_m2 = cells[replicates == "m2"].mean(axis=0)
    np.testing.assert_allclose(control.only(1).means[0], of_m2)
    np.testing.assert_allclose(control.without(1).means[0], cells[replicates != "m2"].mean(axis=0))
    np.testing.assert_allclose(treated.only(1).means[0], of_m2 + 1.0)


def test_cells_are_dealt_where_an_arm_has_one_replicate_in_all() -> None:
    cells, alone = np.random.default_rng(0).normal(size=(40, N_GENES)), np.repeat("m1", 40)
    several = np.array(["m1", "m2", "m3"])[np.arange(40) % 3]
    control, treated = part_sums([Stratum("Fib", None, cells, cells, "Burn", alone, several)])
    # As many parts as the arm with replicates has.
    np.testing.assert_array_equal(control.counts, [[14, 13, 13]])
    np.testing.assert_array_equal(treated.counts, [[14, 13, 13]])
    control, treated = part_sums([Stratum("Fib", None, cells, cells, "Burn", alone, alone)])
    for dealt in (control, treated):
        np.testing.assert_array_equal(dealt.counts, [[10, 10, 10, 10]])
        np.testing.assert_allclose(dealt.sums.sum(axis=1)[0], cells.sum(axis=0))
    assert not np.allclose(control.sums, treated.sums), "each arm is dealt by itself"


def test_parts_of_few_cells_in_either_arm_judge_nothing() -> None:
    rng, animals = np.random.default_rng(0), np.array(["m1", "m2"])
    strata = []
    for name, n_control, n_treated in (("Fib", 40, 18), ("Mac", 18, 40), ("Ker", 20, 20)):
        control, treated = (rng.normal(size=(n, N_GENES)) for n in (n_control, n_treated))
        of_control, of_treated = (animals[np.arange(n) % 2] for n in (n_control, n_treated))
        strata.append(Stratum(name, None, control, treated, "Burn", of_control, of_treated))
    for fold in folds_of(Training(strata), Novelty.NONE):
        assert list(fold.held_out.profiles.cell_type) == ["Ker"]
        assert len(fold.kept) == 3


def test_components_are_of_equally_many_cells_of_each_arm_of_each_stratum(monkeypatch) -> None:
    monkeypatch.setattr(baseline_training, "_MAX_CELLS", 40)
    rng = np.random.default_rng(0)
    strata = []
    for name, n in (("Fib", 400), ("Mac", 10)):
        control, treated = rng.normal(size=(2, n, N_GENES))
        strata.append(Stratum(name, None, control, treated, "Burn"))
    arms = [drawn(s, arm, 10) for s in strata for arm in ("control", "treated")]
    assert [len(cells) for cells in arms] == [10] * 4
    mean = np.concatenate(arms).mean(axis=0)
    np.testing.assert_allclose(Training(strata).components.mean, mean, atol=1e-6)


def test_cells_are_drawn_by_stratum_and_arm_without_replacement() -> None:
    cells = np.arange(300.0)[:, None] * np.ones(N_GENES)
    one, other = (Stratum(name, None, cells, cells, "Burn") for name in ("Fib", "Mac"))
    draws = [drawn(s, arm, 20)[:, 0] for s in (one, other) for arm in ("control", "treated")]
    assert len({tuple(draw) for draw in draws}) == 4
    for draw in draws:
        assert (np.diff(draw) > 0).all()
    np.testing.assert_array_equal(drawn(one, "control", 20)[:, 0], draws[0])
    assert drawn(one, "control", 300) is one.control


def test_what_baselines_share_is_made_once() -> None:
    prepared, made = Training([stratum("Fib", None, 0.0, 1.0)]), []
    for _ in range(2):
        assert prepared.once("key", lambda: made.append(1) or "result") == "result"
    assert made == [1]
    assert Training.of(prepared) is prepared


@pytest.mark.parametrize("absurd", [np.nan, np.inf, 1e200])
def test_a_setting_with_which_a_rule_explodes_is_the_last_to_be_taken(absurd) -> None:
    def compute(known: Profiles, deltas: np.ndarray, wanted: Profiles, setting: float):
        return np.full_like(wanted.control, setting)

    training = [stratum(name, None, 5.0, 1.0) for name in ("Fib", "Mac")]
    for settings in ((absurd, 3.0, 1.5), (3.0, absurd, 1.5), (3.0, 1.5, absurd)):
        with np.errstate(over="ignore"):
            fitted = DeltaRule("exploding", settings, compute).fit(training, False)
        assert fitted.settings[Novelty.TYPE] == 1.5


def test_a_fold_learns_from_a_stratum_of_which_one_cell_is_left() -> None:
    rng, animals = np.random.default_rng(0), np.repeat(["m1", "m2"], [10, 1])
    cells = rng.normal(size=(2, 11, N_GENES))
    few = Stratum("Fib", None, cells[0], cells[1], "Burn", animals, animals)
    prepared = Training([few])
    (fold,) = folds_of(prepared, Novelty.NONE)
    # It stands in for a combination, and not for an unknown type.
    tuned = {kind: tune(named_rule("gene_wise"), prepared, kind) for kind in Novelty}
    assert tuned[Novelty.PAIR] is tuned[Novelty.NONE] is not None
    assert tuned[Novelty.TYPE] is None
    np.testing.assert_allclose(fold.kept.deltas[0], cells[1, 10] - cells[0, 10])
    np.testing.assert_allclose(fold.held_out.profiles.control[0], cells[0, :10].mean(axis=0))


def test_the_most_cautious_setting_wins_ties() -> None:
    rule = DeltaRule("tied", (3, 1, 2), lambda known, deltas, wanted, _: 0.0 * wanted.control)
    training = [stratum(name, None, 5.0, 1.0) for name in ("Fib", "Mac")]
    assert rule.fit(training, False).settings[Novelty.TYPE] == 3


def test_a_kind_that_strata_cannot_show_is_chosen_by_the_nearest_that_they_can() -> None:
    """One type on three days: no type left out, and a pair left out is a timepoint left out."""
    prepared = Training([stratum("Fib", day, 5.0, i) for i, day in enumerate(DAYS)])
    shown = {kind for kind in Novelty if folds_of(prepared, kind)}
    assert shown == {Novelty.TIMEPOINT}
    tuned = {kind: tune(named_rule("gene_wise"), prepared, kind) for kind in Novelty}
    # Of an unknown type nothing else tells.
    assert tuned.pop(Novelty.TYPE) is None
    assert {id(of_kind) for of_kind in tuned.values()} == {id(tuned[Novelty.TIMEPOINT])}
    stack = StackedLinear.fit(prepared, False)
    np.testing.assert_allclose(stack.weights[Novelty.TYPE], 1 / 9)
    assert stack.members[4].settings[Novelty.TYPE] == stack.members[4].rule.settings[0]
