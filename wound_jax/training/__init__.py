"""Training: setup, batches, objective, step, loop, log, checkpoints and the run folder."""
