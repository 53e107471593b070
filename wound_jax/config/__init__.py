"""The configuration of a run: its schema, how it is read, checked, printed and compared.

`schema` holds every key with its type, range and default; `load` turns a YAML file and overrides
into a frozen `RunConfig`; `activity` holds the rules between keys; `diff` compares two runs. None
of it imports jax, so that `python -m wound_jax.config show` answers at once.
"""

from wound_jax.config.activity import require_data_source
from wound_jax.config.load import dump_config, load_config
from wound_jax.config.schema import RunConfig

__all__ = ["RunConfig", "dump_config", "load_config", "require_data_source"]
