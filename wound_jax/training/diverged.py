"""Diverged training: the step, the parts and the cells behind a figure that is not finite.

The states on disk are older than that step, and training is a pure function of them, the config and
the cells: `--resume` comes to the same step again. `diverged.json` in the run folder keeps which
cells met in it.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.sets import SetPlan
from wound_jax.data.store.rows import Rows
from wound_jax.devices import processes
from wound_jax.errors import UserError, on_one_line
from wound_jax.files import write_record
from wound_jax.losses.settings import SinkhornSettings
from wound_jax.training.checkpoint import SLOTS, Checkpoints

FILE = "diverged.json"
# A value this many times the largest of most sets is no expression of a cell.
_OUTLIER = 1e3
# Sets that a message names.
_MOST = 4


class NotFinite(UserError):
    """A figure that makes the state worthless.

    Args:
        name: what is not finite, as it is logged.
        step: where.
        figures: all that was logged there.
    """

    def __init__(self, name: str, step: int, figures: Mapping[str, float]):
        super().__init__(
            f"{name} is {figures[name]} at step {step}; an earlier state, if one was saved, is in "
            "checkpoints/. Lower training.learning_rate, set training.clip_norm, or use "
            "model.dtype=float32."
        )
        self.name, self.step = name, step
        self.parts = {key: v for key, v in figures.items() if not math.isfinite(v)}


@contextmanager
def explaining(
    folder: Path, config: RunConfig, data: PreparedData, plan_of: Callable[[int], SetPlan]
) -> Iterator[None]:
    """Says what went wrong in a step that was not finite, and what to try given the settings.

    Args:
        folder: the run folder, where `diverged.json` is written.
        config: of the run.
        data: its cells.
        plan_of: the sets of a step.

    Raises:
        UserError: in place of `NotFinite`; of several processes by the first, which has the folder.
    """
    try:
        yield
    except NotFinite as e:
        if not processes.is_first():
            raise
        raise _explained(e, folder, config, data, plan_of(e.step)) from e


def _explained(
    error: NotFinite, folder: Path, config: RunConfig, data: PreparedData, plan: SetPlan
) -> UserError:
    # The validation sets are the same at each step: what was sound before is no outlier.
    sets = _sets(data, plan) if error.name.startswith("train/") else []
    far = _outlier(data, sets)
    with Checkpoints(folder, create=False) as checkpoints:
        saved = {slot: checkpoints.step(slot) for slot in SLOTS if checkpoints.has(slot)}
    kept = {"step": error.step, "not_finite": sorted(error.parts), "sets": sets, "saved": saved}
    write_record(folder / FILE, kept)
    parts = ", ".join(sorted(error.parts))
    return UserError(
        f"{error.name} is {error.parts[error.name]} at step {error.step}. Not finite there: "
        f"{parts}. {_shown(sets, folder)}{far or '; or '.join(_tries(error, config)) + '.'} "
        f"{_good_state(folder, saved)}"
    )


def _shown(sets: list[dict[str, Any]], folder: Path) -> str:
    """The sets of a step in words."""
    if not sets:
        return ""
    labels = [on_one_line(one["labels"]) for one in sets]
    more = f" and {len(labels) - _MOST} more" if len(labels) > _MOST else ""
    return f"Its sets: {'; '.join(labels[:_MOST])}{more} (their cells: {folder / FILE}). "


def _sets(data: PreparedData, plan: SetPlan) -> list[dict[str, Any]]:
    """Labels and cells of each set of a step, and the largest of their values."""
    labels, found = data.cells.annotations, []
    for i in np.flatnonzero(plan.target_mask.any(axis=-1)):
        treated = plan.target[i][plan.target_mask[i]]
        control = plan.control[i][plan.control_mask[i]]
        roles = (labels.condition, labels.cell_type, labels.timepoint)
        names = [str(role[treated[0]]) for role in roles]
        rows = np.concatenate([treated, control])
        found.append(
            {
                "labels": ", ".join(name for name in names if name),
                "treated": treated.tolist(),
                "control": control.tolist(),
                "largest": float(_magnitudes(data.cells.features, rows).max()),
            }
        )
    return found


def _magnitudes(values: Rows, rows: np.ndarray) -> np.ndarray:
    """The largest value of each cell, without its sign."""
    return np.abs(np.asarray(values[rows])).max(axis=1)


def _outlier(data: PreparedData, sets: list[dict[str, Any]]) -> str | None:
    """The cell whose value is far beyond those of the other sets, where there is one."""
    largest = np.array([one["largest"] for one in sets])
    finite = largest[np.isfinite(largest)]
    usual = np.median(finite) if len(finite) else 0.0
    if not usual or largest.max() < _OUTLIER * usual:
        return None
    worst = sets[int(largest.argmax())]
    rows = np.array(worst["treated"] + worst["control"])
    cell = rows[_magnitudes(data.cells.features, rows).argmax()]
    column = int(np.abs(np.asarray(data.cells.features[np.array([cell])])).argmax())
    genes = data.spec.genes if data.cells.genes is None else ()
    what = f"gene {genes[column]}" if column < len(genes) else f"dimension {column}"
    return (
        f"Cell {on_one_line(str(data.cells.annotations.names[cell]))} ({worst['labels']}) holds "
        f"{worst['largest']:.3g} in {what}, and most sets nothing above "
        f"{usual:.3g}: look at the data first, and leave the cell out if it is wrong."
    )


def _tries(error: NotFinite, config: RunConfig) -> list[str]:
    """What may help, the likeliest first, given the settings."""
    training, tries = config.training, []
    tries.append(f"Lower training.learning_rate ({training.learning_rate:g} now)")
    if training.clip_norm is None:
        tries.append("set training.clip_norm=1 (null now)")
    elif training.clip_norm > 1.0:
        tries.append(f"lower training.clip_norm ({training.clip_norm:g} now)")
    if not training.warmup_steps:
        tries.append("warm up: training.warmup_steps=100 (0 now)")
    if config.model.dtype != "float32":
        tries.append(f"use model.dtype=float32 ({config.model.dtype} now)")
    if isinstance(config.loss, SinkhornSettings):
        tries.append(f"use another loss ({config.loss.name} now; energy has no iterations)")
    if training.on_nonfinite == "stop" and error.name.startswith("train/"):
        tries.append("leave such steps out: training.on_nonfinite=skip (stop now)")
    return tries


def _good_state(folder: Path, saved: Mapping[str, int]) -> str:
    """The last state that was saved, and the command that comes to the step again."""
    if not saved:
        return "No state was saved before it."
    slot = max(saved, key=lambda name: (saved[name], name))
    return (
        f"The last good state is checkpoints/{slot} of step {saved[slot]}; to come to the step "
        f"again: python -m wound_jax.train --resume {folder}"
    )
