"""How the sublayers of a backbone are joined: plainly, by mHC streams, or by mixing features.

    plain      x <- x + F(x)
    streams    X <- H_res X + H_post^T F(H_pre X), expanded once at entry, averaged once at exit
    features   the originating project's form, on one stream (legacy, `mhc.features`)

A backbone knows only `enter`, `connect` and `leave`. Layers outside `layer_indices` keep the plain
residual.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wound_jax.arrays import CellHidden, CellMask, Scalar
from wound_jax.models.mhc import (
    HyperConnection,
    HyperConnectionConfig,
    PlainStreams,
    expand_streams,
    reduce_streams,
)
from wound_jax.models.mhc.diagnostics import composite_gains, stream_spread
from wound_jax.models.mhc.features import FeatureMixing
from wound_jax.models.settings import MhcSettings

Branch = Callable[[CellHidden], CellHidden]
Maps = list[Float[Array, "#sets #cells streams streams"]]

SUBLAYERS_PER_LAYER = 2


class PlainResidual(nnx.Module):
    """One stream, each branch added to it."""

    def enter(self, x: CellHidden) -> CellHidden:
        """The stream itself."""
        return x

    def connect(self, index: int, stream: CellHidden, branch: Branch, maps: Maps) -> CellHidden:
        """Adds the branch of sublayer `index`."""
        return stream + branch(stream)

    def leave(self, stream: CellHidden) -> CellHidden:
        """The stream itself."""
        return stream

    def diagnostics(self, stream: CellHidden, maps: Maps, mask: CellMask) -> dict[str, Scalar]:
        """There is nothing to watch."""
        return {}


class StreamResidual(nnx.Module):
    """Several streams joined by manifold-constrained hyper-connections."""

    def __init__(self, config: MhcSettings, hidden: int, layers: int, *, rngs: nnx.Rngs):
        shape = HyperConnectionConfig(
            streams=config.streams,
            h_res=config.h_res,
            iterations=config.sinkhorn_iters,
            residual_logit=config.residual_logit,
            remat=config.remat,
        )
        self.streams = config.streams
        self.connections = nnx.List(
            [
                HyperConnection(hidden, shape, index, rngs=rngs) if active else PlainStreams()
                for index, active in enumerate(_active(config, layers))
            ]
        )

    def enter(self, x: CellHidden) -> Float[Array, "sets cells streams hidden"]:
        """Copies the input into every stream."""
        return expand_streams(x, self.streams)

    def connect(self, index: int, stream: Any, branch: Branch, maps: Maps) -> Any:
        """Passes the streams over sublayer `index` and notes its mixing."""
        stream, hyper = self.connections[index](stream, branch)
        maps.append(hyper.h_res)
        return stream

    def leave(self, stream: Float[Array, "sets cells streams hidden"]) -> CellHidden:
        """The mean of the streams."""
        return reduce_streams(stream)

    def diagnostics(self, stream: Any, maps: Maps, mask: CellMask) -> dict[str, Scalar]:
        """Gains of the composite mixing and the spread of the streams at the exit."""
        return composite_gains(maps, mask) | {"stream_spread": stream_spread(stream, mask)}


class FeatureResidual(nnx.Module):
    """One stream whose features are mixed; legacy."""

    def __init__(self, config: MhcSettings, hidden: int, layers: int, *, rngs: nnx.Rngs):
        self.connections = nnx.List(
            [
                FeatureMixing(hidden, config.sinkhorn_iters, rngs=rngs) if active else None
                for active in _active(config, layers)
            ]
        )

    def enter(self, x: CellHidden) -> CellHidden:
        """The stream itself."""
        return x

    def connect(self, index: int, stream: CellHidden, branch: Branch, maps: Maps) -> CellHidden:
        """Mixes the features of the stream and adds the branch of sublayer `index`."""
        connection = self.connections[index]
        if connection is None:
            return stream + branch(stream)
        stream, feature = connection(stream, branch)
        maps.append(feature.h_res)
        return stream

    def leave(self, stream: CellHidden) -> CellHidden:
        """The stream itself."""
        return stream

    def diagnostics(self, stream: CellHidden, maps: Maps, mask: CellMask) -> dict[str, Scalar]:
        """Gains of the composite mixing of the features."""
        return composite_gains(maps, mask)


Residual = PlainResidual | StreamResidual | FeatureResidual


def make_residual(config: MhcSettings, hidden: int, layers: int, *, rngs: nnx.Rngs) -> Residual:
    """The residual of a backbone with `layers` layers of two sublayers each."""
    if not config.enable or not any(_active(config, layers)):
        return PlainResidual()
    kind = StreamResidual if config.mixing == "streams" else FeatureResidual
    return kind(config, hidden, layers, rngs=rngs)


def watch(residual: Residual, stream: Any, maps: Maps, mask: CellMask) -> dict[str, Scalar]:
    """The residual's figures for the log, without a gradient."""
    figures = residual.diagnostics(stream, maps, mask)
    return {f"mhc/{name}": jax.lax.stop_gradient(jnp.asarray(v)) for name, v in figures.items()}


def _active(config: MhcSettings, layers: int) -> list[bool]:
    """For each sublayer whether mHC joins it."""
    chosen = range(layers) if config.layer_indices is None else config.layer_indices
    return [layer in chosen for layer in range(layers) for _ in range(SUBLAYERS_PER_LAYER)]
