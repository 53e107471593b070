"""Reading a config: YAML with `extends:`, overrides `a.b.c=value`, one clear line per mistake.

The resolved config is `merge(bases in order, the file, overrides in order)` over the defaults of
`wound_jax.config.schema`: mappings merge key by key, everything else replaces, null included. The
dialect is YAML 1.1 (https://yaml.org/spec/1.1/) with the numbers people write: `1e-3` is a number,
while `007`, `1:30` and `2024-01-01` stay text, since they are labels of mice and days.
"""

import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from wound_jax.config.activity import check_consistency, inactive_keys
from wound_jax.config.schema import RunConfig
from wound_jax.errors import UserError, unknown_name

# The first line of a complete config. Such a file lists inactive keys too, so none of its keys is
# a choice that could be without effect; later versions read it back even if they know more keys.
RESOLVED_HEADER = "# Resolved config: every key is listed, also those without an effect."
COMMAND_LINE = "command line"


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


@dataclass(frozen=True)
class _Layer:
    """The values one file or one override sets, and where they come from."""

    source: str
    origin: Literal["inherited", "file", "command line"]
    values: dict[str, Any]


def load_config(
    path: str | Path | Sequence[str | Path] | None, overrides: Sequence[str] = ()
) -> RunConfig:
    """The resolved config of a file and overrides, complete and checked.

    Args:
        path: a YAML file, or several, of which later ones win, or None for the defaults.
            `extends: base.yaml` (or a list, of which later ones win) names files it builds on,
            relative to itself.
        overrides: `a.b.c=value` each; the value is YAML (`split.test='[NK cells]'`), nothing after
            the `=` is null.

    Returns:
        The frozen config.

    Raises:
        UserError: one line for each mistake: a missing file, text that is not YAML, an unknown
            key, a wrong type, a value out of range, a key without effect, a contradiction.
    """
    paths = [path] if isinstance(path, str | Path) else path or []
    return _resolve([layer for one in paths for layer in _file_layers(Path(one))], overrides)


def parse_config(text: str, overrides: Sequence[str] = (), source: str = "config") -> RunConfig:
    """The resolved config of the text of a file, for one that lies on another machine.

    Args:
        text: YAML, as `load_config` reads it; a file that it extends is read.
        overrides: `a.b.c=value` each.
        source: what the text is called in messages; `extends` is relative to its folder.

    Raises:
        UserError: as for `load_config`.
    """
    return _resolve(_text_layers(text, Path(source)), overrides)


def dump_config(config: RunConfig) -> str:
    """The complete config as YAML, in the order of the schema; `load_config` reads it back equal.

    Its first line marks it as complete, so that keys without effect are no mistake in it.
    """
    return f"{RESOLVED_HEADER}\n{_to_yaml(config.model_dump())}"


def schema_keys() -> dict[str, Any]:
    """Every leaf key of the schema, dotted, with its annotation (constraints included).

    `data.exclude` is one leaf; the obs columns below it are free.
    """
    return {key: kind for key, kind in _known().items() if not _is_section(kind)}


def value_at(config: RunConfig, key: str) -> Any:
    """The value of a dotted key."""
    return reduce(getattr, key.split("."), config)


def inline(value: Any) -> str:
    """A value as YAML on one line, as it could be typed in an override."""
    return _to_yaml(value, flow=True).removesuffix("...\n").strip()


def _to_yaml(value: Any, flow: bool = False) -> str:
    return yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=sys.maxsize,
        default_flow_style=flow,
    )


