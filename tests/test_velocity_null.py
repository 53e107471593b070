"""The null of velocity alignment: its level, its power, its figures, and the shuffled control."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from wound_jax.data.velocity.contract import VelocityData, permute_within
from wound_jax.data.velocity.null import (
    NullOptions,
    alignment_table,
    randomisation_test,
)
from wound_jax.errors import UserError

pytestmark = pytest.mark.quick

SPREAD = np.linspace(3.0, 0.3, 10)


def study(rng, *, related=0.0, delta=1.0, speed=1.0, drag=0.0, n=60):
    """One cell type: control cells, their velocities, treated cells, in a turned basis.

    Flow and delta are drawn from the spread of the cells. `related` is the share of the delta in
    the flow, `speed` the size of the flow; `drag` pulls every cell back to the middle, as
    u - gamma s does.
    """
    turn = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    e = delta * SPREAD * rng.standard_normal(10)
    flow = related * e + (1 - related) * SPREAD * rng.standard_normal(10)
    control, treated = (SPREAD * rng.standard_normal((n, 10)) for _ in range(2))
    noise = 0.5 * SPREAD * rng.standard_normal((n, 10))
    velocity = speed * flow + noise - drag * control
    return control @ turn, velocity @ turn, (treated + e) @ turn


def p_values(studies=300, **kind):
    options = NullOptions(draws=199)
    found = []
    for seed in range(studies):
        rng = np.random.default_rng(seed)
        found.append(randomisation_test(*study(rng, **kind), options, rng=rng)["p"])
    return np.array(found)


UNRELATED = {
    "shared flow": {},
    "flow with drag": {"drag": 0.5},
    "no delta": {"drag": 0.5, "delta": 0.0},
    "drag alone": {"drag": 0.5, "delta": 0.0, "speed": 0.0},
}


@pytest.mark.parametrize("kind", UNRELATED.values(), ids=UNRELATED)
def test_the_level_is_right_where_velocity_and_treatment_are_unrelated(kind):
    p = p_values(**kind)
    for level in (0.05, 0.2, 0.5):
        hits = binomtest(int((p <= level).sum()), len(p), level)
        assert hits.pvalue > 1e-3, (level, hits.statistic)


def test_a_flow_along_the_delta_is_found():
    assert (p_values(studies=100, related=0.9) <= 0.05).mean() > 0.9
    assert (p_values(studies=100, related=0.0) <= 0.05).mean() < 0.15


def test_the_test_does_not_depend_on_the_basis_or_on_speed():
    control, velocity, treated = study(np.random.default_rng(1), related=0.5)
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((10, 10)))[0]

    def run(control, velocity, treated):
        rng = np.random.default_rng(3)
        return randomisation_test(control, velocity, treated, NullOptions(), rng=rng)

    first = run(control, velocity, treated)
    second = run(control @ turn + 5.0, 7.0 * velocity @ turn, treated @ turn + 5.0)
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, atol=0.02, err_msg=name)


def test_figures_against_their_definition():
    control, velocity, treated = study(np.random.default_rng(4), related=0.7)
    found = randomisation_test(
        control, velocity, treated, NullOptions(), rng=np.random.default_rng(5)
    )
    delta = treated.mean(0) - control.mean(0)
    cosine = velocity @ delta / np.linalg.norm(velocity, axis=1) / np.linalg.norm(delta)
    # Halves of 30 cells stand in for all 60 in the control mean.
    assert found["mean_cosine"] == pytest.approx(cosine.mean(), abs=0.1)
    assert found["null_mean"] == pytest.approx(0.0, abs=0.02)
    reverse = randomisation_test(
        control, -velocity, treated, NullOptions(), rng=np.random.default_rng(5)
    )
    assert reverse["mean_cosine"] == pytest.approx(-found["mean_cosine"])
    assert reverse["p"] == found["p"]


def table_of(replicates=False, **options):
    """Three types: one flows towards the delta, one away from it, one is rare."""
    rng = np.random.default_rng(6)
    parts, labels = [], []
    for name, sign in (("Fib", 1), ("Ker", -1), ("Mus", 1)):
        control, velocity, treated = study(rng, related=1.0, n=8 if name == "Mus" else 60)
        parts.append((control, sign * velocity))
        parts.append((treated, np.zeros_like(treated)))
        labels += [(name, "Sham")] * len(control) + [(name, "Burn")] * len(treated)
    z, v = (np.concatenate(part) for part in zip(*parts, strict=True))
    frame = pd.DataFrame(labels, columns=pd.Index(["cell_type", "condition"]))
    if replicates:
        frame["replicate"] = np.where(np.arange(len(frame)) % 2, "m1", "m2")
    known = np.ones(len(z), bool)
    data = VelocityData(v, known, known.astype(np.float32), np.ones(10, bool), "test")
    return alignment_table(z, data, frame, "Sham", NullOptions(**options))


@pytest.mark.parametrize("replicates", [False, True])
def test_table_of_verdicts(replicates):
    table = table_of(replicates).set_index("cell_type")
    assert list(table["verdict"]) == ["towards Burn", "away from Burn", "too few cells"]
    assert list(table["n"]) == [60, 60, 8]
    assert table.loc["Fib", "mean_cosine"] > 0.5 > -0.5 > table.loc["Ker", "mean_cosine"]
    assert table.loc["Mus", ["mean_cosine", "p", "q"]].isna().all()
    tested = table.loc[["Fib", "Ker"]]
    assert (tested["q"] >= tested["p"]).all()
    pd.testing.assert_frame_equal(table_of(replicates), table.reset_index())
    assert set(table_of(alpha=1e-9)["verdict"]) == {"not shown", "too few cells"}


def test_shuffled_velocities_stay_in_their_group():
    v = np.arange(40, dtype=np.float32).reshape(20, 2)
    data = VelocityData(v, v[:, 0] > 4, v[:, 0] / 40, np.ones(2, bool), "obsm/v")
    groups = np.repeat(["a", "b", "c"], [9, 10, 1])
    found = permute_within(data, groups, seed=0)
    for label in "abc":
        inside = groups == label
        assert set(found.velocity[inside, 0]) == set(v[inside, 0])
    assert (found.velocity != v).any(axis=1).mean() > 0.5
    # A cell takes over another's velocity with its confidence and whether it is known.
    np.testing.assert_array_equal(found.known, found.velocity[:, 0] > 4)
    np.testing.assert_array_equal(found.confidence, found.velocity[:, 0] / 40)
    again = permute_within(data, groups, seed=0)
    np.testing.assert_array_equal(again.velocity, found.velocity)


def test_without_a_second_condition_there_is_nothing_to_test():
    known = np.ones(4, bool)
    data = VelocityData(np.ones((4, 2)), known, np.ones(4), np.ones(2, bool), "test")
    labels = pd.DataFrame({"cell_type": ["Fib"] * 4, "condition": ["Sham"] * 4})
    with pytest.raises(UserError, match="the conditions are Sham"):
        alignment_table(np.ones((4, 2)), data, labels, "Sham")
    with pytest.raises(UserError, match=r"min_cells=1.*halves of at least 2 cells"):
        NullOptions(min_cells=1)
