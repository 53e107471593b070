"""The keys of a config: which there are, what each accepts, and which one was meant.

A dotted key (`model.lora.r`) stands for a value; sections are keys too. Which keys there are
depends on the tags of a config, since each variant of a section has its own.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from functools import reduce
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from wound_jax.config.schema import RunConfig, tagged_sections
from wound_jax.config.text import inline
from wound_jax.registry import Section, Variants

# Old names: of keys, and of values (`key=value`).
RENAMED = {
    "data.animal_col": "data.replicate_col",
    "data.residency": "data.location",
    "prediction.regress_controls": "prediction.shrink_controls",
    "prediction.count_zeros": "prediction.round_to_counts",
    "split.kind=animal": "replicate",
    "data.match_on=animal": "replicate",
    "leave_out=animal": "replicate",
}


# Where the cells of a run are now. They have to be the same cells, which their fingerprint tells.
MOVED = ("data.path", "data.location")


def leaves(config: Section, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a config with its value, in the order of the schema.

    `data.exclude` is one leaf; the obs columns below it are free.
    """
    found: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        below = leaves(value, f"{prefix}{name}.") if isinstance(value, Section) else None
        found.update({f"{prefix}{name}": value} if below is None else below)
    return found


def value_at(config: RunConfig, key: str) -> Any:
    """The value of a dotted key."""
    return reduce(getattr, key.split("."), config)


