"""Registries: the parts of a kind by name, and the settings that a part brings.

    METRICS = Registry[Metric]("metric", package="wound_jax.evaluation.metrics")
    LOSSES = Variants[LossSettings]("loss", tag="name", method="__call__")

A part is made known by a decorator, in this package or in a user's own module (a plug-in), and is
found by its name. Where a part has settings it is a class whose fields are the section of the
config: the section's tag (`loss.name`) chooses the class, and a key that the class does not have
cannot be written. A config is read without any numerical library, so a built-in part is in two
steps: its settings in a light file (`declare`), and the class that builds on them and computes, in
a module that is imported when the part is used (`register`).
"""

import importlib
import pkgutil
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, model_validator
from pydantic_core import CoreSchema, core_schema

from wound_jax.errors import unknown_name

# Characters without a shape: zero-width ones, soft hyphen, marks of direction, byte order mark.
SHAPELESS = frozenset(
    "\N{SOFT HYPHEN}\N{ARABIC LETTER MARK}\N{MONGOLIAN VOWEL SEPARATOR}\N{ZERO WIDTH SPACE}"
    "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}\N{LEFT-TO-RIGHT MARK}\N{RIGHT-TO-LEFT MARK}"
    "\N{LEFT-TO-RIGHT EMBEDDING}\N{RIGHT-TO-LEFT EMBEDDING}\N{POP DIRECTIONAL FORMATTING}"
    "\N{LEFT-TO-RIGHT OVERRIDE}\N{RIGHT-TO-LEFT OVERRIDE}\N{WORD JOINER}"
    "\N{FUNCTION APPLICATION}\N{INVISIBLE TIMES}\N{INVISIBLE SEPARATOR}\N{INVISIBLE PLUS}"
    "\N{LEFT-TO-RIGHT ISOLATE}\N{RIGHT-TO-LEFT ISOLATE}\N{FIRST STRONG ISOLATE}"
    "\N{POP DIRECTIONAL ISOLATE}\N{ZERO WIDTH NO-BREAK SPACE}\x00"
)


def as_read(text: str) -> str:
    """A label as it is compared: in NFC, without blanks and shapeless characters at its ends."""
    text = unicodedata.normalize("NFC", text)
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while end > start and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_blank(letter: str) -> bool:
    return letter.isspace() or letter in SHAPELESS


def _as_names(value: object) -> object:
    """A list of labels as strings: YAML reads the donor label 101 as a number."""
    if isinstance(value, list | tuple):
        return tuple(str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in value)
    return value


def _as_label(value: object) -> object:
    return as_read(value) if isinstance(value, str) else value


def _as_labels(value: object) -> object:
    """Labels of a file as they are read there; a number is the text that it is there."""
    if not isinstance(value, list | tuple):
        return value
    return tuple(_as_label(str(v) if type(v) in (int, float) else v) for v in value)


# Keys that name labels of a file.
Label = Annotated[str, BeforeValidator(_as_label)]
Labels = Annotated[tuple[str, ...], BeforeValidator(_as_labels)]
# YAML has lists only; a tuple keeps the config immutable.
Names = Annotated[tuple[str, ...], BeforeValidator(_as_names)]
Widths = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False)]
Indices = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Strict(False)]
# scikit-learn takes no other seed, and jax keeps 32 bits of one.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]

Part = TypeVar("Part")
Given = TypeVar("Given")


class Registry(Generic[Part]):
    """The parts of one kind by name, in the order in which they were registered.

    Args:
        kind: what a part is, in words: "metric".
        package: whose modules, all of them, register the built-in parts; they are imported when
            the parts are first asked for, so that a new one is a new file and no other change.
    """

    def __init__(self, kind: str, package: str | None = None):
        self.kind = kind
        self._package = package
        self._parts: dict[str, Part] = {}
        self._modules: dict[str, str] = {}

    def register(self, name: str) -> Callable[[Given], Given]:
        """Decorator: makes a class or function known under `name`.

        Raises:
            ValueError: the name is taken.
        """

        def register_part(part: Given) -> Given:
            self.add(name, part, part.__module__)
            return part

        return register_part

    def add(self, name: str, part: Any, module: str) -> None:
        """Makes a part known that is registered from `module`; the name must be free."""
        if name in self._parts:
            raise ValueError(
                f"a {self.kind} named {name!r} is registered already, by {self._modules[name]}"
            )
        self._parts[name], self._modules[name] = part, module

    def names(self) -> tuple[str, ...]:
        """The names of all parts."""
        self._discover()
        return tuple(self._parts)

    def get(self, name: str) -> Part:
        """The part of that name.

        Raises:
            UserError: there is none; the message names the nearest.
        """
        self.require(name)
        return self._parts[name]

    def items(self) -> tuple[tuple[str, Part], ...]:
        """Name and part, of all parts."""
        return tuple((name, self.get(name)) for name in self.names())

    def module_of(self, name: str) -> str:
        """The module that registers the part of that name."""
        self.require(name)
        return self._modules[name]

    def require(self, name: str) -> None:
        """Refuses a name that no part has, with the nearest ones."""
        if name not in self.names():
            raise unknown_name(self.kind, name, self.names())

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _discover(self) -> None:
        """Imports the package's modules, once; while they are imported, what is there counts."""
        if self._package is None:
            return
        package, self._package = self._package, None
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")


