"""Settings of `evaluation`: how held-out cells are scored."""

from typing import Annotated

from pydantic import Field

from wound_jax.registry import PositiveInt, Section


class EvaluationSettings(Section):
    """How held-out cells are scored after training."""

    min_cells: Annotated[int, Field(ge=2)] = 30
    # Cells of each arm of a stratum that are scored or learnt from, at most, the same ones for
    # every model; null takes all where the cells are in memory, and 512 where they are on disk.
    cells_per_arm: Annotated[int, Field(ge=10)] | None = None
    n_pcs: PositiveInt = 50
    # Draws of the bootstrap over held-out replicates.
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    plots: bool = True
