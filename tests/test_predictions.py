"""What is worked out once for several predictions, and what is worked out again."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import shrunk_runs
import tiny

from wound_jax.config import load_config
from wound_jax.data.prepare import prepare
from wound_jax.data.strata import PlannedStratum, plan_strata
from wound_jax.evaluation.reference import Reference, fit_reference
from wound_jax.prediction.calibration import calibration as calibrations
from wound_jax.prediction.calibration.across_genes import AcrossGenes
from wound_jax.prediction.calibration.blend import Members, blend
from wound_jax.prediction.settings import PredictionSettings
from wound_jax.prediction.strata import remembered

pytestmark = pytest.mark.quick

EXTRAPOLATED = ["split.kind=celltype", "split.test=[Ker]", "split.val=null"]
ASKED = PredictionSettings(linear_weight=0.5, across_genes=True)


@cache
def config():
    return load_config(shrunk_runs.QUICKSTART, [*shrunk_runs.SHRUNK, *EXTRAPOLATED])


@cache
def fitted() -> Reference:
    return fit_reference(prepare(config()), config().evaluation, 0)


@pytest.fixture
def reference() -> Reference:
    """Fitted, with nothing kept of earlier models."""
    return unused(fitted())


def unused(reference: Reference) -> Reference:
    """The same reference, which no model has used yet."""
    return dataclasses.replace(reference, taught=dataclasses.replace(reference.taught))


def moved_by(shift: float):
    """Stands for a model: controls, moved."""
    return lambda data, planned: [one.cells(data.cells).control + shift for one in planned]


def cells_of(predict, reference: Reference) -> list[np.ndarray]:
    strata = plan_strata(reference.data, config().evaluation, "test")[0]
    return list(predict(reference.data, strata))


def test_a_remembered_prediction_is_made_once_for_the_same_strata(reference):
    asked = []

    def predict(data, planned):
        asked.append([one.cell_type for one in planned])
        return moved_by(1.0)(data, planned)

    once = remembered(predict)
    strata = list(reference.taught.planned)
    first, again = (once(reference.data, strata) for _ in range(2))
    assert first is again
    part = once(reference.data, strata[1:])
    np.testing.assert_array_equal(part[0], first[1])
    assert asked == [[one.cell_type for one in strata], [one.cell_type for one in strata[1:]]]


def test_learning_across_genes_is_done_once_for_all_models_of_a_reference(reference, monkeypatch):
    learnt = []

    class Counted(AcrossGenes):
        @classmethod
        def of(cls, rule, strata):
            learnt.append(len(strata))
            return AcrossGenes.of(rule, strata)

    monkeypatch.setattr(calibrations, "AcrossGenes", Counted)
    learners = []
    for shift in (0.0, 1.0):
        calibration = reference.calibrate(moved_by(shift), ASKED)
        learners.append(calibration.blend.members.genes)
        cells = cells_of(calibration.after(moved_by(shift)), reference)
        # A reference of the same cells that no model has used knows nothing of the first model.
        fresh = unused(reference)
        alone = fresh.calibrate(moved_by(shift), ASKED).after(moved_by(shift))
        for one, other in zip(cells, cells_of(alone, fresh), strict=True):
            np.testing.assert_array_equal(one, other)
    assert learners[0] is learners[1]
    assert learnt == [len(reference.taught.planned)] * 3


def test_a_reference_is_computed_once_for_all_models(reference, monkeypatch):
    """Strata, baselines and noise ceilings of a part, until the last model has been scored."""
    copied, copy_out = [], PlannedStratum.cells

    def counted(planned, table):
        copied.append(planned)
        return copy_out(planned, table)

    monkeypatch.setattr(PlannedStratum, "cells", counted)
    held_out = reference.held_out("test")
    assert copied == [], "planned, not read"
    assert reference.held_out("test") is held_out
    assert reference.held_out("test", reference.data) is held_out
    first = held_out.strata, held_out.baselines, held_out.noise_ceilings
    read = len(copied)
    again = held_out.strata, held_out.baselines, held_out.noise_ceilings
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert len(copied) == read == len(held_out.planned) + len(reference.taught.planned)


def with_other(reference: Reference, cells: np.ndarray) -> Reference:
    """The reference of the same data, where some cells hold other values."""
    data = reference.data
    features = data.cells.features[:].copy()
    features[cells] = 9.0 - features[cells]
    other = dataclasses.replace(data, cells=dataclasses.replace(data.cells, features=features))
    return fit_reference(other, config().evaluation, 0)


def test_held_out_cells_teach_a_reference_nothing(reference):
    """Genes, components, classes, baselines and what calibrates, to the last bit."""
    split = reference.data.split
    everyone = np.arange(len(reference.data.cells.annotations))
    held_out = np.setdiff1d(everyone, split.training_cells)
    assert set(split.treated["test"]) <= set(held_out)
    again = with_other(reference, held_out)
    for name in ("top_genes", "pooled_top_genes", "mean_deltas"):
        one, other = (getattr(of.context, name) for of in (reference, again))
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    for name in ("pca_mean", "pca_components"):
        one, other = (getattr(of.context, name) for of in (reference, again))
        np.testing.assert_array_equal(one, other)
    classifier, other = reference.context.classifier, again.context.classifier
    assert classifier is not None
    assert other is not None
    np.testing.assert_array_equal(classifier.coef_, other.coef_)
    (stratum, *_) = reference.held_out().strata
    for name, baseline in reference.baselines.items():
        np.testing.assert_array_equal(
            again.baselines[name].predict(stratum), baseline.predict(stratum), err_msg=name
        )
    for novelty, weights in reference.taught.rule.weights.items():
        np.testing.assert_array_equal(again.taught.rule.weights[novelty], weights)
    # The same change of training cells is noticed.
    assert not np.array_equal(
        with_other(reference, split.training_cells[:50]).context.pca_mean,
        reference.context.pca_mean,
    )


def test_validation_cells_choose_the_share_and_no_others(reference):
    asked = []

    def predict(data, planned):
        asked.extend(planned)
        return moved_by(0.5)(data, planned)

    share = reference.calibrate(predict, PredictionSettings(linear_weight="auto")).blend
    judges = np.concatenate([one.targets for one in asked])
    assert len(judges)
    assert set(judges) <= set(reference.data.split.treated["val"])
    strata = [one.cells(reference.data.cells) for one in asked]
    expected = blend(
        Members(reference.taught.rule), "auto", strata, moved_by(0.5)(reference.data, asked)
    )
    assert share.weights == expected.weights


@pytest.mark.parametrize("block", [7, 1000])
def test_the_cells_of_a_type_and_timepoint_are_finished_together(block, monkeypatch):
    """All its replicates, also where sets are of one of them: the evaluation does so too."""
    data = tiny.tiny_config(None, match_on=["cell_type", "timepoint", "replicate"]).data
    labels = tiny.tiny_labels(tiny.tiny_obs(paired=True))
    labels = labels.take(np.flatnonzero(labels.condition == "sham"))
    monkeypatch.setattr(calibrations, "_BLOCK", block)
    real, finished = np.arange(len(labels), dtype=np.float32)[:, None], {}

    class Recorded(calibrations.Calibration):
        def apply(self, cells, stratum):
            assert (stratum.perturbation, stratum.n_treated) == ("burn", 0)
            np.testing.assert_array_equal(cells, stratum.control + 0.5)
            assert len(cells) <= block
            of = stratum.cell_type, stratum.timepoint
            finished.setdefault(of, []).extend(stratum.control[:, 0].astype(int))
            return cells + 1.0

    predicted = real + np.float32(0.5)
    Recorded().apply_to_table(data, labels, real, predicted, "burn")
    np.testing.assert_array_equal(predicted, real + 1.5)
    kinds = labels.cell_type, labels.timepoint
    assert {*finished} == {*zip(*kinds, strict=True)}
    for (cell_type, day), cells in finished.items():
        wanted = (kinds[0] == cell_type) & (kinds[1] == day)
        assert len(set(labels.replicate[wanted])) > 1
        np.testing.assert_array_equal(np.sort(cells), np.flatnonzero(wanted))


def test_other_cells_are_planned_anew(reference):
    other = dataclasses.replace(reference.data)
    assert reference.held_out("test", other) is not reference.held_out("test", other)
    assert reference.held_out("test", other).data is other