def _resolve(layers: list[_Layer], overrides: Sequence[str]) -> RunConfig:
    """What the layers and the overrides add up to, checked."""
    layers = layers + [_override_layer(text) for text in overrides]
    sources = {key: layer.source for layer in layers for key in _leaf_keys(layer.values)}
    config = _validate(reduce(_merge, (layer.values for layer in layers), {}), sources)
    of_file, of_command = (
        [key for layer in layers if layer.origin == origin for key in _leaf_keys(layer.values)]
        for origin in ("file", COMMAND_LINE)
    )
    idle = [
        f"{sources[key]}: {key}={inline(value_at(config, key))} has no effect: {rule.switch} is "
        f"{inline(value_at(config, rule.switch))}. Set {rule.fix} or remove the key."
        for key, rule in inactive_keys(config, of_file, of_command)
    ]
    if idle:
        raise UserError("\n".join(idle))
    check_consistency(config)
    return config


def _file_layers(path: Path, chain: tuple[Path, ...] = ()) -> list[_Layer]:
    """The layers of a file: those of the files it extends, first to last, then its own.

    `chain` holds the files that led here, each extending the next.
    """
    if path.resolve() in [link.resolve() for link in chain]:
        raise UserError(f"extends goes in a circle: {' -> '.join(map(str, (*chain, path)))}")
    text = _read(path, f"base config of {chain[-1]}" if chain else "config file")
    return _text_layers(text, path, chain)


def _text_layers(text: str, path: Path, chain: tuple[Path, ...] = ()) -> list[_Layer]:
    values = _parse(text, str(path))
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: got {inline(values)}, expected keys with values, like seed: 42.")
    bases = values.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: extends: got {inline(bases)}, expected a file or a list of them.")
    layers = [layer for b in bases for layer in _file_layers(path.parent / b, (*chain, path))]
    chosen = not chain and not text.startswith(RESOLVED_HEADER)
    return [*layers, _Layer(str(path), "file" if chosen else "inherited", values)]


def _read(path: Path, kind: str) -> str:
    if path.is_dir():
        inside = ", ".join(_yaml_files(path)) or "none"
        raise UserError(f"{path} is a folder, expected a YAML file. YAML files in it: {inside}.")
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise unknown_name(kind, str(path), _yaml_files(path.parent)) from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not text, expected a YAML file.") from e
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}.") from e


def _yaml_files(folder: Path) -> list[str]:
    return sorted(str(p) for p in folder.glob("*") if p.suffix in (".yaml", ".yml"))


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(e, "problem", None) or str(e).splitlines()[0]
        raise UserError(f"{source}{line}: this is not valid YAML: {problem}.") from e
    except ValueError as e:
        raise UserError(f"{source}: this is not valid YAML: {e}.") from e


def _override_layer(text: str) -> _Layer:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise UserError(
            f"{COMMAND_LINE}: got {text!r}, expected KEY=VALUE, like training.batch_size=8."
        )
    nested = _parse(value, f"{COMMAND_LINE}, {text!r}")
    for part in reversed(_path(key)):
        nested = {part: nested}
    return _Layer(COMMAND_LINE, "command line", nested)


def _path(key: str) -> list[str]:
    """The parts of a dotted key; a free name below a leaf is one part, whatever its dots."""
    for leaf, annotation in schema_keys().items():
        if get_origin(annotation) is dict and key.startswith(f"{leaf}."):
            return [*leaf.split("."), key.removeprefix(f"{leaf}.")]
    # An unknown key stays whole, for the error to name it whole.
    return key.split(".") if key in _known() else [key]


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`base` with `top` laid over it: mappings merge, everything else replaces."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merge(below, value)
        merged[key] = value
    return merged


