"""Scores finished runs on their validation and test cells, one after the other.

    python scripts/evaluate.py runs/phase1_lora runs/phase2_lora_mhc
    python scripts/evaluate.py runs/phase1_lora evaluation.min_cells=50

Each run gets `eval-val/` and `eval/` with tables, scorecard and pictures. Validation cells chose
the checkpoint, so that only the test figures are to be reported; a gap between the two says that
the choice was lucky. For the runs beside each other: `python -m wound_jax.compare RUN RUN ...`.
"""

import sys

from wound_jax.evaluate import main as evaluate


def main(argv: list[str]) -> int:
    """Evaluates every run named; returns the highest exit status."""
    runs = [word for word in argv if "=" not in word]
    overrides = [word for word in argv if "=" in word]
    if not runs or runs[0] in ("-h", "--help"):
        print(__doc__, file=sys.stderr)
        return 0 if runs else 2
    return max(
        evaluate([run, "--part", part, *overrides]) for run in runs for part in ("val", "test")
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