class Section(BaseModel):
    """A part of the config: frozen, strict, and closed to unknown keys.

    A section with a key `enable` acts while that is true; a single key may act only while a key
    beside it has a certain value (`ActsWith`). Contradictions within a section are what `problems`
    says; those between sections are in `wound_jax.config.rules`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def problems(self) -> Iterator[str]:
        """What no run can satisfy, one line each, with the way out."""
        return iter(())

    @model_validator(mode="after")
    def _without_problems(self) -> "Section":
        found = list(self.problems())
        if found:
            raise ValueError("\n".join(found))
        return self


@dataclass(frozen=True)
class ActsWith:
    """The annotation of a key that has an effect only with certain values of a key beside it.

    Where there is no such key beside it, it has one.

    Attributes:
        key: the other one, of the same section.
        values: those that give it an effect.
    """

    key: str
    values: tuple[Any, ...]


class Variant(Section):
    """A section whose class is chosen by a tag in it; subclassed for each kind of part.

    A subclass declares the tag (`name: str = ""`) first and then the keys that all parts of the
    kind share; a registered class has its own name there unless it is given.
    """

    tagged: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _with_tag(cls, values: Any) -> Any:
        return {**cls.tagged, **values} if isinstance(values, dict) else values


Settings = TypeVar("Settings", bound=Variant)
SettingsClass = TypeVar("SettingsClass", bound=type[Variant])


class Variants(Registry[type[Settings]], Generic[Settings]):
    """Parts that bring a section of the config: a class each, whose fields are the keys.

    Args:
        kind: what a part is, in words: "loss".
        base: the section that all parts share.
        tag: the key in it that names the part.
        method: what a part has to define beside its settings.
    """

    def __init__(self, kind: str, base: type[Settings], *, tag: str, method: str):
        super().__init__(kind)
        self.base, self.tag = base, tag
        self._method = method
        self._settings: dict[str, type[Settings]] = {}

    def declare(self, name: str, module: str) -> Callable[[SettingsClass], SettingsClass]:
        """Decorator: the settings of a built-in part, which `module` registers when imported."""

        def declare_settings(settings: SettingsClass) -> SettingsClass:
            settings.tagged = {self.tag: name}
            self._settings[name] = settings  # type: ignore[assignment]
            self._modules[name] = module
            return settings

        return declare_settings

    def add(self, name: str, part: Any, module: str) -> None:
        """Makes a part known; see `Registry.add`.

        Raises:
            ValueError: the name is taken.
            TypeError: the part is no class with the section's base and the kind's method.
        """
        if not (isinstance(part, type) and issubclass(part, self.base)):
            raise TypeError(
                f"the {self.kind} {name!r} is {part!r}, expected a class that builds on "
                f"{self.base.__name__}: its fields are the settings"
            )
        if not callable(getattr(part, self._method, None)):
            raise TypeError(f"the {self.kind} {name!r} has no method {self._method}")
        if self._modules.get(name, module) != module:
            raise ValueError(
                f"a {self.kind} named {name!r} is registered already, by {self._modules[name]}"
            )
        super().add(name, part, module)
        part.tagged = {self.tag: name}
        self._settings.setdefault(name, part)

    def names(self) -> tuple[str, ...]:
        """The names of all parts, without an import of what they compute with."""
        return tuple(self._settings)

    def settings(self, name: str) -> type[Settings]:
        """The section of the part of that name: one class, whether it was imported yet or not.

        Raises:
            UserError: there is no such part.
        """
        self.require(name)
        return self._settings[name]

    def get(self, name: str) -> type[Settings]:
        """The part of that name, complete: a class that computes with its settings."""
        self.require(name)
        if name not in self._parts:
            importlib.import_module(self._modules[name])
        return self._parts[name]

    def build(self, settings: Settings) -> Settings:
        """The part with these settings, ready to compute."""
        part = self.get(getattr(settings, self.tag))
        if isinstance(settings, part):
            return settings
        # Validated when they were read.
        return part.model_construct(**dict(settings))


@dataclass(frozen=True)
class Tagged:
    """The annotation of a section whose class its tag chooses among the variants of a kind.

    The variants are looked up when a config is read, since plug-ins add to them.

    Attributes:
        variants: to choose from.
        default: the tag where none is given.
    """

    variants: Variants[Any]
    default: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validated)

    def _validated(self, value: Any) -> Variant:
        if isinstance(value, self.variants.base) or not isinstance(value, dict):
            return self.variants.base.model_validate(value)
        return self.chosen(value).model_validate(value)

    def chosen(self, values: dict[str, Any]) -> type[Variant]:
        """The variant that a section's values are of."""
        return self.variants.settings(values.get(self.variants.tag, self.default))
