"""What is scored, and what it is scored with: held-out strata, predictions, the yardstick.

A stratum is one (cell type, timepoint, condition) with enough cells in both arms. Whatever is
learned here (genes, components, baselines) is learned on training cells only. Strata that are too
small are listed, never dropped in silence; of very large ones a sample is drawn
(`evaluation.cells_per_arm`), so that cells on disk need not fit in memory.

What a part of the split holds, and how baselines and real replicates do on it.

No model changes any of it, so it is computed once and kept with the yardstick.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from wound_jax.baselines import Baseline, fit_baselines
from wound_jax.config.schema import EvaluationConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.strata import PlannedStratum, Stratum, merge_groups, plan_strata, sampled_strata
from wound_jax.evaluation.context import ScoreContext, cells_for_components, fit_context
from wound_jax.evaluation.metrics import score_all
from wound_jax.evaluation.noise_ceiling import ceiling_scores, ceiling_sources

# What `pearson_delta_top100` looks at.
TOP_GENES = 100


# Cells in each arm of a training stratum that baselines and genes are fitted on; below the
# threshold for scoring, so that the few treated cells of a few-shot type still teach its own delta.
_MIN_TRAINING_CELLS = 10


@dataclass(frozen=True, eq=False)
class Yardstick:
    """What a score needs from the training cells.

    Attributes:
        context: genes and components.
        baselines: fitted, by name.
        data: the cells whose training part was used.
        planned: its strata that are large enough to learn from.
        kept: what evaluations found that no model changes, for the next model to use.
    """

    context: ScoreContext
    baselines: dict[str, Baseline]
    data: PreparedData
    planned: tuple[PlannedStratum, ...]
    kept: dict[Hashable, Any] = field(default_factory=dict)

    def training(self) -> list[Stratum]:
        """The training strata with their cells, copied out anew."""
        return [stratum.cells(self.data.cells) for stratum in self.planned]


def fit_yardstick(data: PreparedData, config: EvaluationConfig, seed: int) -> Yardstick:
    """Fits genes, components and baselines on the training cells.

    Args:
        data: the cells and their split.
        config: how many components.
        seed: of every subsample. Take the split's: runs of different seeds are then measured by
            one yardstick, and their differences are paired.
    """
    groups, _ = data.groups("train")
    merged = merge_groups(groups)
    # Fewer cells give deltas that are mostly noise, and each stratum counts alike.
    large = [stratum for stratum in merged if stratum.smaller_arm >= _MIN_TRAINING_CELLS]
    planned = tuple(sampled_strata(large or merged, data, config, "train"))
    training = [stratum.cells(data.cells) for stratum in planned]
    trained = data.split.training_cells
    context = fit_context(
        training,
        data.cells.expression[trained[cells_for_components(len(trained), seed)]],
        n_pcs=config.n_pcs,
        n_top_genes=TOP_GENES,
        seed=seed,
    )
    non_negative = bool(min(stratum.control.min() for stratum in training) >= 0.0)
    return Yardstick(context, fit_baselines(training, non_negative), data, planned)


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
