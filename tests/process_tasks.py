"""What each of two processes does in the tests: `python process_tasks.py TASK`."""

import json
import signal
import sys
from pathlib import Path

import tiny_run

from wound_jax.devices import processes
from wound_jax.devices.mesh import make_devices
from wound_jax.errors import UserError
from wound_jax.training.checkpoint import Checkpoints
from wound_jax.training.loop import Loop

N_STEPS = 10
RHYTHM = {"log_every": 2, "val_every": 3, "steps_per_dispatch": 2}
# Without dropout, whose masks differ where a batch is cut into parts.
PARTS = ("training.accumulate=2", "data.location=host", "model.dropout=0")


def loop_of(run, folder: Path) -> Loop:
    training = tiny_run.config().training.model_copy(update=RHYTHM)
    return Loop(run, training, tiny_run.data().spec, folder, progress_bar=False)


def trained() -> None:
    """An interrupted run that is resumed, and the first steps of another one."""
    import jax

    run, folder = tiny_run.new_run("training.devices=all", total_steps=N_STEPS), Path("run")
    assert (run.devices.count, jax.process_count()) == (2, 2)
    real, calls = run.step, iter(range(1, 100))

    def pressed(*given):
        if next(calls) == 1 and not processes.is_first():
            signal.raise_signal(signal.SIGINT)
        return real(*given)

    # The third and the fourth step are single ones: a validation falls between them.
    run.step = pressed
    try:
        loop_of(run, folder).train()
        raise AssertionError("it was not interrupted")
    except KeyboardInterrupt:
        pass
    fresh = tiny_run.new_run("training.devices=all", total_steps=N_STEPS)
    if processes.is_first():
        with Checkpoints(folder, create=False) as checkpoints:
            Path("interrupted.json").write_text(json.dumps(checkpoints.step("last")))
    progress = loop_of(fresh, folder).train(resume=True)
    processes.require_equal("progress", lambda: {"best": repr(progress)})
    _, metrics = tiny_run.steps(tiny_run.new_run("training.devices=all", *PARTS), 2)
    if processes.is_first():
        found = [{name: float(v) for name, v in one.items()} for one in metrics]
        Path("parts.json").write_text(json.dumps(found))
    refused()


def refused() -> None:
    """What one process alone finds wrong ends both."""

    def lacking() -> None:
        if not processes.is_first():
            raise UserError("no file at cells.h5ad")

    found = []
    for wrong in (
        lambda: processes.on_all(lacking),
        lambda: processes.from_first(lambda: make_devices(1, 4).count),
        lambda: processes.require_equal("cells", lambda: {"n": str(processes.is_first())}),
    ):
        try:
            wrong()
        except UserError as e:
            found.append(str(e))
    Path(f"refused{int(not processes.is_first())}.json").write_text(json.dumps(found))


def broken() -> None:
    """A defect on one process while the other one waits for it."""
    with processes.leave_at_once():
        processes.any_of(False)
        if not processes.is_first():
            raise RuntimeError("a defect")
        processes.any_of(False)


if __name__ == "__main__":
    processes.join()
    {"trained": trained, "broken": broken}[sys.argv[1]]()
