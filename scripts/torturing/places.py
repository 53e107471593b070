"""Places: a disk that is full, and a folder that two processes want at once."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torturing.child import begin, train

# From nothing to a little less than a run takes.
SIZES_KB = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """A file system in memory of that size.

    Raises:
        PermissionError: only an administrator may mount one.
    """
    if os.geteuid() != 0:
        raise PermissionError("a small file system can be mounted by an administrator alone")
    folder.mkdir(parents=True)
    size = f"size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full_disks(folder: Path, sizes: Sequence[int] = SIZES_KB) -> tuple[int, list[str]]:
    """Trains on small disks.

    Returns:
        On how many the run was refused or ended for want of room; and one line for each that ended
        neither well nor with one message.
    """
    full, bad = 0, []
    for size in sizes:
        place = folder / f"disk-{size}"
        with small_disk(place, size):
            end = train(place / "run")
        errors = [line for line in end.said.splitlines() if line.startswith("error: ")]
        full += end.status == 2
        if not end.clean or (end.status == 2 and len(errors) != 1):
            bad.append(f"{size} KB: {end.status}, {end.said.strip()[-400:]}")
    return full, bad


def two_at_once(folder: Path) -> list[str]:
    """Two processes resume one run; one line for what did not go as it should."""
    run, bad = folder / "two", []
    train(run, kill_at=120)
    ends = [one.end() for one in [begin(run, resume=True), begin(run, resume=True)]]
    if sorted(end.status or 0 for end in ends) != [0, 2]:
        bad.append(f"expected one to train and one to be refused: {[end.status for end in ends]}")
    refused = "".join(end.said for end in ends if end.status == 2)
    if "another process" not in refused:
        bad.append(f"the one that was refused said: {refused.strip()[-300:]}")
    steps = (run / "metrics.jsonl").read_text().count('"train/loss"')
    if steps != 12:
        bad.append(f"{steps} records of 12 steps")
    return bad
