"""Kills: whatever the moment, the run goes on to the bits of one that was never interrupted."""

import json
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from torturing.child import SETTINGS, End, train
from wound_jax.config import load_config
from wound_jax.data.prepare import prepare
from wound_jax.training.checkpoint import SLOTS, Checkpoints
from wound_jax.training.log import read_metrics
from wound_jax.training.setup import Run

# Figures of the clock.
_OF_TIME = ("second", "time")


@dataclass
class Kills:
    """What came of the kills.

    Attributes:
        kills: how many processes died.
        bad: one line for each state that did not end as it should.
    """

    kills: int = 0
    bad: list[str] = field(default_factory=list)


class Straight:
    """A run that was never interrupted, and what others are compared with.

    Args:
        folder: where it is trained.
    """

    def __init__(self, folder: Path):
        # The first compiles, and is not timed.
        train(folder.with_name(f"{folder.name}-first"))
        self.end = train(folder)
        if self.end.status != 0:
            raise RuntimeError(f"the run itself failed: {self.end.said}")
        config = load_config(None, list(SETTINGS))
        self._like = Run(config, prepare(config))
        self._states = self._read(folder)
        self._log = _figures(folder)

    def differences(self, folder: Path) -> list[str]:
        """What of a run is not what it is here, to the bit."""
        found = [] if _figures(folder) == self._log else ["metrics.jsonl"]
        states = self._read(folder)
        return found + [name for name, v in self._states.items() if states.get(name) != v]

    def _read(self, folder: Path) -> dict[str, bytes]:
        states = {}
        with Checkpoints(folder, create=False) as checkpoints:
            for slot in SLOTS:
                state, progress = checkpoints.restore(slot, self._like.state, self._like.devices)
                leaves = jax.tree_util.tree_leaves_with_path(state)
                states |= {f"{slot}/{path}": np.asarray(v).tobytes() for path, v in leaves}
                states[f"{slot}/progress"] = json.dumps(progress, sort_keys=True).encode()
        return states


def _figures(folder: Path) -> list[dict]:
    return [
        {name: v for name, v in record.items() if not any(word in name for word in _OF_TIME)}
        for record in read_metrics(folder)
    ]


def at_writes(straight: Straight, folder: Path, every: int = 1) -> Kills:
    """Kills before each write of a run, resumes it, and compares."""
    found = Kills()
    for at in range(1, straight.end.writes + 1, every):
        run = _fresh(folder / f"write-{at}")
        end = train(run, kill_at=at)
        found.kills += end.status == -9
        # A thread writes too, so the last of them may not come: that run is through.
        if end.status not in (0, -9):
            found.bad.append(f"write {at}: {end.status}, {end.said.strip()[-300:]}")
        _finish(straight, run, f"killed before write {at}", found)
    return found


def at_random(straight: Straight, folder: Path, kills: int, rng: random.Random) -> Kills:
    """Kills at random moments, again and again until the run is through, and compares."""
    found, n = Kills(), 0
    while found.kills < kills:
        n += 1
        run = _fresh(folder / f"random-{n}")
        for _ in range(rng.randrange(1, 12)):
            end = _go_on(run, after=rng.uniform(0.05, 1.1 * straight.end.seconds))
            if end.status == 0:
                break
            found.kills += 1
            if end.status != -9:
                found.bad.append(f"{run.name}: {end.said.strip()[-300:]}")
        _finish(straight, run, run.name, found)
    return found


def _fresh(run: Path) -> Path:
    shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(parents=True, exist_ok=True)
    return run


def _go_on(run: Path, after: float | None = None) -> End:
    """What a user does: resume where there is a run, start where there is none."""
    return train(run, resume=(run / "config.yaml").is_file(), after=after)


def _finish(straight: Straight, run: Path, name: str, found: Kills) -> None:
    """Trains a run to its end, and takes note of what is not as it should be."""
    end = _go_on(run)
    if end.status != 0:
        found.bad.append(f"{name}: {end.status}, {end.said.strip()[-300:]}")
    else:
        different = straight.differences(run)
        if different:
            found.bad.append(f"{name}: {different[:4]} differ")
        left = [str(p.relative_to(run)) for p in run.rglob("*.part")]
        if left:
            found.bad.append(f"{name}: {left} left behind")
    shutil.rmtree(run, ignore_errors=True)
