"""Damages: a flipped bit, a torn, emptied or missing file is one line, or changes nothing."""

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np

from torturing.child import SETTINGS, train
from wound_jax.config import dump_config, load_config
from wound_jax.config.keys import value_at
from wound_jax.data.prepare import prepare
from wound_jax.data.store.convert import convert
from wound_jax.data.synthetic import simulate
from wound_jax.errors import UserError
from wound_jax.prediction.calibration.calibration import FILE, load_blend
from wound_jax.prediction.loaded_run import load_run
from wound_jax.training.checkpoint import SLOTS, Checkpoints
from wound_jax.training.setup import Run

# What reads a run or a store; two results are the same where they compare equal.
Reader = Callable[[Path], object]


@dataclass
class Damages:
    """What came of the damages.

    Attributes:
        named: how many ended in one message.
        harmless: how many changed nothing of what was read.
        silent: those that changed what was read without a word.
        tracebacks: those that ended in another exception than a user's error.
    """

    named: int = 0
    harmless: int = 0
    silent: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many damages there were."""
        return self.named + self.harmless + len(self.silent) + len(self.tracebacks)


def flip(path: Path, rng: random.Random) -> str:
    """One bit, anywhere."""
    content = bytearray(path.read_bytes())
    at = rng.randrange(8 * len(content))
    content[at // 8] ^= 1 << at % 8
    path.write_bytes(content)
    return f"bit {at} flipped"


def tear(path: Path, rng: random.Random) -> str:
    """What a crash without a sync leaves: the beginning alone, or zeros after it."""
    content = path.read_bytes()
    at = rng.randrange(len(content))
    zeros = rng.random() < 0.5
    path.write_bytes(content[:at] + (bytes(len(content) - at) if zeros else b""))
    return f"{'zeros' if zeros else 'cut'} from byte {at}"


def remove(path: Path, rng: random.Random) -> str:
    """The whole file."""
    path.unlink()
    return "removed"


def swap(path: Path, rng: random.Random) -> str:
    """Two blocks of bytes, each in the place of the other."""
    content = bytearray(path.read_bytes())
    n = min(16, len(content) // 2)
    a, b = rng.randrange(len(content) - n + 1), rng.randrange(len(content) - n + 1)
    content[a : a + n], content[b : b + n] = content[b : b + n], content[a : a + n]
    path.write_bytes(content)
    return f"bytes {a} and {b} swapped"


KINDS = (flip, flip, flip, tear, swap, remove)


def run_reader() -> Reader:
    """Reads of a run what `predict` and `--resume` take from it."""
    config = load_config(None, list(SETTINGS))
    like = Run(config, prepare(config))

    def read(run: Path) -> object:
        loaded = load_run(run)
        # Waits until the network is opened.
        _ = loaded.predictor
        found: list[object] = [dump_config(loaded.config), loaded.spec.to_json()]
        with Checkpoints(run, create=False) as checkpoints:
            for slot in SLOTS:
                # As `--resume` asks first.
                if not checkpoints.has(slot):
                    return "would start anew"
                state, progress = checkpoints.restore(slot, like.state, like.devices)
                found += [progress, *(np.asarray(v).tobytes() for v in jax.tree.leaves(state))]
        if (run / FILE).exists():
            load_blend(run)
        return found

    return read


def store_reader(settings: Sequence[str]) -> Reader:
    """Reads of a training store what a run trains on.

    Args:
        settings: of the runs that train from it, without its place.
    """

    def read(store: Path) -> object:
        where = [f"data.path={store}/store.h5ad", "data.location=disk"]
        return prepare(load_config(None, [*settings, *where])).fingerprint

    return read


def damage(whole: Path, folder: Path, read: Reader, damages: int, rng: random.Random) -> Damages:
    """Damages one file after the other of a run, and reads it.

    Args:
        whole: the folder of a run, or of a store, which is left as it is.
        folder: where a copy of it is damaged.
        read: what reads it.
        damages: how many.
        rng: chooses.
    """
    found, expected = Damages(), read(whole)
    run = folder / whole.name
    shutil.copytree(whole, run)
    files = sorted(p for p in run.rglob("*") if p.is_file() and p.stat().st_size)
    while found.count < damages:
        path, kind = rng.choice(files), rng.choice(KINDS)
        content = path.read_bytes()
        what = f"{path.relative_to(run)}: {kind(path, rng)}"
        if path.exists() and path.read_bytes() == content:
            continue
        try:
            same = read(run) == expected
        except UserError as e:
            # One message, in which the file or what belongs to it is named.
            found.named += "Traceback" not in str(e)
        except Exception as e:
            found.tracebacks.append(f"{what}: {type(e).__name__}: {str(e)[:200]}")
        else:
            found.harmless += same
            found.silent += [] if same else [what]
        path.write_bytes(content)
    shutil.rmtree(run)
    return found


def of_run(folder: Path, damages: int, rng: random.Random) -> Damages:
    """Damages the files of a run that was trained and scored."""
    run = folder / "whole" / "run"
    run.parent.mkdir()
    end = train(run, evaluated=True)
    if end.status != 0:
        raise RuntimeError(f"the run itself failed: {end.said}")
    return damage(run, folder / "damaged", run_reader(), damages, rng)


def of_store(folder: Path, damages: int, rng: random.Random) -> Damages:
    """Damages a training store."""
    place = folder / "store" / "cells"
    place.mkdir(parents=True)
    settings = [s for s in SETTINGS if not s.startswith(("data.source", "data.synthetic"))]
    synthetic = value_at(load_config(None, list(SETTINGS)), "data.synthetic")
    simulate(synthetic).adata.write_h5ad(folder / "cells.h5ad")
    config = load_config(None, [*settings, f"data.path={folder}/cells.h5ad"])
    convert(config, place / "store.h5ad", progress=False)
    return damage(place, folder / "damaged", store_reader(settings), damages, rng)
