"""What means are drawn towards, on disk, so that a trained run predicts as it was scored.

One npz file without pickles: means, deltas and components of the training strata, what the network
makes of them where its means are regressed, how their controls fluctuate where there is learning
across genes, and as JSON names, settings and weights of the rules.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from wound_jax.baselines.profiles import Examples, Novelty, Profiles
from wound_jax.baselines.rules import FittedDelta, named_rule
from wound_jax.baselines.stacked_linear import StackedLinear
from wound_jax.baselines.training import Components, Learnt
from wound_jax.errors import UserError
from wound_jax.prediction.calibration.across_genes import AcrossGenes
from wound_jax.prediction.calibration.blend import Blend, Members, Weights
from wound_jax.prediction.calibration.shrink_controls import ShrunkControls

FILE = "blend.npz"


def save_blend(path: Path, share: Blend) -> None:
    """Writes a share with its rules."""
    members = share.members
    rule = members.rule
    of = rule.training.examples.profiles
    content = {
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
    np.savez_compressed(
        path,
        content=np.array(json.dumps(content)),
        control=of.control,
        scores=of.scores,
        deltas=rule.training.examples.deltas,
        responses=np.zeros(0) if members.regression is None else members.regression.responses,
        fluctuations=np.zeros(0) if members.genes is None else members.genes.fluctuations,
        mean=rule.training.components.mean,
        axes=rule.training.components.axes,
    )


def load_blend(path: Path) -> Blend:
    """Reads what `save_blend` wrote.

    Raises:
        UserError: there is no such file, or it was written before means could be regressed.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the run asks for means drawn towards linear rules or regressed "
            "(prediction.linear_weight, .shrink_controls), which its evaluation writes. "
            f"Run python -m wound_jax.evaluate {path.parent} first."
        )
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in ("control", "scores", "deltas", "mean", "axes")}
        content = json.loads(str(file["content"]))
        if "shares" not in content:
            raise UserError(
                f"{path} was written by an older version. Run python -m wound_jax.evaluate "
                f"{path.parent} again."
            )
        responses = file["responses"] if content["regressed"] else None
        # None in a file of a version that knew of no learning across genes.
        weight: float | None = content.get("across_genes")
        fluctuations = np.zeros(0) if weight is None else file["fluctuations"]
    cell_type, timepoint, perturbation = (_as_objects(values) for values in content["labels"])
    profiles = Profiles(cell_type, timepoint, perturbation, arrays["control"], arrays["scores"])
    examples = Examples(profiles, arrays["deltas"])
    learnt = Learnt(examples, Components(arrays["mean"], arrays["axes"]))
    non_negative = content["non_negative"]
    fitted = [
        FittedDelta(
            named_rule(member["name"]), learnt, _by_novelty(member["settings"]), non_negative
        )
        for member in content["members"]
    ]
    rule_weights = {n: np.array(w) for n, w in _by_novelty(content["rule_weights"]).items()}
    rule = StackedLinear(fitted, rule_weights, learnt, non_negative)
    regression = None if responses is None else ShrunkControls.of(rule, responses)
    genes = None if weight is None else AcrossGenes(learnt, fluctuations, weight)
    shares = {novelty: Weights(*of) for novelty, of in _by_novelty(content["shares"]).items()}
    members = Members(rule, regression, genes)
    return Blend(members, shares, _by_novelty(content["chosen_by"]))


def _by_novelty(values: dict[str, Any]) -> dict[Novelty, Any]:
    return {novelty: values[novelty.name] for novelty in Novelty}


def _as_objects(values: list) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
