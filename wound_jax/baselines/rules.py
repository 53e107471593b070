"""Delta rules: baselines that are one function of strata means, and the choice of their setting.

Owns `DeltaRule`. A rule predicts the deltas of wanted strata from examples,

    delta(wanted) = compute(training profiles, training deltas, wanted profiles, setting)

and its setting (a penalty, a bandwidth, a number of components) is the one with the smallest
squared error on training strata held out (`folds`), chosen for each kind of novelty on its own.
Settings are listed from the most cautious one on; it wins ties, and where there is nothing to
choose by. A rule learns from the strata of one perturbation at a time, with the same setting for
all. Predictions are control cells moved to the deltaed mean (`moving`).

To add such a baseline, write one new file in this folder, or a module of your own::

    @delta_rule("my_delta", settings=(1.0, 0.1))
    def my_delta(training, deltas, wanted, setting): ...   # [wanted, genes]
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from wound_jax.baselines.inner_folds import Fold, folds_of
from wound_jax.baselines.moving import moved
from wound_jax.baselines.profiles import Deltas, Examples, Novelty, Profiles, WantedDeltas
from wound_jax.baselines.registry import BASELINES
from wound_jax.baselines.training import Learnt, Training
from wound_jax.data.strata import Stratum

Compute = Callable[[Profiles, Deltas, Profiles, Any], WantedDeltas]

# Relative differences of squared errors below this are rounding.
_TIE = 1e-9
# Where to look for a setting if training strata cannot show a kind of novelty. A known type is
# trusted more like known strata than like unknown types; nothing stands in for an unknown type.
_STAND_INS = {
    Novelty.NONE: (Novelty.PAIR, Novelty.TIMEPOINT, Novelty.TYPE),
    Novelty.PAIR: (Novelty.TIMEPOINT, Novelty.NONE),
    Novelty.TIMEPOINT: (Novelty.PAIR, Novelty.NONE),
    Novelty.TYPE: (),
}


@dataclass(frozen=True)
class DeltaRule:
    """A registered rule.

    Attributes:
        name: its name as a baseline.
        settings: what to choose from, the most cautious first.
        compute: deltas [wanted, genes] of wanted strata; all it sees are of one perturbation.
    """

    name: str
    settings: tuple[Any, ...]
    compute: Compute

    def fit(
        self,
        training: Sequence[Stratum],
        non_negative: bool,
        kinds: Iterable[Novelty] = tuple(Novelty),
    ) -> "FittedDelta":
        """Choose the settings; the rule itself keeps the training strata.

        Args:
            training: strata to learn from.
            non_negative: whether predictions are kept at 0 or above.
            kinds: of novelty that it will be asked about.
        """
        prepared = Training.of(training)
        settings = {}
        for novelty in kinds:
            best = tune(self, prepared, novelty)
            settings[novelty] = self.settings[0] if best is None else best.setting
        return FittedDelta(self, prepared.learnt, settings, non_negative)

    def deltas(self, training: Examples, wanted: Profiles, setting: Any) -> WantedDeltas:
        """Expected deltas of strata whose perturbations are all among the examples."""
        result = np.empty_like(wanted.control)
        for perturbation in dict.fromkeys(wanted.perturbation):
            rows = wanted.perturbation == perturbation
            own = training.take(training.profiles.perturbation == perturbation)
            result[rows] = self.compute(own.profiles, own.deltas, wanted.take(rows), setting)
        return result


@dataclass(frozen=True, eq=False)
class FittedDelta:
    """A rule with what it keeps of the training strata and a setting for each kind of novelty."""

    rule: DeltaRule
    training: Learnt
    settings: Mapping[Novelty, Any]
    non_negative: bool

    def delta(self, stratum: Stratum) -> Float[np.ndarray, " genes"]:
        """The expected delta of a stratum.

        Raises:
            UserError: no training stratum has its perturbation.
        """
        setting = self.settings[self.training.novelty_of(stratum)]
        wanted = self.training.profiles([stratum])
        return self.rule.deltas(self.training.examples, wanted, setting)[0]

    def predict(self, stratum: Stratum) -> Float[np.ndarray, "cells genes"]:
        """Control cells moved to the deltaed mean, float32 [cells, genes]."""
        return moved(stratum.control, self.delta(stratum), self.non_negative)


@dataclass(frozen=True, eq=False)
class Tuned:
    """The best setting for one kind of novelty.

    Attributes:
        setting: of the smallest squared error, over the held-out strata of all folds.
        errors: float64 [held_out, genes], predicted minus true deltas under that setting.
    """

    setting: Any
    errors: Float[np.ndarray, "held_out genes"]


def delta_rule(name: str, *, settings: Sequence[Any] = (None,)) -> Callable[[Compute], DeltaRule]:
    """Decorator: makes a function the delta rule, and so the baseline, of that name.

    Args:
        name: of the baseline.
        settings: see `DeltaRule`.

    Raises:
        ValueError: the name is taken.
    """

    def register(compute: Compute) -> DeltaRule:
        rule = DeltaRule(name, tuple(settings), compute)
        BASELINES.add(name, rule, compute.__module__)
        return rule

    return register


def named_rule(name: str) -> DeltaRule:
    """The delta rule of that name."""
    rule = BASELINES.get(name)
    assert isinstance(rule, DeltaRule), f"{name} is a baseline, but no delta rule"
    return rule


def tune(rule: DeltaRule, training: Training, novelty: Novelty) -> Tuned | None:
    """The best setting of a rule for a kind of novelty.

    Args:
        rule: whose setting it is.
        training: strata, of which some are held out.
        novelty: chosen by strata of this kind, of one that is close to it if they show none.

    Returns:
        None where the strata show no such kind.
    """
    for candidate in (novelty, *_STAND_INS[novelty]):
        folds = folds_of(training, candidate)
        if folds:
            key = ("tuned", rule.name, candidate)
            return training.once(key, partial(_best_setting, rule, folds))
    return None


def _best_setting(rule: DeltaRule, folds: Sequence[Fold]) -> Tuned:
    """The first of the settings whose squared error no other undercuts by more than rounding."""
    best, smallest = None, np.inf
    for setting in rule.settings:
        errors = np.concatenate([_errors(rule, fold, setting) for fold in folds])
        total = float(np.square(errors).sum())
        # A setting with which the rule explodes is the last to be taken.
        total = total if np.isfinite(total) else np.inf
        if best is None or total < smallest * (1.0 - _TIE):
            best, smallest = Tuned(setting, errors), total
    assert best is not None, f"the rule {rule.name} lists no settings"
    return best


def _errors(rule: DeltaRule, fold: Fold, setting: Any) -> Float[np.ndarray, "held_out genes"]:
    """Predicted minus true deltas of the held-out strata."""
    return rule.deltas(fold.kept, fold.held_out.profiles, setting) - fold.held_out.deltas
