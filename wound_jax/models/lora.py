"""Low-rank adapters (LoRA, arXiv 2106.09685): `y = W x + s * B(A(dropout(x)))`.

`s = alpha / r`, or `alpha / sqrt(r)` with `rslora` (arXiv 2312.03732). A starts uniform as PEFT
does, B at zero, so that an adapted model starts equal to its base. `flax.nnx.LoRA` has neither the
scaling nor the dropout, hence a layer of our own. Adapters are attached after a backbone is built:
no backbone knows of them.
"""

from collections.abc import Iterable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wound_jax.errors import unknown_name
from wound_jax.models.dropout import dropout
from wound_jax.models.layers import as_rows, uniform_fan_in
from wound_jax.models.products import narrow_product, product
from wound_jax.models.settings import LoraSettings


class LoraLinear(nnx.Module):
    """A linear map and its low-rank adapter: `[..., fan_in] -> [..., fan_out]`."""

    def __init__(self, base: nnx.Linear, config: LoraSettings, *, rngs: nnx.Rngs):
        self.base = base
        init = uniform_fan_in(base.in_features)
        self.lora_a = nnx.Param(init(rngs.params(), (base.in_features, config.r)))
        self.lora_b = nnx.Param(jnp.zeros((config.r, base.out_features)))
        self.scale = config.alpha / (config.r**0.5 if config.rslora else config.r)
        self.dropout = config.dropout

    def __call__(
        self, x: Float[Array, "... fan_in"], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "... fan_out"]:
        """Base plus adapter; `rngs` switches the adapter's dropout on."""
        thinned = as_rows(dropout(x, self.dropout, rngs))
        # Scaled where it is narrow.
        low = self.scale * narrow_product(thinned, self.lora_a[...].astype(x.dtype))
        base = self.base(x)
        return base + product(low, self.lora_b[...]).reshape(base.shape)

    def merged(self) -> nnx.Linear:
        """The plain linear map `W + s A B`, summed in float32, that computes the same."""
        graphdef, state = nnx.split(self.base)
        plain = nnx.merge(graphdef, state)
        delta = self.lora_a[...].astype(jnp.float32) @ self.lora_b[...].astype(jnp.float32)
        plain.kernel = nnx.Param(self.base.kernel[...] + self.scale * delta)
        return plain


def project(layer: nnx.Linear | LoraLinear, x: Array, rngs: nnx.Rngs | None) -> Array:
    """Applies a projection that may or may not carry an adapter."""
    return layer(x, rngs) if isinstance(layer, LoraLinear) else layer(x)


def attach_adapters(
    module: nnx.Module, targets: Iterable[str], config: LoraSettings, *, rngs: nnx.Rngs
) -> list[str]:
    """Replaces each linear map inside `module` whose name is a target by its adapted form.

    Args:
        module: a backbone; changed in place.
        targets: names of projections ("c_attn", "q_proj"), matched by their last part as in PEFT.
        config: rank, scaling and dropout.
        rngs: source of the initial values of A.

    Returns:
        The dotted paths of the adapted projections.

    Raises:
        UserError: a target matches no projection.
    """
    wanted = tuple(targets)
    linears = [
        (path, parent, name)
        for path, parent, name, layer in _named_children(module)
        if isinstance(layer, nnx.Linear)
    ]
    for target in wanted:
        if target not in {name for _, _, name in linears}:
            raise unknown_name("LoRA target", target, {name for _, _, name in linears})
    adapted = [(path, parent, name) for path, parent, name in linears if name in wanted]
    for _, parent, name in adapted:
        setattr(parent, name, LoraLinear(getattr(parent, name), config, rngs=rngs))
    return [path for path, _, _ in adapted]


def merge_adapters(module: nnx.Module) -> None:
    """Folds every adapter inside `module` into its base, in place: the form for inference."""
    for _, parent, name, layer in list(_named_children(module)):
        if isinstance(layer, LoraLinear):
            setattr(parent, name, layer.merged())


def _named_children(module: nnx.Module) -> Iterable[tuple[str, nnx.Module, str, nnx.Module]]:
    """All (dotted path, parent, attribute name, child) inside `module`, in a fixed order."""
    modules = dict(nnx.iter_modules(module))
    for path, node in sorted(modules.items(), key=lambda item: [str(part) for part in item[0]]):
        if path and path[:-1] in modules:
            yield ".".join(map(str, path)), modules[path[:-1]], str(path[-1]), node
