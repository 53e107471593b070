"""Imported once by the server that processes are forked from; nothing is computed."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import wound_jax.report.score_run
import wound_jax.training.launch  # noqa: F401
