"""Ctrl-C during training, held back until the state is whole.

A step gives the old state's buffers away when it is dispatched, and the new state has a name only
once the call has returned. An interruption in between would leave nothing to save, so the first
Ctrl-C is noted and raised between two steps; a second one is raised at once.
"""

import signal
import threading
from types import FrameType
from typing import Any


class HeldInterrupt:
    """Notes Ctrl-C and raises it where `check` is called; use as a context manager.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self._asked = False
        self._previous: Any = None

    def __enter__(self) -> "HeldInterrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def check(self) -> None:
        """Raises what was noted.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if self._asked:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.check()
        self._asked = True
