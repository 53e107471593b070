"""What is worked out once for several predictions, and what is worked out again."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import shrunk_runs

from wound_jax.config import load_config
from wound_jax.data.prepare import prepare
from wound_jax.data.strata import PlannedStratum, plan_strata
from wound_jax.evaluation.reference import Reference, fit_reference
from wound_jax.prediction.calibration import calibration as calibrations
from wound_jax.prediction.calibration.across_genes import AcrossGenes
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


def test_other_cells_are_planned_anew(reference):
    other = dataclasses.replace(reference.data)
    assert reference.held_out("test", other) is not reference.held_out("test", other)
    assert reference.held_out("test", other).data is other
