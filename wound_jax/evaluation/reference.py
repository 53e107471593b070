"""What a part of the split holds, and how baselines and real replicates do on it.

No model changes any of it, so it is computed once and kept with the yardstick.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from wound_jax.config.schema import EvaluationConfig
from wound_jax.data.prepare import PreparedData
from wound_jax.evaluation.ceiling import ceiling_scores, ceiling_sources
from wound_jax.evaluation.held_out import PlannedStratum, Yardstick, plan_strata
from wound_jax.evaluation.metrics import score_all
from wound_jax.evaluation.strata import Stratum


@dataclass(frozen=True, eq=False)
class Reference:
    """What no model changes: the strata, and how baselines and real replicates do on them."""

    data: PreparedData
    planned: Sequence[PlannedStratum]
    small: Sequence[PlannedStratum]
    strata: Sequence[Stratum]
    baselines: Mapping[str, Sequence[Mapping[str, float]]]
    ceilings: Sequence[Mapping[str, float] | None]
    ceiling_kinds: Sequence[str | None]


def reference_of(
    data: PreparedData, yardstick: Yardstick, config: EvaluationConfig, part: str
) -> Reference:
    """The reference of one part of the split, computed for the first model that is scored on it."""
    # The entry holds the cells, so that no other ones can get their identity.
    key = id(data), part, config.min_cells, config.cells_per_arm
    if key not in yardstick.kept:
        planned, small = plan_strata(data, config, part)
        strata = [one.cells(data.cells) for one in planned]
        score = partial(score_all, context=yardstick.context)
        sources = ceiling_sources(strata, yardstick.training())
        yardstick.kept[key] = Reference(
            data=data,
            planned=planned,
            small=small,
            strata=strata,
            baselines={
                name: score(strata, [baseline.predict(stratum) for stratum in strata])
                for name, baseline in yardstick.baselines.items()
            },
            ceilings=ceiling_scores(sources, score),
            ceiling_kinds=[None if source is None else source.kind for source in sources],
        )
    return yardstick.kept[key]
