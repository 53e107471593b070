"""Calibration: fitted on training strata, applied to a network's cells, kept in a file of the run.

    cells of a stratum -> mean blended (`blend`) -> values rounded to counts (`round_to_counts`)

Fitting needs the training strata, the network's cells for them where its means are regressed
(`shrink_controls`), and validation strata where the weights are chosen. Cells in memory and cells
on disk go through the same `Calibration.apply`, stratum by stratum, so that a file is written as
the evaluation scored it.

The file is one npz without pickles: means, deltas and components of the training strata, what the
network makes of them where its means are regressed, how their controls fluctuate where there is
learning across genes, and as JSON names, settings and weights of the rules.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wound_jax.baselines.moving import moved
from wound_jax.baselines.profiles import Examples, Novelty, Profiles
from wound_jax.baselines.rules import FittedDelta, named_rule
from wound_jax.baselines.stacked_linear import StackedLinear
from wound_jax.baselines.training import Components, Learnt
from wound_jax.data.annotations import Annotations
from wound_jax.data.cells import PreparedData, match_labels
from wound_jax.data.groups import make_groups, timepoint_or_none
from wound_jax.data.settings import DataSettings
from wound_jax.data.store.rows import Rows, Table
from wound_jax.data.strata import PlannedStratum, Stratum
from wound_jax.errors import UserError
from wound_jax.files import DamagedFile, read_arrays, write_arrays
from wound_jax.prediction.calibration.across_genes import AcrossGenes
from wound_jax.prediction.calibration.blend import Blend, Cells, Members, Weights, blend
from wound_jax.prediction.calibration.round_to_counts import ROUNDING_SEED, rounded_to_counts
from wound_jax.prediction.calibration.shrink_controls import ShrunkControls
from wound_jax.prediction.settings import PredictionSettings
from wound_jax.prediction.strata import Predict
from wound_jax.training.record import identity, require_same

FILE = "calibration.npz"
# Cells of one stratum that are finished together; a blend moves their common mean.
_BLOCK = 16_384


@dataclass(frozen=True, eq=False)
class Taught:
    """What training strata teach about means, the same for every network.

    Attributes:
        data: the cells.
        planned: the training strata that are large enough to learn from.
        rule: the linear rules, fitted on them.
    """

    data: PreparedData
    planned: Sequence[PlannedStratum]
    rule: StackedLinear

    def strata(self) -> list[Stratum]:
        """The training strata with their cells, copied out anew: to keep them costs a data set."""
        return [one.cells(self.data.cells) for one in self.planned]

    @cached_property
    def genes(self) -> AcrossGenes:
        """What they teach across genes, learnt for the first model that asks for it."""
        return AcrossGenes.of(self.rule, [one for one in self.strata() if one.n_treated])


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a network's cells go through before they are scored or written.

    Attributes:
        blend: what their means are made of; None where they stay the network's.
        round_to_counts: whether expression below one count is rounded.
    """

    blend: Blend | None = None
    round_to_counts: bool = False

    @classmethod
    def fit(
        cls,
        settings: PredictionSettings,
        taught: Taught,
        network: Predict,
        validation: Sequence[PlannedStratum] = (),
    ) -> "Calibration":
        """Fits what a config asks for.

        Args:
            settings: the share of the rules, or "auto", whether the network's means are regressed,
                whether unknown types are learnt across genes, and whether values are rounded.
            taught: by the training strata.
            network: predicts training and validation strata, where they are needed.
            validation: strata of the same cells to choose the weights by, for "auto"; none of
                their treated cells were trained on.
        """
        if not settings.moves_means:
            return cls(None, settings.round_to_counts)
        data, regression = taught.data, None
        if settings.shrink_controls:
            made = network(data, taught.planned)
            means = [cells.mean(axis=0, dtype=np.float64) for cells in made]
            regression = ShrunkControls.of(taught.rule, means)
        genes = taught.genes if settings.across_genes else None
        judges = validation if settings.linear_weight == "auto" else ()
        share = blend(
            Members(taught.rule, regression, genes),
            settings.linear_weight,
            [one.cells(data.cells) for one in judges],
            network(data, judges) if judges else [],
        )
        return cls(share, settings.round_to_counts)

    def __bool__(self) -> bool:
        """Whether there is anything to do; it takes the control cells' own expression."""
        return self.blend is not None or self.round_to_counts

    def figures(self, stratum: Stratum) -> dict[str, float]:
        """The shares in the mean of a stratum, and the slope it is regressed with."""
        if self.blend is None:
            return Weights(network=1.0)._asdict()
        return self.blend.figures(stratum)

    def apply(self, cells: Cells, stratum: Stratum) -> Cells:
        """The network's cells of a stratum as they are scored and written.

        Args:
            cells: [n_control, genes], row i made from control cell i.
            stratum: its treated cells are not looked at.

        Returns:
            float32 [n_control, genes].
        """
        if self.blend is not None:
            cells = self.blend.apply(cells, stratum)
        if self.round_to_counts:
            cells = rounded_to_counts(cells, stratum.control, seed=ROUNDING_SEED)
        return cells

    def after(self, network: Predict) -> Predict:
        """The predictions of a network, calibrated."""

        def predict(data: PreparedData, planned: Sequence[PlannedStratum]) -> Sequence[Cells]:
            cells = network(data, planned)
            if not self:
                return cells
            strata = (one.cells(data.cells) for one in planned)
            return [self.apply(of, stratum) for of, stratum in zip(cells, strata, strict=True)]

        return predict

    def apply_to_table(
        self,
        data: DataSettings,
        labels: Annotations,
        real: Rows,
        predicted: Table,
        perturbation: str,
    ) -> None:
        """Finishes predicted cells that may lie on disk, in place.

        The replicates of a type and timepoint go together, as in the evaluation, also where sets
        are made of one replicate.

        Args:
            data: what the columns mean.
            labels: of the control cells.
            real: the control cells in the space of the predictions, [cells, genes].
            predicted: the cells that the network made of them, row by row.
            perturbation: what is predicted.
        """
        everyone = np.arange(len(labels))
        of_stratum = [name for name in match_labels(data) if name != "replicate"]
        for group in make_groups(labels, everyone, everyone, of_stratum)[0]:
            timepoint = timepoint_or_none(group.timepoint)
            for start in range(0, len(group.targets), _BLOCK):
                rows = group.targets[start : start + _BLOCK]
                control = np.asarray(real[rows])
                none = np.zeros((0, control.shape[1]), np.float32)
                stratum = Stratum(group.cell_type, timepoint, control, none, perturbation)
                predicted[rows] = self.apply(np.asarray(predicted[rows]), stratum)


