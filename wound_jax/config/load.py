"""Reading a config: YAML with `extends:`, overrides `a.b.c=value`, one clear line per mistake.

The resolved config is `bases in order, the file, overrides in order` over the defaults of
`wound_jax.config.schema`. Mappings merge key by key, everything else replaces, null and the list of
plug-ins included. Where a layer changes the tag of a section (`split.kind`), what earlier layers
said to the old variant alone goes; keys that both variants have of one base stay.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ValidationError

from wound_jax.config.keys import (
    all_keys,
    known_keys,
    leaf_keys,
    nearest_value,
    refusals,
    tags_with,
    value_at,
    wrong_value,
)
from wound_jax.config.plugins import load_plugins
from wound_jax.config.rules import check_consistency, inactive_keys
from wound_jax.config.schema import RunConfig, tagged_sections
from wound_jax.config.text import inline, parse_yaml, to_yaml
from wound_jax.errors import UserError, unknown_name

# The first line of a complete config. Such a file lists inactive keys too, so none of its keys is
# a choice that could be without effect; later versions read it back even if they know more keys.
RESOLVED_HEADER = "# Resolved config: every key is listed, also those without an effect."
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class _Layer:
    """The values one file or one run of overrides sets, and where they come from."""

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
    return f"{RESOLVED_HEADER}\n{to_yaml(config.model_dump())}"


def _resolve(layers: list[_Layer], overrides: Sequence[str]) -> RunConfig:
    """What the layers and the overrides add up to, checked."""
    pairs = [_override(text) for text in overrides]
    _load_plugins(layers, pairs)
    known = all_keys()
    layers = [*layers, *_override_layers(pairs, known)]
    sources = {key: one.source for one in layers for key in leaf_keys(one.values, known)}
    of_file, of_command = (
        {key for one in layers if one.origin == origin for key in leaf_keys(one.values, known)}
        for origin in ("file", COMMAND_LINE)
    )
    values = reduce(_lay, (layer.values for layer in layers), {})
    judged = {key for key in of_file if _tag_of(key) not in of_command} | of_command
    config = _validate(values, sources, judged, known)
    # A variant that a later layer left may have had further keys.
    there = [key for key in sources if _has(config, key)]
    set_here = ([key for key in there if key in keys] for keys in (of_file, of_command))
    idle = [
        f"{sources[key]}: {key}={inline(value_at(config, key))} has no effect: {rule.switch} is "
        f"{inline(value_at(config, rule.switch))}. Set {rule.fix} or remove the key."
        for key, rule in inactive_keys(config, *set_here)
    ]
    if idle:
        raise UserError("\n".join(idle))
    check_consistency(config)
    return config


def _has(config: RunConfig, key: str) -> bool:
    """Whether a config has a key."""
    try:
        value_at(config, key)
    except AttributeError:
        return False
    return True


def _load_plugins(layers: Iterable[_Layer], pairs: Iterable[tuple[str, Any]]) -> None:
    """Imports what the config names, before its sections are read."""
    named: tuple[str, Any] = (COMMAND_LINE, [])
    for layer in layers:
        if "plugins" in layer.values:
            named = layer.source, layer.values["plugins"]
    for key, value in pairs:
        if key == "plugins":
            named = COMMAND_LINE, value
    source, modules = named
    if isinstance(modules, list | tuple) and all(isinstance(name, str) for name in modules):
        load_plugins(modules, source)
    # Anything else is refused with the other keys.


def _file_layers(path: Path, chain: tuple[Path, ...] = ()) -> list[_Layer]:
    """The layers of a file: those of the files it extends, first to last, then its own.

    `chain` holds the files that led here, each extending the next.
    """
    if path.resolve() in [link.resolve() for link in chain]:
        raise UserError(f"extends goes in a circle: {' -> '.join(map(str, (*chain, path)))}")
    text = _read(path, f"base config of {chain[-1]}" if chain else "config file")
    return _text_layers(text, path, chain)


def _text_layers(text: str, path: Path, chain: tuple[Path, ...] = ()) -> list[_Layer]:
    values = parse_yaml(text, str(path))
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


def _override(text: str) -> tuple[str, Any]:
    """The dotted key and the value of an override."""
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise UserError(
            f"{COMMAND_LINE}: got {text!r}, expected KEY=VALUE, like training.batch_size=8."
        )
    return key, parse_yaml(value, f"{COMMAND_LINE}, {text!r}")


def _override_layers(pairs: Iterable[tuple[str, Any]], known: Mapping[str, Any]) -> list[_Layer]:
    """The overrides as layers, in order, each tag before all that is said until it is set anew.

    What is said before a tag, in whatever order, is said to the variant that it chooses.
    """
    groups: list[list[dict[str, Any]]] = [[{}]]
    for key, value in pairs:
        nested = value
        for part in reversed(_path(key, known)):
            nested = {part: nested}
        tags = {
            section: {tag.variants.tag: nested[section][tag.variants.tag]}
            for section, tag in tagged_sections().items()
            if isinstance(nested.get(section), dict) and tag.variants.tag in nested[section]
        }
        if tags.keys() & groups[-1][0].keys():
            groups.append([{}])
        groups[-1][0] |= tags
        groups[-1].append(nested)
    return [_Layer(COMMAND_LINE, "command line", values) for group in groups for values in group]


def _path(key: str, known: Mapping[str, Any]) -> list[str]:
    """The parts of a dotted key; a free name below a leaf is one part, whatever its dots."""
    for leaf, annotation in known.items():
        if get_origin(annotation) is dict and key.startswith(f"{leaf}."):
            return [*leaf.split("."), key.removeprefix(f"{leaf}.")]
    # An unknown key stays whole, for the error to name it whole.
    return key.split(".") if key in known else [key]


def _tag_of(key: str) -> str | None:
    """The tag that decides which keys there are beside a dotted key."""
    section = key.partition(".")[0]
    tagged = tagged_sections().get(section)
    return f"{section}.{tagged.variants.tag}" if tagged else None


def _lay(below: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`below` with a layer over it; of a section whose tag changes, what both variants share."""
    below = dict(below)
    for section, tagged in tagged_sections().items():
        values, tag = top.get(section), tagged.variants.tag
        under = below.get(section)
        if not (isinstance(values, dict) and isinstance(under, dict) and tag in values):
            continue
        names = [one.get(tag, tagged.default) for one in (under, values)]
        if all(name in tagged.variants.names() for name in names):
            old, new = map(tagged.variants.settings, names)
            below[section] = {
                key: value
                for key, value in under.items()
                if _declares(old, key) in (None, _declares(new, key))
            }
    return _merge(below, top)


