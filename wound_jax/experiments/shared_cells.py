"""What the runs of a comparison share: cells, prepared once, and the yardstick they are scored by.

Variants that read the same columns under the same split get the same arrays; a second preparation
would cost minutes and memory. The yardstick (genes, components, baselines) takes the seed of the
split, so that runs of different seeds are measured by one.
"""

import json
from typing import Any

from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.prepare import prepare
from wound_jax.evaluation.reference import Yardstick, fit_yardstick

# Keys of the velocity section that only the loss reads; any other one may decide the cells.
_OF_THE_LOSS = {
    "source", "weight", "warmup_steps", "min_confidence", "beta", "scale", "regularization_weight",
    "relative_epsilon", "smallest_length",
}  # fmt: skip


def cells_key(config: RunConfig) -> str:
    """What decides the prepared cells of a run, as text: equal for runs that can share them."""
    velocity, model = config.velocity, config.model
    parts: list[Any] = [
        config.data.model_dump(mode="json"),
        config.split.model_dump(mode="json"),
        model.scalars.model_dump(mode="json"),
        model.decoder.enable,
        model.timepoint_embedding == "continuous",
        velocity.model_dump(mode="json", exclude=_OF_THE_LOSS) if velocity.enable else None,
        # The seed of a run decides of its cells nothing but that shuffle.
        config.seed if velocity.enable and velocity.shuffle else None,
    ]
    return json.dumps(parts)


class SharedCells:
    """Prepares cells and fits yardsticks, each once."""

    def __init__(self) -> None:
        self._prepared: dict[str, PreparedData] = {}
        self._yardsticks: dict[str, Yardstick] = {}

    def of(self, config: RunConfig) -> PreparedData:
        """The cells of a run.

        Raises:
            UserError: anything about them that does not fit the config.
        """
        key = cells_key(config)
        if key not in self._prepared:
            self._prepared[key] = prepare(config)
        return self._prepared[key]

    def yardstick(self, config: RunConfig) -> Yardstick:
        """What the predictions of a run are measured by."""
        key = cells_key(config) + config.evaluation.model_dump_json()
        if key not in self._yardsticks:
            data = self.of(config)
            self._yardsticks[key] = fit_yardstick(data, config.evaluation, config.split.seed)
        return self._yardsticks[key]
