import copy
import dataclasses
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny import tiny_labels, tiny_obs

from wound_jax.data.annotations import Annotations
from wound_jax.data.groups import Group, control_pairs, make_groups, require_controls
from wound_jax.data.seeding import Use, stream
from wound_jax.data.sets import PlanBuilder, SetPlan, prediction_plan
from wound_jax.data.spec import Codes
from wound_jax.errors import UserError

MATCHES = ((), ("cell_type",), ("cell_type", "timepoint"), ("timepoint", "replicate"))
CONTROL = "ctrl"
COLUMNS = tuple(field.name for field in dataclasses.fields(SetPlan))


@st.composite
def annotations(draw) -> Annotations:
    """Cells of up to three types, days, conditions and replicates, in any combination."""
    n = draw(st.integers(4, 120))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(st.integers(1, 3))
    labels = [np.array([f"{x}{i}" for i in rng.integers(width, size=n)], object) for x in "cda"]
    condition = np.array([CONTROL, "x", "y"], object)[rng.integers(draw(st.integers(2, 3)), size=n)]
    return Annotations(np.arange(n), condition, *labels)


def numbered(groups: list[Group]) -> Callable[[Group], Codes]:
    """Codes by the place of a treated group; those of the control for all others."""
    of = {group: Codes(1 + i, i, 0.5 * i) for i, group in enumerate(groups)}
    return lambda group: of.get(group, Codes(0, -1, -0.5))


@st.composite
def builders(draw, **options) -> tuple[PlanBuilder, list[Group], Annotations, tuple[str, ...]]:
    """A plan builder over the groups that have controls."""
    cells, match_on = draw(annotations()), draw(st.sampled_from(MATCHES))
    controls = np.flatnonzero(cells.condition == CONTROL)
    groups, _ = make_groups(cells, np.flatnonzero(cells.condition != CONTROL), controls, match_on)
    assume(groups)
    pairs = control_pairs(cells, controls, match_on)
    drawn = {name: draw(strategy) for name, strategy in options.items()}
    builder = PlanBuilder(
        groups,
        pairs,
        codes=numbered(groups),
        cell_set_len=draw(st.integers(2, 9)),
        seed=draw(st.integers(-(2**40), 2**40)),
        **drawn,
    )
    return builder, groups, cells, match_on


def same(a: SetPlan, b: SetPlan) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COLUMNS)


def sets(plan: SetPlan):
    """(control cells, target cells, perturbation) of each set, padding left out."""
    for i in range(len(plan)):
        control = plan.control[i][plan.control_mask[i]]
        yield control, plan.target[i][plan.target_mask[i]], int(plan.perturbation[i])