def _declares(section: type[BaseModel], key: str) -> type | None:
    """The class that declares a key of a section; a key means the same to all that inherit it."""
    return next((c for c in section.__mro__ if key in inspect.get_annotations(c)), None)


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """`base` with `top` laid over it: mappings merge, everything else replaces."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merge(below, value)
        merged[key] = value
    return merged


def _validate(
    values: dict[str, Any],
    sources: Mapping[str, str],
    judged: Collection[str],
    known: Mapping[str, Any],
) -> RunConfig:
    """The config, or one line for each key that the schema refuses.

    A key of another variant than the tag chooses is refused where it is judged, and left out where
    it was inherited.
    """
    said: dict[str, str] = {}
    values, tags = dict(values), {}
    for section, tagged in tagged_sections().items():
        under = values.get(section)
        name = under.get(tagged.variants.tag, tagged.default) if isinstance(under, dict) else None
        if name in tagged.variants.names():
            tags[section] = name
        elif isinstance(under, dict):
            said[f"{section}.{tagged.variants.tag}"] = _unknown_tag(section, name)
            del values[section]
    there = known_keys(tags)
    for key in leaf_keys(values, known):
        section, _, rest = key.partition(".")
        if key in known and key not in there and rest:
            if key in judged:
                said[key] = _of_another(key, tags[section])
            values[section] = {k: v for k, v in values[section].items() if k != rest.split(".")[0]}
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as e:
        said |= refusals(e, there, values)
    else:
        if not said:
            return config
    lines = [f"{sources[key]}: {text}" if key in sources else text for key, text in said.items()]
    raise UserError("\n".join(lines))


def _unknown_tag(section: str, name: Any) -> str:
    key, names = _tag_of(section) or section, tagged_sections()[section].variants.names()
    hint = nearest_value(key, name, names) if isinstance(name, str) else ""
    return wrong_value(key, name, Literal[names]) + hint


def _of_another(key: str, name: str) -> str:
    """What is said of a key that only other variants of its section have."""
    belongs = " or ".join(tags_with(key))
    return f"{key}: {name} has no such key; it belongs to {belongs}. Set that or remove the key."