def moved_across_genes(genes: AcrossGenes, *, non_negative: bool) -> Predict:
    """Control cells moved as is learnt across genes, without a network; unknown types alone.

    Args:
        genes: what is learnt.
        non_negative: whether predictions are kept at 0 or above.
    """

    def predict(data: PreparedData, planned: Sequence[PlannedStratum]) -> Sequence[Cells]:
        strata = [one.cells(data.cells) for one in planned]
        return [moved(one.control, genes.delta(one), non_negative) for one in strata]

    return predict


def load_calibration(
    folder: Path, settings: PredictionSettings, perturbation: str, control: str
) -> Calibration:
    """The calibration that the config of a run asks for, to predict one perturbation.

    The means of predicted controls stay the network's: no rule says how controls become controls.

    Args:
        folder: of the run.
        settings: what its config asks for.
        perturbation: what is predicted.
        control: label of the control cells.

    Raises:
        UserError: its linear rules are missing, or were not fitted on the perturbation.
    """
    share = None
    if settings.moves_means and perturbation != control:
        share = load_blend(folder)
        share.members.rule.training.require_perturbation(perturbation)
    return Calibration(share, settings.round_to_counts)


def save_calibration(folder: Path, calibration: Calibration) -> None:
    """Writes what means are made of into a run folder, with its rules; nothing without a blend."""
    share = calibration.blend
    if share is None:
        return
    members = share.members
    rule = members.rule
    of = rule.training.examples.profiles
    content = {
        "of": identity(folder),
        "labels": [list(of.cell_type), list(of.timepoint), list(of.perturbation)],
        "non_negative": rule.non_negative,
        "members": [
            {
                "name": member.rule.name,
                "settings": {novelty.name: member.settings[novelty] for novelty in Novelty},
            }
            for member in rule.members
        ],
        "rule_weights": {novelty.name: list(rule.weights[novelty]) for novelty in Novelty},
        "regressed": members.regression is not None,
        "across_genes": None if members.genes is None else members.genes.weight,
        "shares": {novelty.name: share.weights[novelty] for novelty in Novelty},
        "chosen_by": {novelty.name: share.chosen_by[novelty] for novelty in Novelty},
    }
    regression, genes = members.regression, members.genes
    arrays = {
        "content": np.array(json.dumps(content)),
        "control": of.control,
        "scores": of.scores,
        "deltas": rule.training.examples.deltas,
        "network_means": np.zeros(0) if regression is None else regression.made,
        "fluctuations": np.zeros(0) if genes is None else genes.fluctuations,
        "mean": rule.training.components.mean,
        "axes": rule.training.components.axes,
    }
    write_arrays(folder / FILE, arrays)


