"""Ctrl-C during training, held back until the state is whole.

A step gives the old state's buffers away when it is dispatched, and the new state has a name only
once the call has returned. An interruption in between would leave nothing to save, so the first
Ctrl-C is noted and raised between two steps; a second one is raised at once. SIGTERM, by which a
scheduler takes a machine back, is treated alike.

Several processes end together, at a step that all of them have done: `check` asks whether any was
interrupted. There a second signal ends the process, and with it the others.
"""

import signal
import threading
from types import FrameType
from typing import Any

from wound_jax import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class HeldInterrupt:
    """Notes Ctrl-C and raises it where `check` is called; use as a context manager.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "HeldInterrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            # None: it was installed by other code than Python's.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def check(self) -> None:
        """Raises what was noted, here or on another process; all processes have to call it.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if processes.any_of(self._asked):
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            self._leave(number)
        self._asked = True

    def _leave(self, number: int) -> None:
        """What a second signal does."""
        if not processes.several():
            raise KeyboardInterrupt
        # An exception would wait at the exit for the other processes, and these for this one.
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