def _leaf_keys(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted leaf keys that are set in nested values; a name with dots is no section."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        nests = "." not in name and _is_section(_known().get(key))
        if nests and isinstance(value, Mapping):
            yield from _leaf_keys(value, f"{key}.")
        else:
            yield key


@cache
def _known() -> dict[str, Any]:
    """Every dotted key of the schema, sections before what they hold, with its annotation."""

    def walk(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, field in section.model_fields.items():
            kind = field.rebuild_annotation()
            yield f"{prefix}{name}", kind
            if _is_section(kind):
                yield from walk(kind, f"{prefix}{name}.")

    return dict(walk(RunConfig, ""))


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _validate(values: dict[str, Any], sources: Mapping[str, str]) -> RunConfig:
    """The config, or one line for each key that the schema refuses."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as e:
        errors: dict[str, list[Any]] = {}
        for error in e.errors(include_url=False):
            errors.setdefault(_dotted(error["loc"]), []).append(error)
        lines = []
        for key, of_key in errors.items():
            unknown = of_key[0]["type"] == "extra_forbidden"
            problem = _unknown_key(key) if unknown else _wrong_value(key, of_key, values)
            lines.append(f"{sources[key]}: {problem}")
        raise UserError("\n".join(lines)) from e


def _dotted(loc: tuple[int | str, ...]) -> str:
    """The dotted key of a pydantic location, without what lies inside a leaf."""
    key = str(loc[0])
    for part in loc[1:]:
        if not _is_section(_known().get(key)):
            break
        key = f"{key}.{part}"
    return key


def _unknown_key(key: str) -> str:
    if key in _known():
        return f"the key {key!r} is written with dots: in a file, nest it."
    scores = {name: _likeness(key, name) for name in _known()}
    least = max(0.6, max(scores.values()) - 0.1)
    near = sorted((n for n in scores if scores[n] >= least), key=lambda name: -scores[name])
    if near:
        guess = " or ".join(repr(name) for name in near[:3])
        return f"unknown config key {key!r}. Did you mean {guess}?"
    section = key.rpartition(".")[0]
    while section and not _is_section(_known().get(section)):
        section = section.rpartition(".")[0]
    siblings = [name for name in scores if name.rpartition(".")[0] == section]
    return f"unknown config key {key!r}. Known there: {', '.join(siblings)}."


def _likeness(given: str, name: str) -> float:
    """How near two dotted keys are, 0 to 1: mostly their last part, a little the section."""
    (given_section, _, given_leaf), (section, _, leaf) = given.rpartition("."), name.rpartition(".")
    of_leaf = difflib.SequenceMatcher(None, given_leaf, leaf).ratio()
    return 0.8 * of_leaf + 0.2 * difflib.SequenceMatcher(None, given_section, section).ratio()


def _wrong_value(key: str, errors: Sequence[Any], values: dict[str, Any]) -> str:
    given = reduce(lambda mapping, part: mapping[part], key.split("."), values)
    hint = ""
    for error in errors:
        got = error["input"]
        if error["type"] == "string_type" and isinstance(got, bool | int | float):
            hint = (
                " Text that reads as a number or a truth value needs quotes: "
                f"""'{inline(got)}', on a command line "'{inline(got)}'"."""
            )
        elif error["type"] == "literal_error" and isinstance(got, str):
            options = re.findall(r"'([^']*)'", error["ctx"]["expected"])
            near = difflib.get_close_matches(got, options, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{key}: got {inline(given)}, expected {expected(_known()[key])}.{hint}"


_PLAIN = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def expected(kind: Any) -> str:
    """What an annotation of the schema accepts, in words: "null or an integer >= 1"."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        metas = [m for meta in args[1:] for m in getattr(meta, "metadata", [meta])]
        bounds = [f"{_SIGNS[n]} {getattr(m, n):g}" for m in metas for n in _SIGNS if hasattr(m, n)]
        return f"{expected(args[0])} {' and '.join(bounds)}".strip()
    if origin in (Union, UnionType):
        return " or ".join(expected(a) for a in sorted(args, key=lambda a: a is not NoneType))
    if origin is Literal:
        options = ", ".join(repr(arg) for arg in args)
        return f"one of {options}" if len(args) > 1 else options
    if origin is tuple:
        return f"a list, each item {expected(args[0])}"
    if origin is dict:
        return f"a mapping, each value {expected(args[1])}"
    if _is_section(kind):
        return f"a section with the keys {', '.join(kind.model_fields)}"
    return "null" if kind is NoneType else _PLAIN[kind]
