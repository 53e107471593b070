"""Torture: what becomes of tiny runs that are killed, damaged, out of room, or wanted twice.

    python scripts/torture.py                 # the long form: 500 kills, 2,000 damages
    python scripts/torture.py --kills 40 --every 20 --damages 100

Prints one table; exit status 1 where anything went wrong in silence or with a traceback. What each
line means, and the last figures: docs/reliability.md.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Tortures runs; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Kill, damage and starve tiny runs, and look at what becomes of them."
    )
    option = parser.add_argument
    option("--kills", type=int, default=220, help="at random moments (default: %(default)s)")
    option("--every", type=int, default=1, help="kill before every so many-th write; 0: none")
    option("--damages", type=int, default=2000, help="of the files of a run and of a store")
    option("--no-disk", action="store_true", help="leave out small disks (these need root)")
    option("--seed", type=int, default=0, help="of what is random")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        os.environ.setdefault("WOUND_JAX_CACHE", str(Path(folder) / "cache"))
        return _torture(arguments, Path(folder))


def _torture(arguments: argparse.Namespace, folder: Path) -> int:
    # After the cache has its place.
    from torturing import damages, kills, places

    rng, bad = random.Random(arguments.seed), []

    def line(name: str, act: Callable[[], tuple[str, list[str]]]) -> None:
        begun = time.perf_counter()
        figures, wrong = act()
        bad.extend(f"{name}: {one}" for one in wrong)
        print(f"{name:<24} {figures:<58} {time.perf_counter() - begun:6.0f} s", flush=True)

    def killed(found: kills.Kills) -> tuple[str, list[str]]:
        return f"{found.kills} kills, {len(found.bad)} runs that differ", found.bad

    def damaged(found: damages.Damages) -> tuple[str, list[str]]:
        figures = (
            f"{found.count} damages, {found.named} named, {found.harmless} without effect, "
            f"{len(found.silent)} silent, {len(found.tracebacks)} tracebacks"
        )
        return figures, found.silent + found.tracebacks

    def disks(found: tuple[int, list[str]]) -> tuple[str, list[str]]:
        sizes = places.SIZES_KB
        span = f"{len(sizes)} of {min(sizes)} to {max(sizes)} KB"
        return f"{span}, {found[0]} of them too small", found[1]

    straight = kills.Straight(folder / "straight")
    if arguments.every:
        line(
            "before each write", lambda: killed(kills.at_writes(straight, folder, arguments.every))
        )
    line("at random", lambda: killed(kills.at_random(straight, folder, arguments.kills, rng)))
    line("files of a run", lambda: damaged(damages.of_run(folder, 3 * arguments.damages // 4, rng)))
    line("a training store", lambda: damaged(damages.of_store(folder, arguments.damages // 4, rng)))
    line("two at once", lambda: ("2 processes resume one run", places.two_at_once(folder)))
    if not arguments.no_disk:
        line("small disks", lambda: disks(places.full_disks(folder)))
    print("\n".join(bad) or "nothing went wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