def load_blend(folder: Path) -> Blend:
    """Reads what `save_calibration` wrote.

    Raises:
        UserError: there is no such file.
        DamagedFile: it is not as it was written, or belongs to another run.
    """
    path = folder / FILE
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the run asks for means drawn towards linear rules or regressed "
            "(prediction.linear_weight, .shrink_controls), which its evaluation writes. "
            f"Run python -m wound_jax.evaluate {path.parent} first."
        )
    try:
        arrays = read_arrays(path)
        content = json.loads(str(arrays.pop("content")))
        require_same(folder, content["of"], path)
    except DamagedFile as e:
        raise DamagedFile(
            f"{e} Remove it, and run python -m wound_jax.evaluate {folder} to have it fitted anew."
        ) from e
    rule = _read_rule(content, arrays)
    members = Members(rule)
    if content["regressed"]:
        regression = ShrunkControls.of(rule, arrays["network_means"])
        members = replace(members, regression=regression)
    if content["across_genes"] is not None:
        genes = AcrossGenes(rule.training, arrays["fluctuations"], content["across_genes"])
        members = replace(members, genes=genes)
    shares = {novelty: Weights(*of) for novelty, of in _by_novelty(content["shares"]).items()}
    return Blend(members, shares, _by_novelty(content["chosen_by"]))


def _read_rule(content: dict[str, Any], arrays: dict[str, np.ndarray]) -> StackedLinear:
    """The linear rules of a file."""
    cell_type, timepoint, perturbation = (_as_objects(values) for values in content["labels"])
    profiles = Profiles(cell_type, timepoint, perturbation, arrays["control"], arrays["scores"])
    components = Components(arrays["mean"], arrays["axes"])
    learnt = Learnt(Examples(profiles, arrays["deltas"]), components)
    non_negative = content["non_negative"]
    fitted = [
        FittedDelta(named_rule(of["name"]), learnt, _settings(of["settings"]), non_negative)
        for of in content["members"]
    ]
    weights = {n: np.array(w) for n, w in _by_novelty(content["rule_weights"]).items()}
    return StackedLinear(fitted, weights, learnt, non_negative)


def _by_novelty(values: dict[str, Any]) -> dict[Novelty, Any]:
    return {novelty: values[novelty.name] for novelty in Novelty}


def _settings(values: dict[str, Any]) -> dict[Novelty, Any]:
    """Settings of a rule as they were before JSON, which has no tuples."""
    found = _by_novelty(values)
    return {n: tuple(one) if isinstance(one, list) else one for n, one in found.items()}


def _as_objects(values: list) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
