"""Manifold-constrained hyper-connections (mHC, arXiv 2512.24880) around the sublayers of a network.

A token carries `n` residual streams `X` [n, hidden] instead of one. Around every sublayer `F`
(attention or MLP, each with its own pre-norm)

    X' = H_res @ X + H_post^T F(H_pre @ X),        H_res doubly stochastic,

so that a stack of any depth neither amplifies nor loses the mean of the streams. A backbone copies
its hidden state into the streams once at entry (`expand_streams`), puts one connection around each
sublayer (`HyperConnection`, or `PlainStreams` where a layer goes without), and takes the mean of
the streams once at exit (`reduce_streams`).
"""

from wound_jax.models.mhc.hyper_connection import (
    HyperConnection,
    HyperConnectionConfig,
    HyperMaps,
    PlainStreams,
)
from wound_jax.models.mhc.streams import expand_streams, reduce_streams

__all__ = [
    "HyperConnection",
    "HyperConnectionConfig",
    "HyperMaps",
    "PlainStreams",
    "expand_streams",
    "reduce_streams",
]
