"""Reference: what predictions are measured by, computed once for cells, a split and settings.

Owns `Reference`, all that is learnt on training cells (genes, components, baselines), and
`HeldOut`, the strata of one part of the split with the scores of baselines and the noise ceilings
on them. No model changes any of it, so that one reference is handed down to all models of the same
cells, and each of its figures is computed when the first of them asks for it.

A stratum is one (cell type, timepoint, condition) with enough cells in both arms. Strata that are
too small are listed, never dropped in silence; of very large ones a sample is drawn
(`evaluation.cells_per_arm`), so that cells on disk need not fit in memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple, cast

import numpy as np

from wound_jax.baselines import Baseline, fit_baselines
from wound_jax.baselines.plausible import LARGEST, beyond, implausible
from wound_jax.baselines.stacked_linear import StackedLinear
from wound_jax.data.cells import PreparedData
from wound_jax.data.strata import (
    PlannedStratum,
    Stratum,
    large_strata,
    merge_groups,
    plan_strata,
    sampled_strata,
)
from wound_jax.errors import UserError, warn_once
from wound_jax.evaluation.context import ScoreContext, cells_for_components, fit_context
from wound_jax.evaluation.metrics import RealStratum, score_all
from wound_jax.evaluation.noise_ceiling import ceiling_scores, ceiling_sources
from wound_jax.evaluation.settings import EvaluationSettings
from wound_jax.prediction.calibration.calibration import Calibration, Taught
from wound_jax.prediction.settings import PredictionSettings
from wound_jax.prediction.strata import Predict

# What `pearson_delta_top100` looks at.
TOP_GENES = 100
# Cells in each arm of a training stratum that baselines and genes are fitted on; below the
# threshold for scoring, so that the few treated cells of a few-shot type still teach its own delta.
_MIN_TRAINING_CELLS = 10

Scores = Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Reference:
    """What is learnt on training cells, and what predictions are measured by.

    Attributes:
        settings: thresholds, and how many draws the bootstrap makes.
        context: genes and components.
        baselines: fitted, by name.
        taught: the training strata by position, and what they teach a calibration.
    """

    settings: EvaluationSettings
    context: ScoreContext
    baselines: Mapping[str, Baseline]
    taught: Taught
    _parts: dict[str, "HeldOut"] = field(default_factory=dict, init=False, repr=False)

    @property
    def data(self) -> PreparedData:
        """The cells whose training part was learnt from."""
        return self.taught.data

    def held_out(self, part: str = "test", data: PreparedData | None = None) -> "HeldOut":
        """The strata of one part of the split, planned once; those of other cells anew.

        Args:
            part: "train", "val" or "test".
            data: other cells to score on, with a split of their own.

        Raises:
            UserError: no stratum of that part has enough cells.
        """
        if data is not None and data is not self.data:
            return HeldOut(self, data, part, *plan_strata(data, self.settings, part))
        if part not in self._parts:
            planned, small = plan_strata(self.data, self.settings, part)
            self._parts[part] = HeldOut(self, self.data, part, planned, small)
        return self._parts[part]

    def calibrate(self, network: Predict, settings: PredictionSettings) -> Calibration:
        """The calibration of a network that was trained on these cells; see `Calibration.fit`."""
        auto = settings.linear_weight == "auto"
        validation = large_strata(self.data, self.settings, "val")[0] if auto else []
        return Calibration.fit(settings, self.taught, network, validation)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The strata of one part of a split, and how baselines and real replicates do on them.

    Attributes:
        reference: what is learnt on training cells.
        data: the cells and their split.
        part: which part of it.
        planned: its strata, by position.
        small: those that have too few cells.
    """

    reference: Reference
    data: PreparedData
    part: str
    planned: Sequence[PlannedStratum]
    small: Sequence[PlannedStratum]
    _left_out: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def strata(self) -> list[Stratum]:
        """The strata with their cells."""
        return [one.cells(self.data.cells) for one in self.planned]

    @cached_property
    def _known(self) -> dict[Stratum, RealStratum]:
        """What metrics compute from the real cells, once for all methods."""
        return {stratum: RealStratum(stratum, self.reference.context) for stratum in self.strata}

    def score(
        self, predictions: Sequence[np.ndarray], names: Sequence[str] | None = None
    ) -> list[dict[str, float]]:
        """Metrics of predictions of all strata, all of them or those that are named."""
        context = self.reference.context
        return score_all(self.strata, predictions, context, names, known=self._known)

    def score_model(
        self, predictions: Sequence[np.ndarray], names: Sequence[str] | None = None
    ) -> list[dict[str, float]]:
        """Metrics of a model's predictions of all strata, as `score` has them.

        Raises:
            UserError: its cells are of a size that no cell has.
        """
        examples = self.reference.taught.rule.training.examples
        for stratum, cells in zip(self.strata, predictions, strict=True):
            times = beyond(examples, cells)
            if times is not None:
                raise UserError(
                    f"the model's mean cell of {stratum.key} is {times:.3g} times as large as any "
                    "mean of training cells can be: its training diverged. Train anew with a lower "
                    "training.learning_rate, training.warmup_steps, or training.clip_norm=1."
                )
        return self.score(predictions, names)

    def score_baselines(self, names: Sequence[str] | None = None) -> Mapping[str, Sequence[Scores]]:
        """Metrics of every baseline whose predictions are plausible; see `left_out`."""
        scores = {}
        for name, baseline in self.reference.baselines.items():
            predicted = [baseline.predict(stratum) for stratum in self.strata]
            out = [s.key for s, p in zip(self.strata, predicted, strict=True) if self._absurd(s, p)]
            if out:
                self._leave_out(name, out)
            else:
                scores[name] = self.score(predicted, names)
        return scores

    @property
    def left_out(self) -> Mapping[str, str]:
        """The baselines that are not scored, and why."""
        _ = self.baselines
        return self._left_out

    def _absurd(self, stratum: Stratum, predicted: np.ndarray) -> bool:
        """Whether the mean of a prediction is far outside of what the data hold."""
        examples = self.reference.taught.rule.training.examples
        delta = predicted.mean(axis=0, dtype=np.float64) - stratum.control_mean
        return bool(implausible(examples, stratum.control_mean, [delta])[0])

    def _leave_out(self, name: str, strata: Sequence[str]) -> None:
        self._left_out[name] = (
            f"implausible in {len(strata)} of {len(self.strata)} strata ({strata[0]}"
            f"{', ...' if len(strata) > 1 else ''}): its delta is not finite, or longer than "
            f"{LARGEST:g} times what sets these cells and those of training apart"
        )
        warn_once(f"baseline {name} is left out: {self._left_out[name]}.")

    def score_replicates(self, names: Sequence[str] | None = None) -> "NoiseCeilings":
        """The noise ceiling of every stratum."""
        context = self.reference.context
        score = partial(score_all, context=context, names=names, known=self._known)
        sources = ceiling_sources(self.strata, self.reference.taught.strata())
        kinds = [None if source is None else source.kind for source in sources]
        return NoiseCeilings(ceiling_scores(sources, score), kinds)

    @cached_property
    def baselines(self) -> Mapping[str, Sequence[Scores]]:
        """All metrics of every baseline."""
        return self.score_baselines()

    @cached_property
    def noise_ceilings(self) -> "NoiseCeilings":
        """All metrics of real replicates."""
        return self.score_replicates()


