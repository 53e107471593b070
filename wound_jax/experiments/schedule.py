"""What a comparison still has to train, in which order, and what is said meanwhile.

Finished runs are left as they are, broken ones go on. The seeds of a variant that stand at one step
train together; a seed that is alone at its step, or whose common program failed, trains by itself.
With early stopping every seed has an end of its own, and with shuffled velocities cells of its own,
so there all train one by one.
"""

import sys
import time
from collections.abc import Collection, Sequence

from wound_jax.config import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.source import describe_source
from wound_jax.data.splits import split_table
from wound_jax.data.strata import plan_strata
from wound_jax.devices.mesh import make_devices
from wound_jax.errors import UserError
from wound_jax.experiments.agreement import between_data, require_agreement
from wound_jax.experiments.shared_cells import SharedCells, cells_key
from wound_jax.experiments.training import step_of, train_job
from wound_jax.experiments.variants import PlannedVariant, folder_of, is_finished
from wound_jax.models.build import model_dims
from wound_jax.models.functional import abstract_model
from wound_jax.training import provenance
from wound_jax.training.loop import require_validation
from wound_jax.training.setup import build_objective


class Schedule:
    """The runs that are missing.

    Args:
        variants: all variants.
        together: whether the seeds of a variant train in one program.
        progress_bar: whether to draw one while a program trains.

    Attributes:
        failures: one line for each run that could not be trained to its end.
    """

    def __init__(self, variants: Sequence[PlannedVariant], *, together: bool, progress_bar: bool):
        self.failures: list[str] = []
        self._variants = variants
        self._together = together
        self._progress_bar = progress_bar
        self._cells = SharedCells()
        self._total = sum(len(variant.runs) for variant in variants)
        self._left = sum(len(_missing(variant)) for variant in variants)
        # Seconds of each run that was trained here, evaluation included.
        self._seconds: list[float] = []

    def check(self, allowed: Collection[str]) -> list[str]:
        """Prepares the cells of what is missing and builds every model, before anything trains.

        Args:
            allowed: in what the cells may differ (`wound_jax.experiments.agreement`).

        Returns:
            One line for each allowed difference.

        Raises:
            UserError: a variant cannot be trained or scored, a broken run was trained on other
                cells, or the variants cannot be compared.
        """
        sides: list[tuple[str, PreparedData]] = []
        for variant in self._variants:
            missing = _missing(variant)
            if not missing:
                continue
            data = self._cells.of(missing[0])
            if not sides:
                _say(f"data: {describe_source(missing[0].data)}")
                _say(split_table(data.split, data.cells.annotations))
            _check(missing[0], data)
            for config in missing:
                if (folder_of(config) / "provenance.json").is_file():
                    own = self._cells.of(config)
                    provenance.require_same_data(folder_of(config), own.fingerprint)
            sides.append((variant.name, data))
        return require_agreement(sides, between_data, allowed) if sides else []

    def run(self) -> None:
        """Trains and evaluates every run that is not finished; failures are noted and left out."""
        place = 0
        for variant in self._variants:
            missing = _missing(variant)
            finished = len(variant.runs) - len(missing)
            if finished:
                _say(f"{variant.name}: {finished} of {len(variant.runs)} seeds finished before")
            place += finished
            for job in jobs(missing, together=self._together):
                place += len(job)
                self._train(variant.name, job, f"[{_span(place, len(job))}/{self._total}]")

    def _train(self, name: str, job: Sequence[RunConfig], place: str) -> None:
        seeds = ", ".join(str(config.seed) for config in job)
        step = step_of(job[0])
        _say(
            f"{place} {name}: seed{'s' if len(job) > 1 else ''} {seeds}"
            f"{' together' if len(job) > 1 else ''}{f', from step {step}' if step else ''}"
        )
        start = time.perf_counter()
        try:
            train_job(job, self._cells, progress_bar=self._progress_bar)
        except UserError as e:
            if len(job) == 1:
                self._left -= 1
                self.failures.append(f"{name}, seed {seeds} failed: {e}")
                _say(self.failures[-1])
                return
            _say(f"{name}: together they failed: {e}\nso each of these seeds goes on alone")
            for config in job:
                self._train(name, [config], place)
            return
        self._left -= len(job)
        self._seconds += [(time.perf_counter() - start) / len(job)] * len(job)
        _say(f"    {_duration(self._seconds[-1])} a run{self._time_left()}")

    def _time_left(self) -> str:
        if not self._left:
            return ""
        seconds = self._left * sum(self._seconds) / len(self._seconds)
        return f"; {self._left} runs left, about {_duration(seconds)}"


def _missing(variant: PlannedVariant) -> list[RunConfig]:
    """The runs of a variant that are not finished."""
    return [config for config in variant.runs.values() if not is_finished(folder_of(config))]


def jobs(missing: Sequence[RunConfig], *, together: bool) -> list[list[RunConfig]]:
    """Divides the missing runs of a variant into those that train at once, in one program.

    Args:
        missing: configs that differ in their seed and folder alone.
        together: whether any may train at once.
    """
    stop_early = any(config.training.early_stopping is not None for config in missing)
    # Velocities that are shuffled by the run's seed are other cells for each seed.
    share_cells = len({cells_key(config) for config in missing}) == 1
    if not together or stop_early or not share_cells:
        return [[config] for config in missing]
    by_step: dict[int, list[RunConfig]] = {}
    for config in missing:
        by_step.setdefault(step_of(config), []).append(config)
    return list(by_step.values())


def _check(config: RunConfig, data: PreparedData) -> None:
    """What would otherwise end a run only when its turn comes."""
    plan_strata(data, config.evaluation, "test")
    require_validation(config.training, bool(data.groups("val")[0]))
    training = config.training
    devices = make_devices(training.devices, training.batch_size, training.accumulate)
    graphdef, _ = abstract_model(config.model, model_dims(data.spec))
    build_objective(config, graphdef, devices)


def _span(last: int, n: int) -> str:
    return str(last) if n == 1 else f"{last - n + 1}-{last}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