@given(builders(), st.integers(0, 5))
def test_each_epoch_visits_each_treated_cell_once(built, epoch):
    builder, groups, _, _ = built
    plan = builder.epoch(epoch)
    visited = plan.target[plan.target_mask]
    assert sorted(visited) == sorted(np.concatenate([group.targets for group in groups]))
    sizes = plan.target_mask.sum(1)
    assert sizes.min() >= 1
    for i, group in enumerate(groups):
        of_group = sizes[plan.perturbation == 1 + i]
        assert of_group.sum() == len(group.targets)
        assert of_group.max() - of_group.min() <= 1
        assert len(of_group) == -(-len(group.targets) // builder.cell_set_len)


@given(builders())
def test_controls_agree_on_the_labels_and_are_drawn_without_replacement(built):
    builder, groups, cells, match_on = built
    for control, target, code in sets(builder.epoch(0)):
        group = groups[code - 1]
        assert len(set(control)) == len(control) == min(builder.cell_set_len, len(group.controls))
        assert set(cells.condition[control]) == {CONTROL}
        assert len(set(zip(cells.cell_type[target], cells.timepoint[target],
                           cells.condition[target], strict=True))) == 1  # fmt: skip
        for role in match_on:
            assert set(cells.column(role)[control]) == set(cells.column(role)[target])


@given(builders(resample=st.booleans(), control_fraction=st.sampled_from([0.0, 0.3])))
def test_a_plan_is_a_pure_function_of_seed_and_epoch(built):
    builder, again = built[0], copy.deepcopy(built[0])
    first, fixed = builder.epoch(3), builder.fixed()
    builder.epoch(4)
    assert same(again.epoch(3), first)
    assert same(again.fixed(), fixed)


@given(builders(resample=st.booleans(), control_fraction=st.floats(0.0, 0.9)), st.integers(0, 9))
def test_shapes_and_types_are_constant(built, epoch):
    builder = built[0]
    for plan in (builder.epoch(epoch), builder.fixed()):
        assert len(plan) == builder.sets_per_epoch()
        wide, flat = (len(plan), builder.cell_set_len), (len(plan),)
        shapes = [getattr(plan, name).shape for name in COLUMNS]
        dtypes = [getattr(plan, name).dtype for name in COLUMNS]
        assert shapes == [wide, wide, wide, wide, flat, flat, flat]
        assert dtypes == [np.int32, bool, np.int32, bool, np.int32, np.int32, np.float32]
        assert (plan.control_mask.any(1) & plan.target_mask.any(1)).all()


@given(builders(control_fraction=st.sampled_from([0.0, 0.5])))
def test_padding_is_masked_and_stands_at_the_end(built):
    plan = built[0].epoch(0)
    for cells, mask in ((plan.control, plan.control_mask), (plan.target, plan.target_mask)):
        assert (cells[~mask] == 0).all()
        assert (mask[:, :-1] >= mask[:, 1:]).all()


@given(builders(resample=st.just(True)))
def test_resampled_sets_are_full_of_their_own_cells(built):
    builder, groups, _, _ = built
    plan = builder.epoch(1)
    assert plan.control_mask.all()
    assert plan.target_mask.all()
    for control, target, code in sets(plan):
        assert set(control) <= set(groups[code - 1].controls)
        assert set(target) <= set(groups[code - 1].targets)
        n = min(builder.cell_set_len, len(groups[code - 1].controls))
        assert len(set(control[:n])) == n, "cells are repeated only where there are too few"
    visited = Counter(plan.target.ravel())
    assert set(visited) == {cell for group in groups for cell in group.targets}


@given(builders(control_fraction=st.floats(0.01, 0.9)))
def test_control_sets_are_disjoint_halves_of_one_group_and_have_their_share(built):
    builder, groups, cells, match_on = built
    plan = builder.epoch(0)
    treated = sum(-(-len(group.targets) // builder.cell_set_len) for group in groups)
    n = (plan.perturbation == 0).sum()
    fraction = builder.control_fraction
    expected = fraction / (1 - fraction) * treated if builder.control_groups else 0
    assert abs(n - expected) <= 0.5
    for control, target, code in sets(plan):
        if code:
            continue
        assert not set(control) & set(target)
        assert len(control) == len(target) >= 1
        both = np.concatenate([control, target])
        assert set(cells.condition[both]) == {CONTROL}
        for role in {"cell_type", "timepoint", *match_on}:
            assert len(set(cells.column(role)[both])) == 1


def real_builder(**options) -> PlanBuilder:
    cells = tiny_labels(tiny_obs(per_mouse=30))
    controls = np.flatnonzero(cells.condition == "sham")
    match_on = ("cell_type", "timepoint")
    groups, _ = make_groups(cells, np.flatnonzero(cells.condition == "burn"), controls, match_on)
    pairs, codes = control_pairs(cells, controls, match_on), numbered(groups)
    return PlanBuilder(groups, pairs, codes=codes, **{"cell_set_len": 16, "seed": 0, **options})


def partition(plan: SetPlan) -> set[frozenset[int]]:
    return {frozenset(target.tolist()) for _, target, _ in sets(plan)}


def test_epochs_and_seeds_differ_in_partition_controls_and_order():
    plans = [real_builder(seed=seed).epoch(epoch) for seed in (0, 1, -1) for epoch in (0, 1, 2)]
    plans += [real_builder(seed=seed).fixed() for seed in (0, 1, -1)]
    for i, a in enumerate(plans):
        for b in plans[:i]:
            assert not partition(a) & partition(b)
            assert not np.array_equal(a.control, b.control)
    assert len({tuple(plan.perturbation) for plan in plans}) == len(plans)


def test_resampling_repeats_cells_at_random():
    plan = real_builder(resample=True, cell_set_len=200).epoch(0)
    assert len(plan) == 4
    for cells in (*plan.control, *plan.target):
        repeats = Counter(cells.tolist())
        assert len(repeats) == 90
        assert sum(n > 1 for n in repeats.values()) > 40, "110 repeats are spread over 90 cells"


def test_each_set_draws_controls_of_its_own():
    found = [frozenset(control.tolist()) for control, _, _ in sets(real_builder().epoch(0))]
    assert len(set(found)) == len(found)
    drawn = Counter(cell for control in found for cell in control)
    assert len(drawn) > 200, "of 360 control cells, 24 sets of 16 draw most"


def test_the_share_of_control_sets_over_many_sets():
    builder = real_builder(control_fraction=0.25, cell_set_len=4)
    plan = builder.epoch(0)
    assert (plan.perturbation == 0).mean() == pytest.approx(0.25, abs=0.005)
    assert (builder.epoch(1).perturbation == 0).mean() == pytest.approx(0.25, abs=0.005)
    assert real_builder().epoch(0).perturbation.min() == 1


@given(st.integers(1, 40))
def test_batches_share_the_sets_evenly_and_are_filled_up_with_empty_ones(size):
    plan = real_builder().epoch(0)
    batches = plan.batches(size)
    assert len(batches) == -(-len(plan) // size)
    assert {len(batch) for batch in batches} == {size}
    real = [batch.target_mask.any(1) for batch in batches]
    counts = [int(r.sum()) for r in real]
    assert max(counts) - min(counts) <= 1
    for name in COLUMNS:
        columns = [getattr(batch, name) for batch in batches]
        kept = np.concatenate([column[r] for column, r in zip(columns, real, strict=True)])
        empty = np.concatenate([column[~r] for column, r in zip(columns, real, strict=True)])
        assert np.array_equal(kept, getattr(plan, name))
        assert (empty == 0).all()
        assert kept.dtype == getattr(plan, name).dtype


def test_no_group_gives_a_plan_without_sets():
    plan = PlanBuilder([], codes=numbered([]), cell_set_len=4, seed=0).epoch(0)
    assert len(plan) == 0
    assert plan.control.shape == (0, 4)
    assert plan.batches(3) == []


@given(st.integers(0, 70), st.integers(1, 16), st.integers())
def test_prediction_sets_hold_each_control_cell_once(n, length, seed):
    nobody, controls = np.zeros(0, dtype=int), np.arange(100, 100 + n)
    group, codes = Group("T cell", "d1", "x", nobody, controls), Codes(3, -1, 1.0)
    plan, place = prediction_plan(group, codes, length, seed)
    index, mask = plan.control, plan.control_mask
    assert index.dtype == np.int32
    assert index.shape == mask.shape == place.shape == (max(1, -(-n // length)), length)
    assert sorted(index[mask]) == list(controls)
    assert (index[~mask] == 0).all()
    assert np.array_equal(controls[place[mask]], index[mask])
    assert plan.target.shape == plan.target_mask.shape == (len(plan), 0)
    for name, code in codes._asdict().items():
        assert (getattr(plan, name) == code).all()
        assert getattr(plan, name).dtype == (np.float32 if name == "time" else np.int32)
    assert same(prediction_plan(group, codes, length, seed)[0], plan)


def test_the_partition_of_a_prediction_is_random_by_its_seed():
    group = Group("T cell", "d1", "x", np.zeros(0, dtype=int), np.arange(40))
    plans = [prediction_plan(group, Codes(3, -1, 1.0), 8, seed)[0] for seed in (0, 1)]
    assert not same(*plans)
    assert all(not np.array_equal(plan.control.ravel(), np.arange(40)) for plan in plans)


def test_a_control_set_is_of_a_group_by_its_size():
    """Nine cells of ten are fibroblasts, and so are nine sets of ten."""
    groups = [
        Group(name, "d1", CONTROL, cells, cells)
        for name, cells in (("Fib", np.arange(90)), ("Mac", np.arange(90, 100)))
    ]
    treated = Group("Fib", "d1", "x", np.arange(200, 600), np.arange(90))
    builder = PlanBuilder(
        [treated], groups, codes=numbered([treated]), cell_set_len=1, control_fraction=0.5, seed=0
    )
    plan = builder.epoch(0)
    of_control = plan.control[plan.perturbation == 0, 0]
    assert len(of_control) == 400
    assert (of_control < 90).mean() == pytest.approx(0.9, abs=0.05)


def test_groups_without_controls_are_set_apart_and_named():
    cells = tiny_labels(tiny_obs(per_mouse=2))
    treated = np.flatnonzero(cells.condition == "burn")
    controls = np.flatnonzero((cells.condition == "sham") & (cells.timepoint != "d2"))
    groups, orphans = make_groups(cells, treated, controls, ("cell_type", "timepoint"))
    assert [str(group) for group in groups] == ["burn / B cell / d1", "burn / T cell / d1"]
    assert [str(group) for group in orphans] == ["burn / B cell / d2", "burn / T cell / d2"]
    with pytest.raises(UserError, match=r"\(cell_type, timepoint\) with: burn / B cell / d2 \(6 c"):
        require_controls(orphans, ("cell_type", "timepoint"))
    require_controls([], ("cell_type",))


def test_nested_mice_matched_on_the_replicate_have_no_controls_and_are_named():
    cells = tiny_labels(tiny_obs(per_mouse=2))
    treated, controls = (np.flatnonzero(cells.condition == c) for c in ("burn", "sham"))
    groups, orphans = make_groups(cells, treated, controls, ("cell_type", "replicate"))
    assert not groups
    assert str(orphans[0]) == "burn / B cell / d1 / burn_d1_m0"
    with pytest.raises(UserError, match=r"burn_d1_m0 \(2 cells\)"):
        require_controls(orphans, ("cell_type", "replicate"))
    with pytest.raises(UserError, match="and 4 more groups"):
        require_controls(orphans * 2, ("cell_type", "replicate"))


def test_groups_of_equal_labels_are_told_apart():
    """Matched on the replicate, groups differ in cells alone; they have to be comparable."""
    cells = tiny_labels(tiny_obs(paired=True, per_mouse=2))
    treated, controls = (np.flatnonzero(cells.condition == c) for c in ("burn", "sham"))
    groups, _ = make_groups(cells, treated, controls, ("cell_type", "timepoint", "replicate"))
    assert len(groups) == 24
    assert groups[0] != groups[1]
    assert groups.index(groups[1]) == 1
    for group in groups:
        assert (
            set(cells.replicate[group.controls])
            == {group.replicate}
            == set(cells.replicate[group.targets])
        )


def test_streams_of_randomness_are_distinct():
    keys = [(use, *key) for use in Use for key in ((), (0,), (1,), (0, 0))]
    drawn = {stream(seed, *key).integers(2**63) for seed in (0, 1, -1) for key in keys}
    assert len(drawn) == 3 * len(keys)