class NoiseCeilings(NamedTuple):
    """Scores of real replicates.

    Attributes:
        scores: of every stratum; None where it has too few treated cells.
        kinds: what each is made from; see `noise_ceiling`.
    """

    scores: Sequence[Scores | None]
    kinds: Sequence[str | None]


def fit_reference(data: PreparedData, settings: EvaluationSettings, seed: int) -> Reference:
    """Fits genes, components and baselines on the training cells.

    Args:
        data: the cells and their split.
        settings: how many components, and thresholds.
        seed: of every subsample. Take the split's: runs of different seeds are then measured by
            one reference, and their differences are paired.
    """
    groups, _ = data.groups("train")
    merged = merge_groups(groups)
    # Fewer cells give deltas that are mostly noise, and each stratum counts alike.
    large = [stratum for stratum in merged if stratum.smaller_arm >= _MIN_TRAINING_CELLS]
    planned = tuple(sampled_strata(large or merged, data, settings, "train"))
    training = [stratum.cells(data.cells) for stratum in planned]
    trained = data.split.training_cells
    context = fit_context(
        training,
        data.cells.expression[trained[cells_for_components(len(trained), seed)]],
        n_pcs=settings.n_pcs,
        n_top_genes=TOP_GENES,
        seed=seed,
    )
    non_negative = bool(min(stratum.control.min() for stratum in training) >= 0.0)
    baselines = fit_baselines(training, non_negative)
    rule = cast(StackedLinear, baselines["stacked_linear"])
    return Reference(settings, context, baselines, Taught(data, planned, rule))
