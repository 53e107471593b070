"""Velocities of genes as velocities of a representation z, and their addition to a file.

    linear   z = (x - mean) W:   dz/dt = V W,  with the same W
    encoder  z = f(x):           dz/dt = J_f(x) V,  a Jacobian-vector product (forward mode)
    log      x = log(1 + s):     dx/dt = V / (1 + s),  for velocities V of counts s
    graph    no known map        `wound_jax.data.velocity.graph.project_graph`

Loadings and encoders are first tried on the expression: a velocity projected by those of another
representation would be in another basis.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import anndata as ad
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from jaxtyping import Array, Float

from wound_jax.data.source import matrix
from wound_jax.data.velocity.contract import CONFIDENCE, GENE_VELOCITY, read_velocity
from wound_jax.data.velocity.graph import (
    SCALE,
    nearest_neighbours,
    neighbour_confidence,
    project_graph,
)
from wound_jax.errors import UserError

Encoder = Callable[[Float[Array, "cells genes"]], Float[Array, "cells dims"]]
Method = Literal["linear", "graph", "encoder"]
# Below this the loadings, or the encoder, are those of some other representation.
_SAME_BASIS = 0.9
_CHECKED_CELLS = 2_000


@dataclass(frozen=True)
class ProjectionOptions:
    """How velocities of genes are brought into the basis of a representation.

    Attributes:
        rep: obsm key of the representation.
        method: by its loadings, over a graph of neighbours in it, or by the encoder that made it.
        n_neighbours: of each cell, found in the representation; for the graph and confidences.
        loadings: linear: varm key of the loadings, which act on X.
        log1p: linear: whether the velocity is of the counts layers["Ms"], and the loadings act on
            their log(1 + x).
        expression: graph, encoder: key of the matrix that velocities are changes of; None takes X,
            for the graph layers["Ms"] if it is there.
        encoder: encoder: MODULE:FUNCTION, a JAX function from expression to the representation.
        scale: graph: sharpness of the transitions.
    """

    rep: str
    method: Method = "linear"
    n_neighbours: int = 30
    loadings: str = "PCs"
    log1p: bool = False
    expression: str | None = None
    encoder: str = ""
    scale: float = SCALE


def add_projection(adata: ad.AnnData, options: ProjectionOptions) -> str:
    """Velocity of a representation from that of genes, added to `adata` in place.

    Written are `obsm["velocity_<rep>"]`, float32 [cells, dims], NaN rows where the velocity is
    unknown, and `obs["velocity_confidence"]` where the file has none.

    Args:
        adata: the cells, with `layers["velocity"]`.
        options: how.

    Returns:
        The way it took, in words.

    Raises:
        UserError: there is no velocity or no representation, or loadings or encoder are missing or
            do not reproduce it.
    """
    representation = np.asarray(matrix(adata, f"obsm/{options.rep}"))
    velocity = gene_velocity(adata)
    if CONFIDENCE not in adata.obs:
        neighbours = nearest_neighbours(representation, options.n_neighbours)
        adata.obs[CONFIDENCE] = neighbour_confidence(velocity, neighbours)
    way = {"linear": _by_loadings, "graph": _by_graph, "encoder": _by_encoder}[options.method]
    projected, how = way(adata, velocity, representation, options)
    adata.obsm[f"velocity_{options.rep}"] = projected
    return how


def gene_velocity(adata: ad.AnnData) -> Float[np.ndarray, "cells genes"]:
    """The velocity of genes in a file: float32 [cells, genes], NaN where unknown.

    Raises:
        UserError: there is none.
    """
    if "velocity" not in adata.layers and {"spliced", "unspliced"} <= set(adata.layers):
        raise UserError(
            "the file has spliced and unspliced counts, but no layers['velocity']; add "
            "--from-spliced to estimate it (needs pip install 'wound_jax[velocity]')."
        )
    found = read_velocity(adata, GENE_VELOCITY, confidence=None)
    return np.where(found.known[:, None] & found.dims, found.velocity, np.nan)


def project_linear(
    velocity: Float[np.ndarray, "cells genes"], loadings: Float[np.ndarray, "genes dims"]
) -> Float[np.ndarray, "cells dims"]:
    """V W, for a representation that is linear in the genes (a PCA, a factor model).

    Args:
        velocity: [cells, genes], change of the expression the loadings act on; NaN entries are
            genes without a velocity and count as 0, a cell of NaN throughout stays unknown.
        loadings: W, [genes, dims], as used for the representation itself.

    Returns:
        float32 [cells, dims]; NaN rows where the velocity is unknown.
    """
    known = ~np.all(np.isnan(velocity), axis=1)
    projected = np.nan_to_num(velocity, nan=0.0) @ np.asarray(loadings, dtype=np.float32)
    return np.where(known[:, None], projected, np.nan).astype(np.float32)


def project_encoder(
    encoder: Encoder,
    expression: Float[np.ndarray, "cells genes"],
    velocity: Float[np.ndarray, "cells genes"],
    *,
    batch_size: int = 256,
) -> Float[np.ndarray, "cells dims"]:
    """J_f(x) v of each cell, for a differentiable encoder f.

    Args:
        encoder: maps [cells, genes] to [cells, dims], each cell by itself.
        expression: x, [cells, genes], in the encoder's own scale.
        velocity: v, [cells, genes], change of x; NaN as in `project_linear`.
        batch_size: cells at once. The last batch is filled up, so that one shape is compiled.

    Returns:
        float32 [cells, dims]; NaN rows where the velocity is unknown.
    """

    @jax.jit
    def push(x: Array, v: Array) -> Array:
        return jax.jvp(encoder, (x,), (v,))[1]

    known = ~np.all(np.isnan(velocity), axis=1)
    parts = []
    for start in range(0, len(expression), batch_size):
        # Positions past the end repeat the last cell and are cut off below.
        rows = np.minimum(np.arange(start, start + batch_size), len(expression) - 1)
        x = jnp.asarray(expression[rows], jnp.float32)
        v = jnp.asarray(np.nan_to_num(velocity[rows], nan=0.0), jnp.float32)
        parts.append(np.asarray(push(x, v), dtype=np.float32))
    projected = np.concatenate(parts)[: len(expression)]
    return np.where(known[:, None], projected, np.float32(np.nan))


def log1p_velocity(
    velocity: Float[np.ndarray, "cells genes"], counts: Float[np.ndarray, "cells genes"]
) -> Float[np.ndarray, "cells genes"]:
    """The velocity of log(1 + s), given that of the normalised counts s: V / (1 + s)."""
    return velocity / (1.0 + counts)


def loadings_agreement(
    expression: Float[np.ndarray, "cells genes"],
    loadings: Float[np.ndarray, "genes dims"],
    representation: Float[np.ndarray, "cells dims"],
) -> float:
    """How well expression times loadings reproduces a representation, up to its centre.

    A velocity is projected by the representation's own W or by something else altogether; this
    tells the two apart. 1 is exact.

    Returns:
        The correlation over all entries of the two matrices, columns centred.
    """
    a = expression @ np.asarray(loadings, dtype=np.float32)
    a = a - a.mean(axis=0)
    b = representation - representation.mean(axis=0)
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def _by_loadings(
    adata: ad.AnnData, velocity: np.ndarray, representation: np.ndarray, options: ProjectionOptions
) -> tuple[Float[np.ndarray, "cells dims"], str]:
    key, rep = options.loadings, options.rep
    if key not in adata.varm:
        raise UserError(
            f"--method linear needs the loadings of {rep} in varm[{key!r}], but "
            f"varm has {', '.join(adata.varm.keys()) or 'nothing'}. Name them by --loadings, or "
            "use --method graph."
        )
    loadings = np.asarray(adata.varm[key])
    if loadings.shape[1] != representation.shape[1]:
        raise UserError(
            f"varm[{key!r}] has {loadings.shape[1]} columns and obsm[{rep!r}] has "
            f"{representation.shape[1]}; they do not belong together."
        )
    rows = slice(0, _CHECKED_CELLS)
    agreement = loadings_agreement(_dense(adata, "X", rows), loadings, representation[rows])
    if agreement < _SAME_BASIS:
        raise UserError(
            f"X times varm[{key!r}] does not reproduce obsm[{rep!r}] (correlation "
            f"{agreement:.2f}); a velocity projected by them would be in another basis. Put the "
            "matrix they were fitted on into X, or use --method graph."
        )
    if options.log1p:
        velocity = log1p_velocity(velocity, _dense(adata, "layers/Ms"))
    return project_linear(velocity, loadings), "linear"


def _by_graph(
    adata: ad.AnnData, velocity: np.ndarray, representation: np.ndarray, options: ProjectionOptions
) -> tuple[Float[np.ndarray, "cells dims"], str]:
    key = options.expression or ("layers/Ms" if "Ms" in adata.layers else "X")
    neighbours = nearest_neighbours(representation, options.n_neighbours)
    expression = _dense(adata, key)
    moved = project_graph(velocity, expression, representation, neighbours, scale=options.scale)
    return moved, f"graph: displacements in {key}, {options.n_neighbours} neighbours"


def _by_encoder(
    adata: ad.AnnData, velocity: np.ndarray, representation: np.ndarray, options: ProjectionOptions
) -> tuple[Float[np.ndarray, "cells dims"], str]:
    encoder, values = _load_encoder(options.encoder), _dense(adata, options.expression or "X")
    encoded = np.asarray(encoder(jnp.asarray(values[:_CHECKED_CELLS])))
    expected = representation[:_CHECKED_CELLS]
    same_shape = encoded.shape == expected.shape
    agreement = np.corrcoef(encoded.ravel(), expected.ravel())[0, 1] if same_shape else np.nan
    if not agreement >= _SAME_BASIS:
        raise UserError(
            f"{options.encoder} does not reproduce obsm[{options.rep!r}] (shape {encoded.shape} "
            f"against {expected.shape}, correlation {agreement:.2f}); give the encoder that made "
            "it, or name the matrix it encodes by --expression."
        )
    return project_encoder(encoder, values, velocity), "encoder"


def _load_encoder(name: str) -> Encoder:
    """The function that MODULE:FUNCTION names."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as e:
        raise UserError(
            f"--encoder {name}: {e}. Expected MODULE:FUNCTION, importable from this folder."
        ) from e
    return found


def _dense(adata: ad.AnnData, key: str, rows: slice = slice(None)) -> np.ndarray:
    values = matrix(adata, key)[rows]
    return values.toarray() if isinstance(values, sp.csr_matrix) else values
