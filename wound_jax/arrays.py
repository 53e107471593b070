"""The axes of every array, named once.

`sets` are independent; `cells` is the place of a control (and so of a predicted) cell inside its
set, `targets` that of a measured treated cell. A set shorter than the array is padded, and its
mask, never a value, says which places are real.
"""

import dataclasses
from typing import Any, TypeVar

import jax
from jaxtyping import Array, Bool, Float, Shaped

# A NumPy array before it is placed on a device, a jax.Array afterwards, a NumPy array again once it
# is fetched. Batches, states and results are each in turn, so their fields take either; jaxtyping
# still checks shape and dtype.
HostOrDevice = Any

CellFeatures = Float[Array, "sets cells dims"]
TargetFeatures = Float[Array, "sets targets dims"]
CellGenes = Float[Array, "sets cells genes"]
CellHidden = Float[Array, "sets cells hidden"]
CellMask = Bool[Array, "sets cells"]
TargetMask = Bool[Array, "sets targets"]
PerSet = Float[Array, "sets"]
Scalar = Float[Array, ""]

# Parameters as a flat mapping from a dotted path to an array: the form in which they are
# partitioned, counted, checkpointed and compared.
Parameters = dict[str, Shaped[HostOrDevice, "..."]]

_Dataclass = TypeVar("_Dataclass", bound=type)


def pytree(cls: _Dataclass) -> _Dataclass:
    """A dataclass as a pytree; fields with the metadata `static` are no arrays.

    JAX rebuilds a tree around whatever takes the place of its arrays: batches with one more axis,
    shardings, placeholders. So the constructor, and what its annotations say, is for those who
    make one, and a tree is rebuilt without it.
    """
    fields = dataclasses.fields(cls)
    meta = [field.name for field in fields if field.metadata.get("static", False)]
    data = [field.name for field in fields if field.name not in meta]

    def flatten(tree):
        return [getattr(tree, name) for name in data], tuple(getattr(tree, name) for name in meta)

    def flatten_with_keys(tree):
        leaves, fixed = flatten(tree)
        keys = (jax.tree_util.GetAttrKey(name) for name in data)
        return list(zip(keys, leaves, strict=True)), fixed

    def unflatten(fixed, leaves):
        tree = object.__new__(cls)
        for names, values in ((data, leaves), (meta, fixed)):
            for name, value in zip(names, values, strict=True):
                object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
