"""What is worked out once for several predictions, and what is worked out again."""

import dataclasses
from functools import cache

import numpy as np
import pytest
import shrunk_runs

from wound_jax.config import load_config
from wound_jax.config.schema import PredictionConfig
from wound_jax.data.prepare import prepare
from wound_jax.data.strata import plan_strata
from wound_jax.evaluation.reference import Yardstick, fit_yardstick
from wound_jax.prediction.calibration import fit as predictions
from wound_jax.prediction.calibration.across_genes import AcrossGenes
from wound_jax.prediction.calibration.fit import finished
from wound_jax.prediction.strata import remembered

EXTRAPOLATED = ["split.kind=celltype", "split.test=[Ker]", "split.val=null"]
ASKED = PredictionConfig(linear_weight=0.5, across_genes=True)


@cache
def config():
    return load_config(shrunk_runs.QUICKSTART, [*shrunk_runs.SHRUNK, *EXTRAPOLATED])


@cache
def fitted() -> Yardstick:
    return fit_yardstick(prepare(config()), config().evaluation, 0)


@pytest.fixture
def yardstick():
    """Fitted, with nothing kept of earlier models."""
    return dataclasses.replace(fitted(), kept={})


def moved_by(shift: float):
    """Stands for a model: controls, moved."""
    return lambda data, planned: [one.cells(data.cells).control + shift for one in planned]


def cells_of(predict, yardstick: Yardstick) -> list[np.ndarray]:
    strata = plan_strata(yardstick.data, config().evaluation, "test")[0]
    return list(predict(yardstick.data, strata))


def test_a_remembered_prediction_is_made_once_for_the_same_strata(yardstick):
    asked = []

    def predict(data, planned):
        asked.append([one.cell_type for one in planned])
        return moved_by(1.0)(data, planned)

    once = remembered(predict)
    strata = list(yardstick.planned)
    first, again = (once(yardstick.data, strata) for _ in range(2))
    assert first is again
    part = once(yardstick.data, strata[1:])
    np.testing.assert_array_equal(part[0], first[1])
    assert asked == [[one.cell_type for one in strata], [one.cell_type for one in strata[1:]]]


def test_learning_across_genes_is_done_once_for_all_models_of_a_yardstick(yardstick, monkeypatch):
    learnt = []

    class Counted(AcrossGenes):
        @classmethod
        def of(cls, rule, strata):
            learnt.append(len(strata))
            return AcrossGenes.of(rule, strata)

    monkeypatch.setattr(predictions, "AcrossGenes", Counted)
    shares = []
    for shift in (0.0, 1.0):
        predict, share = finished(moved_by(shift), yardstick, config().evaluation, ASKED)
        shares.append(share)
        cells = cells_of(predict, yardstick)
        # A yardstick of the same cells that no model has used knows nothing of the first model.
        fresh = dataclasses.replace(yardstick, kept={})
        alone, _ = finished(moved_by(shift), fresh, config().evaluation, ASKED)
        for one, other in zip(cells, cells_of(alone, fresh), strict=True):
            np.testing.assert_array_equal(one, other)
    assert shares[0].members.genes is shares[1].members.genes
    assert learnt == [len(yardstick.planned)] * 3
