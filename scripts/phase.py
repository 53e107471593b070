"""One phase of the plan: trains it, scores it on held-out cells, and writes its page.

    python scripts/phase.py 1 data.path=burn.h5ad            LoRA
    python scripts/phase.py 2 data.path=burn.h5ad            LoRA and hyper-connections
    python scripts/phase.py 3 data.path=burn.h5ad            no adapters: the comparison
    python scripts/phase.py 1 data.source=synthetic          the same, on simulated cells

What follows the number goes to `python -m wound_jax.train` as it stands. All three at once, with
several seeds: `python -m wound_jax.compare --config configs/compare_phases.yaml`.
"""

import sys
from pathlib import Path

from wound_jax.train import main as train

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PHASES = {
    "1": "phase1_lora.yaml",
    "2": "phase2_lora_mhc.yaml",
    "3": "phase3_random_init.yaml",
}


def main(argv: list[str]) -> int:
    """Trains the phase that the first argument names; returns the exit status."""
    if not argv or argv[0] not in PHASES:
        print(__doc__, file=sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    return train(["--config", str(CONFIGS / PHASES[argv[0]]), *argv[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
