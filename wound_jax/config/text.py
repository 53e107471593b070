"""The dialect of config files: YAML 1.1 with the numbers people write.

`1e-3` is a number (https://yaml.org/spec/1.1/ reads text), while `007`, `1:30` and `2024-01-01`
stay text, since they are labels of mice and timepoints. What is written is read back equal.
"""

import math
import re
import sys
from typing import Any

import yaml

from wound_jax.errors import UserError


class _Loader(yaml.SafeLoader):
    """Plain YAML data; keys are text as written, and one given twice in a mapping is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value!r} is given twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
                if key.tag != "tag:yaml.org,2002:merge":
                    key.tag = "tag:yaml.org,2002:str"
        return node


class _Dumper(yaml.SafeDumper):
    """Sections as blocks, lists on one line, unprintable text escaped, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.add_representer(tuple, _Dumper.represent_list)
_Dumper.add_representer(str, _Dumper.represent_str)

_INT = re.compile(r"[-+]?(?:0|[1-9][\d_]*)\Z")
_FLOAT = re.compile(r"[-+]?(?:\d[\d_]*\.[\d_]*|\.\d[\d_]*|\d[\d_]*(?=[eE]))(?:[eE][-+]?\d+)?\Z")
_KEPT_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("bool", "merge", "null")}
# Reader and writer share the table: text is quoted exactly where it would be read as a number.
for _dialect in (_Loader, _Dumper):
    _dialect.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag in _KEPT_TAGS]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for _tag, _pattern in (("int", _INT), ("float", _FLOAT)):
        _dialect.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list("-+.0123456789"))


def parse_yaml(text: str, source: str) -> Any:
    """The values of a text; a mistake is told with the source and the line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(e, "problem", None) or str(e).splitlines()[0]
        raise UserError(f"{source}{line}: this is not valid YAML: {problem}.") from e
    except ValueError as e:
        raise UserError(f"{source}: this is not valid YAML: {e}.") from e


def inline(value: Any) -> str:
    """A value as YAML on one line, as it could be typed in an override."""
    if isinstance(value, float) and not math.isfinite(value):
        # No config holds one: YAML would spell it with a tag.
        return str(value)
    return to_yaml(value, flow=True).removesuffix("...\n").strip()


def to_yaml(value: Any, flow: bool = False) -> str:
    """A value as YAML, in blocks or on one line."""
    return yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=sys.maxsize,
        default_flow_style=flow,
    )
