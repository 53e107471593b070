"""Settings of `prediction`: what a trained network's cells go through."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from wound_jax.registry import Section


class PredictionSettings(Section):
    """What a trained network's cells go through before they are scored or written."""

    # Share of the rules (linear, or `across_genes`) in the mean of a stratum's predicted cells, 0
    # to 1; "auto" takes the share of least squared error on the validation strata, 0.5 where there
    # are none.
    linear_weight: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["auto"] = 0.0
    # Whether what sets the controls of a known type apart from training is drawn back, as far as
    # held-out training strata show it to be noise (`prediction.calibration.shrink_controls`).
    shrink_controls: bool = False
    # Whether the rules of an unknown cell type are also what is learnt across genes from the known
    # ones, four at least, as far as it proves itself on these
    # (`prediction.calibration.across_genes`). Takes seconds after training with six strata, minutes
    # with 33 strata of 3,000 genes.
    across_genes: bool = False
    # Whether expression below one count is rounded to 0 or one count, at random with its mean.
    round_to_counts: bool = False

    @property
    def moves_means(self) -> bool:
        """Whether the mean of a stratum's cells is another than the network's."""
        return self.linear_weight != 0.0 or self.shrink_controls

    def problems(self) -> Iterator[str]:
        """Rules without a share."""
        if self.across_genes and self.linear_weight == 0.0:
            yield (
                "prediction.across_genes=true says what the rules of an unknown type are, but "
                "prediction.linear_weight=0 gives rules no share: set "
                "prediction.linear_weight=auto, or prediction.across_genes=false."
            )
