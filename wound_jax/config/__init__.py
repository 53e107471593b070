"""The configuration of a run: its schema, how it is read, checked, printed and compared.

`schema` puts the sections together that the rooms declare; `load` turns a YAML file and overrides
into a frozen `RunConfig`, after the plug-ins it names; `rules` holds the rules between keys; `diff`
compares two runs. None of it imports jax: `python -m wound_jax.config show` answers at once.
"""

from wound_jax.config.load import dump_config, load_config
from wound_jax.config.rules import require_data_source
from wound_jax.config.schema import RunConfig

__all__ = ["RunConfig", "dump_config", "load_config", "require_data_source"]
