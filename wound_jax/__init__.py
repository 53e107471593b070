"""wound_jax: a JAX/Flax set transformer from control cells to cells after a perturbation.

Importing the package costs nothing: no jax, no ott, no scanpy. Each command imports what it
needs when it runs, so that `python -m wound_jax.config show` answers at once.
"""

__version__ = "0.1.0"