def keys_of(section: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every dotted key of a section's class, sections before what they hold, with its annotation.

    A tagged section inside is left to `known_keys`.
    """
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        found[f"{prefix}{name}"] = kind = field.rebuild_annotation()
        if is_section(kind):
            found.update(keys_of(kind, f"{prefix}{name}."))
    return found


def known_keys(tags: Mapping[str, str]) -> dict[str, Any]:
    """Every dotted key of a config with these tags, with its annotation.

    Args:
        tags: section -> tag; sections that are not named have their default.
    """
    found: dict[str, Any] = {}
    sections = tagged_sections()
    for key, kind in keys_of(RunConfig).items():
        found[key] = kind
        if key in sections:
            variants = sections[key].variants
            found[key] = chosen = variants.settings(tags.get(key, sections[key].default))
            found |= keys_of(chosen, f"{key}.")
            found[f"{key}.{variants.tag}"] = Literal[variants.names()]
    return found


def schema_keys() -> dict[str, Any]:
    """Every leaf key that a config can have, whatever its tags, with its annotation."""
    return {key: kind for key, kind in all_keys().items() if not is_section(kind)}


def all_keys() -> dict[str, Any]:
    """Every key, sections included, that a config can have, whatever its tags."""
    found = known_keys({})
    for section, tagged in tagged_sections().items():
        for name in tagged.variants.names():
            for key, kind in keys_of(tagged.variants.settings(name), f"{section}.").items():
                found.setdefault(key, kind)
    return found


def tags_with(key: str) -> list[str]:
    """The settings that give a config a key of a variant: `model.backbone=llama`."""
    section = key.partition(".")[0]
    tagged = tagged_sections().get(section)
    if tagged is None:
        return []
    variants: Variants[Any] = tagged.variants
    return [
        f"{section}.{variants.tag}={name}"
        for name in variants.names()
        if key in keys_of(variants.settings(name), f"{section}.")
    ]


def is_section(kind: Any) -> bool:
    """Whether an annotation is that of a section."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def leaf_keys(values: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator:
    """The dotted leaf keys that are set in nested values; a name with dots is no section."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if "." not in name and is_section(known.get(key)) and isinstance(value, Mapping):
            yield from leaf_keys(value, known, f"{key}.")
        else:
            yield key


def unknown_key(key: str, known: Collection[str], sections: Collection[str]) -> str:
    """What is said of a key that a config does not have: the new name, or the nearest."""
    if key in RENAMED:
        return f"unknown config key {key!r}. It is called {RENAMED[key]!r} now."
    if key in known:
        return f"the key {key!r} is written with dots: in a file, nest it."
    scores = {name: _likeness(key, name) for name in known}
    least = max(0.6, max(scores.values()) - 0.1)
    near = sorted((n for n in scores if scores[n] >= least), key=lambda name: -scores[name])
    if near:
        guess = " or ".join(repr(name) for name in near[:3])
        return f"unknown config key {key!r}. Did you mean {guess}?"
    section = key.rpartition(".")[0]
    while section and section not in sections:
        section = section.rpartition(".")[0]
    siblings = [name for name in scores if name.rpartition(".")[0] == section]
    return f"unknown config key {key!r}. Known there: {', '.join(siblings)}."


def _likeness(given: str, name: str) -> float:
    """How near two dotted keys are, 0 to 1: mostly their last part, a little the section."""
    (given_section, _, given_leaf), (section, _, leaf) = given.rpartition("."), name.rpartition(".")
    of_leaf = difflib.SequenceMatcher(None, given_leaf, leaf).ratio()
    return 0.8 * of_leaf + 0.2 * difflib.SequenceMatcher(None, given_section, section).ratio()


def refusals(
    error: ValidationError, known: Mapping[str, Any], values: Mapping[str, Any]
) -> dict[str, str]:
    """What a section's classes refuse: dotted key -> what is said of it.

    Args:
        error: of validation.
        known: dotted key -> annotation, sections included.
        values: what was validated, nested.
    """
    of_key: dict[str, list[Any]] = {}
    for one in error.errors(include_url=False):
        of_key.setdefault(_dotted(one["loc"], known), []).append(one)
    sections = [key for key in known if is_section(known[key])]
    said: dict[str, str] = {}
    for key, errors in of_key.items():
        if errors[0]["type"] == "extra_forbidden":
            said[key] = unknown_key(key, known, sections)
        elif errors[0]["type"] == "value_error":
            # What `Section.problems` says, which names its keys itself.
            said[key] = str(errors[0]["ctx"]["error"])
        else:
            said[key] = wrong_value(key, _given(key, values), known[key], errors)
    return said


def _given(key: str, values: Any) -> Any:
    return reduce(lambda mapping, part: mapping[part], key.split("."), values)


def _dotted(loc: tuple[int | str, ...], known: Mapping[str, Any]) -> str:
    """The dotted key of a pydantic location, without what lies inside a leaf."""
    key = str(loc[0]) if loc else ""
    for part in loc[1:]:
        if not is_section(known.get(key)):
            break
        key = f"{key}.{part}"
    return key


def wrong_value(key: str, given: Any, kind: Any, errors: Collection[Any] = ()) -> str:
    """What is said of a value that its key does not accept."""
    hint = ""
    for error in errors:
        got = error["input"]
        if error["type"] == "string_type" and isinstance(got, bool | int | float):
            hint = (
                " Text that reads as a number or a truth value needs quotes: "
                f"""'{inline(got)}', on a command line "'{inline(got)}'"."""
            )
        elif error["type"] == "literal_error" and isinstance(got, str):
            hint = nearest_value(key, got, re.findall(r"'([^']*)'", error["ctx"]["expected"]))
    return f"{key}: got {inline(given)}, expected {expected(kind)}.{hint}"


def nearest_value(key: str, given: str, options: Collection[str]) -> str:
    """The option that was meant, as a further sentence; empty where none is near."""
    near = difflib.get_close_matches(given, options, n=1, cutoff=0.5)
    meant = RENAMED.get(f"{key}={given}") or (near[0] if near else None)
    return f" Did you mean {meant!r}?" if meant else ""


_PLAIN = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _bound(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def expected(kind: Any) -> str:
    """What an annotation of the schema accepts, in words: "null or an integer >= 1"."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        metas = [m for meta in args[1:] for m in getattr(meta, "metadata", [meta])]
        bounds = [
            f"{_SIGNS[n]} {_bound(getattr(m, n))}" for m in metas for n in _SIGNS if hasattr(m, n)
        ]
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
    if is_section(kind):
        return f"a section with the keys {', '.join(kind.model_fields)}"
    return "null" if kind is NoneType else _PLAIN.get(kind, str(kind))
