"""Variants of a run and their seeds, side by side.

- `spec`: the file that lists variants and seeds; `variants`: the runs it asks for;
- `seed_axis`, `seeds_run`, `seeds_journal`: the seeds of a variant in one program; `timing`: what
  that gains;
- `cells`: what runs on the same cells share; `training`, `schedule`: what is not finished is
  trained, or goes on;
- `finished`, `agreement`: runs as they lie on disk, and whether they may be compared;
- `figures`, `results`, `tables`: figures over seeds, differences between variants, and how they are
  written.
"""
