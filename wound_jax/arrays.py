"""The axes of every array, named once.

`sets` are independent; `cells` is the place of a control (and so of a predicted) cell inside its
set, `targets` that of a measured treated cell. A set shorter than the array is padded, and its
mask, never a value, says which places are real.
"""

from typing import Any

from jaxtyping import Array, Bool, Float

# A NumPy array before it is placed on a device, a jax.Array afterwards. Batches are both in turn,
# so their fields take either; jaxtyping still checks shape and dtype.
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
Parameters = dict[str, Array]
