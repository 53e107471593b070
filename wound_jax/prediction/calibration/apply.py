"""What a config asks for after the network, on predicted cells that may lie on disk.

Means drawn towards linear rules and regressed, zeros counted: stratum by stratum and in place, as
the evaluation scored it.
"""

from dataclasses import dataclass

import numpy as np

from wound_jax.config.schema import DataConfig
from wound_jax.data.annotations import Annotations
from wound_jax.data.cells import match_labels
from wound_jax.data.groups import make_groups, timepoint_or_none
from wound_jax.data.store.rows import Rows, Table
from wound_jax.data.strata import Stratum
from wound_jax.prediction.calibration.blend import Blend
from wound_jax.prediction.calibration.round_to_counts import ROUNDING_SEED, rounded_to_counts
from wound_jax.prediction.calibration.saved import FILE, load_blend
from wound_jax.prediction.loaded_run import LoadedRun

# Cells of one stratum that are finished together; a share of rules moves their common mean.
_BLOCK = 16_384


@dataclass(frozen=True, eq=False)
class AfterNetwork:
    """What follows the network's predictions of one perturbation.

    Attributes:
        perturbation: what is predicted.
        share: where the means are from; None where they stay the network's.
        round_to_counts: whether expression below one count is rounded.
    """

    perturbation: str
    share: Blend | None
    round_to_counts: bool

    @classmethod
    def of(cls, run: LoadedRun, perturbation: str) -> "AfterNetwork":
        """What the config of a run asks for.

        The means of predicted controls stay the network's: no rule says how controls become
        controls.

        Raises:
            UserError: its linear rules are missing, or were not fitted on the perturbation.
        """
        asked = run.config.prediction
        share = None
        if asked.moves_means and perturbation != run.spec.control:
            share = load_blend(run.folder / FILE)
            share.members.rule.training.require_perturbation(perturbation)
        return cls(perturbation, share, asked.round_to_counts)

    @property
    def needs_expression(self) -> bool:
        """Whether there is anything to do; it takes the control cells' own expression."""
        return self.share is not None or self.round_to_counts

    def apply(self, data: DataConfig, labels: Annotations, real: Rows, predicted: Table) -> None:
        """Finishes predicted cells in place.

        The replicates of a type and timepoint go together, as in the evaluation, also where sets
        are made of one replicate.

        Args:
            data: what the columns mean.
            labels: of the control cells.
            real: the control cells in the space of the predictions, [cells, genes].
            predicted: the cells that the network made of them, row by row.
        """
        everyone = np.arange(len(labels))
        of_stratum = [name for name in match_labels(data) if name != "replicate"]
        for group in make_groups(labels, everyone, everyone, of_stratum)[0]:
            when = timepoint_or_none(group.timepoint)
            for start in range(0, len(group.targets), _BLOCK):
                rows = group.targets[start : start + _BLOCK]
                control, cells = np.asarray(real[rows]), np.asarray(predicted[rows])
                if self.share is not None:
                    none = np.zeros((0, control.shape[1]), np.float32)
                    stratum = Stratum(group.cell_type, when, control, none, self.perturbation)
                    cells = self.share.apply(cells, stratum)
                if self.round_to_counts:
                    cells = rounded_to_counts(cells, control, seed=ROUNDING_SEED)
                predicted[rows] = cells
