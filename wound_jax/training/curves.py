"""TensorBoard curves of a run.

Events are written where they arise: tensorboardX's own writer hands them to a thread, and where the
disk refuses them the thread ends, its queue fills, and the training waits for it for ever.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

# Made from a description when it is imported: its names are known then.
_proto: Any = event_pb2


class Curves:
    """Figures by step, for TensorBoard.

    Args:
        folder: where event files go; a run that was continued has several.
        start_step: the step that the run begins at. Figures of later steps, which a process that
            ended wrote, are hidden.

    Raises:
        OSError: the disk refuses the file.
    """

    def __init__(self, folder: Path, start_step: int):
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        purged = start_step + 1 if start_step else 0
        begun = _proto.SessionLog(status=_proto.SessionLog.START)
        self._writer.write_event(
            _proto.Event(wall_time=time.time(), step=purged, session_log=begun)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes figures of one step.

        Raises:
            OSError: the disk refuses them.
        """
        now = time.time()
        for name, value in values.items():
            event = _proto.Event(wall_time=now, step=step, summary=scalar(name, value))
            self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
