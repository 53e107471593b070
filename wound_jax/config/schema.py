"""The configuration of a run: typed, frozen, complete.

Each room declares its own section in a light file, `settings.py`, and is handed it, never the
whole tree. Where a section is tagged, the tag chooses its class among the built-in parts and those
of plug-ins. Unknown keys, wrong types and values out of range are refused when the config is read
(`wound_jax.config.load`); a key that is set while its switch is off is refused too
(`wound_jax.config.rules`).
"""

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
from wound_jax.registry import Names, Section, Tagged
from wound_jax.training.settings import OPTIMIZERS, AdamWTraining, TrainingSettings


class RunConfig(Section):
    """One run, complete: everything that decides its numbers."""

    name: str = "run"
    run_dir: str | None = None
    seed: int = 42
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


def tagged_sections() -> dict[str, Tagged]:
    """The sections whose class a tag chooses, by name."""
    return {
        name: meta
        for name, field in RunConfig.model_fields.items()
        for meta in field.metadata
        if isinstance(meta, Tagged)
    }
