"""The configuration of a run: typed, frozen, complete.

Each room declares its own section in a light file, `settings.py`, and is handed it, never the
whole tree. Where a section is tagged, the tag chooses its class among the built-in parts and those
of plug-ins. Unknown keys, wrong types and values out of range are refused when the config is read
(`wound_jax.config.load`); a key that is set while its switch is off is refused too
(`wound_jax.config.rules`).
"""

from collections.abc import Iterator
from typing import Annotated

from wound_jax.data.settings import (
    SOURCES,
    SPLITS,
    DataSettings,
    FileData,
    RandomSplit,
    SplitSettings,
)
from wound_jax.evaluation.settings import EvaluationSettings
from wound_jax.losses.settings import LOSSES, EnergySettings, LossSettings, VelocitySettings
from wound_jax.models.settings import BACKBONES, LlamaModel, ModelSettings
from wound_jax.prediction.settings import PredictionSettings
from wound_jax.registry import Names, Section, Seed, Tagged
from wound_jax.training.settings import OPTIMIZERS, AdamWTraining, TrainingSettings

# A folder's name has 255 bytes at most, of which `NAME-2` needs some.
_LONGEST_NAME = 200


class RunConfig(Section):
    """One run, complete: everything that decides its numbers."""

    name: str = "run"
    run_dir: str | None = None
    seed: Seed = 42
    # Modules of your own whose decorators register parts (`wound_jax.config.plugins`).
    plugins: Names = ()
    data: Annotated[DataSettings, Tagged(SOURCES, "file")] = FileData()
    split: Annotated[SplitSettings, Tagged(SPLITS, "random")] = RandomSplit()
    model: Annotated[ModelSettings, Tagged(BACKBONES, "llama")] = LlamaModel()
    loss: Annotated[LossSettings, Tagged(LOSSES, "energy")] = EnergySettings()
    velocity: VelocitySettings = VelocitySettings()
    training: Annotated[TrainingSettings, Tagged(OPTIMIZERS, "adamw")] = AdamWTraining()
    prediction: PredictionSettings = PredictionSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    def problems(self) -> Iterator[str]:
        """A name that is no name of a folder: it would lead out of `runs`."""
        name, parts = self.name, {"/", "\\"} & set(self.name)
        if not name.strip() or set(name) == {"."} or parts or not name.isprintable():
            yield (
                f"name={name!r}: the run goes to the folder runs/NAME, so a name is one part of a "
                "path: expected text without / and \\, such as burn_sham; for another place set "
                "run_dir=FOLDER."
            )
        elif len(name.encode()) > _LONGEST_NAME:
            yield f"name={name[:40]!r}...: expected a name of at most {_LONGEST_NAME} bytes."


def tagged_sections() -> dict[str, Tagged]:
    """The sections whose class a tag chooses, by name."""
    return {
        name: meta
        for name, field in RunConfig.model_fields.items()
        for meta in field.metadata
        if isinstance(meta, Tagged)
    }
