"""The registry of set losses: how far a predicted set of cells is from a measured one.

A set loss is a pure function of two padded batches of sets and their masks. It returns one value a
set, unreduced; masks, weights and devices are dealt with where the batch is reduced. It computes in
float32, or in float64 where its inputs are, whatever the compute dtype of the model.

Every loss keeps three promises, which the tests hold it to:

- places whose mask is False change nothing, neither value nor gradient, whatever they hold;
- a set with no valid predicted or no valid target cell gives exactly 0 and gradients of exactly 0;
- gradients are finite, also where cells coincide.

To add a loss, write one new file in this folder and edit no other::

    @register_loss("mine")
    @dataclass(frozen=True, kw_only=True)
    class Mine:
        power: float = 1.0

        def __post_init__(self) -> None: ...  # UserError for an option out of range

        def __call__(self, predicted, target, predicted_mask, target_mask) -> SetLossValue: ...

The fields are the loss's options (a function that returns the loss will do as well: its keyword
arguments are). `make_loss` finds the file by itself.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax

from wound_jax.arrays import CellFeatures, CellMask, PerSet, TargetFeatures, TargetMask
from wound_jax.errors import unknown_name


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SetLossValue:
    """What a set loss returns; a pytree.

    Attributes:
        value: the loss of each set.
        diagnostics: figures of each set worth logging, by name; no gradient is taken of them.
    """

    value: PerSet
    diagnostics: dict[str, PerSet] = field(default_factory=dict)


@runtime_checkable
class SetLoss(Protocol):
    """The signature all set losses share."""

    def __call__(
        self,
        predicted: CellFeatures,
        target: TargetFeatures,
        predicted_mask: CellMask,
        target_mask: TargetMask,
    ) -> SetLossValue:
        """The loss of each set; see the module's promises."""
        ...


Factory = TypeVar("Factory", bound=Callable[..., SetLoss])
_factories: dict[str, Callable[..., SetLoss]] = {}


def register_loss(name: str) -> Callable[[Factory], Factory]:
    """Decorator: makes a class or factory of set losses known to `make_loss` under `name`.

    Raises:
        ValueError: the name is taken.
    """

    def register(factory: Factory) -> Factory:
        if name in _factories:
            raise ValueError(f"a loss named {name!r} is registered already")
        _factories[name] = factory
        return factory

    return register


def loss_names() -> tuple[str, ...]:
    """The names of all losses, sorted."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(sorted(_factories))


def loss_options(name: str) -> tuple[str, ...]:
    """The names of the options that the loss `name` takes.

    Raises:
        UserError: there is no such loss.
    """
    if name not in loss_names():
        raise unknown_name("loss", name, loss_names())
    return tuple(inspect.signature(_factories[name]).parameters)


def make_loss(name: str, **options: Any) -> SetLoss:
    """Builds the loss `name`.

    Args:
        name: a registered name ("energy", "sinkhorn", "combined", "mse").
        **options: what the loss's factory takes; what is left out has the factory's default.

    Raises:
        UserError: no such loss, no such option, or an option out of range.
    """
    known = loss_options(name)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of the loss {name!r}", option, known)
    return _factories[name](**options)
