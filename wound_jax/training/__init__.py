"""Training: launch, setup, batches, objective, step, loop, log, checkpoints, record, run folder."""
