"""Set losses: how far a predicted set of cells is from a measured one.

A set loss is a pure function of two padded batches of sets and their masks. It returns one value a
set, unreduced; masks, weights and devices are dealt with where the batch is reduced. It computes in
float32, or in float64 where its inputs are, whatever the compute dtype of the model.

Every loss keeps three promises, which the tests hold it to:

- places whose mask is False change nothing, neither value nor gradient, whatever they hold;
- a set with no valid predicted or no valid target cell gives exactly 0 and gradients of exactly 0;
- gradients are finite, also where cells coincide.

A loss is a class whose fields are its section of the config (README, "How to add")::

    @register_loss("power")
    class Power(LossSettings):
        power: PositiveFloat = 2.0

        def __call__(self, predicted, target, predicted_mask, target_mask) -> SetLossValue: ...
"""

from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

from jaxtyping import Float
from pydantic import ValidationError

from wound_jax.arrays import (
    CellFeatures,
    CellMask,
    HostOrDevice,
    TargetFeatures,
    TargetMask,
    pytree,
)
from wound_jax.config.keys import keys_of, refusals
from wound_jax.errors import UserError, unknown_name
from wound_jax.losses.settings import LOSSES, LossSettings


@pytree
@dataclass(frozen=True)
class SetLossValue:
    """What a set loss returns; a pytree.

    Attributes:
        value: the loss of each set.
        diagnostics: figures of each set worth logging, by name; no gradient is taken of them.
    """

    value: Float[HostOrDevice, "sets"]
    diagnostics: dict[str, Float[HostOrDevice, "sets"]] = field(default_factory=dict)


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


register_loss = LOSSES.register


def build_loss(settings: LossSettings) -> SetLoss:
    """The loss with these settings, ready to compute."""
    return cast(SetLoss, LOSSES.build(settings))


def make_loss(name: str, **options: Any) -> SetLoss:
    """Builds the loss `name`.

    Args:
        name: a registered name ("energy", "sinkhorn", "combined", "mse").
        **options: fields of the loss's settings; what is left out has its default.

    Raises:
        UserError: no such loss, no such option, or an option out of range.
    """
    settings = LOSSES.settings(name)
    known = keys_of(settings)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of the loss {name!r}", option, known.keys() - {LOSSES.tag})
    try:
        return build_loss(settings(**options))
    except ValidationError as e:
        raise UserError("\n".join(refusals(e, known, options).values())) from e
