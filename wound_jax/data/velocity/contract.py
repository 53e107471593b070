"""Velocity of cells: what a file must hold, and what a run reads of it.

The contract: a gene matrix ("X", "layers/NAME") finds its velocity in `layers["velocity"]`, NaN
where there is none, restricted to `var["velocity_genes"]` if that exists; an embedding "obsm/KEY"
finds it in `obsm["velocity_KEY"]` (scVelo's name without the "X_" will do), of the same width.
`obsm["velocity_latent"]` is taken for the embedding that `uns["velocity_latent_basis"]` names.
`obs["velocity_confidence"]` lies in [0, 1]. Whoever asks for velocity and has none gets an error.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import cast

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float

from wound_jax.arrays import HostOrDevice, pytree
from wound_jax.data.annotations import Annotations
from wound_jax.data.seeding import Use, stream
from wound_jax.data.source import is_gene_matrix, layer_names, matrix
from wound_jax.data.spec import DataSpec
from wound_jax.data.splits import Split
from wound_jax.data.stored_matrix import Matrix
from wound_jax.errors import UserError
from wound_jax.losses.settings import VelocitySettings

GENE_VELOCITY = "layers/velocity"
GENES_COLUMN = "velocity_genes"
CONFIDENCE = "velocity_confidence"
# uns: how the velocities of a file were made, and its "engine" where that was a pseudotime.
ESTIMATE = "velocity_estimate"
PSEUDOTIME_ENGINE = "pseudotime"
LATENT = "velocity_latent"
LATENT_BASIS = "velocity_latent_basis"


@pytree
@dataclass(frozen=True)
class VelocityData:
    """Velocities of cells, without NaN, on the host or on devices.

    Attributes:
        velocity: float32 [cells, dims], per the unit of time of whoever estimated it; 0 where
            unknown.
        known: bool [cells], cells that have a velocity.
        confidence: float32 [cells] in [0, 1]; 0 where the velocity is unknown.
        dims: bool [dims], features that have a velocity; for genes, a displacement is compared on
            these alone.
        source: where it was read, e.g. "obsm/velocity_X_pca".
    """

    velocity: Float[HostOrDevice, "cells dims"]
    known: Bool[HostOrDevice, "cells"]
    confidence: Float[HostOrDevice, "cells"]
    dims: Bool[HostOrDevice, "dims"]
    source: str = field(metadata={"static": True})


def velocity_keys(key: str) -> tuple[str, ...]:
    """Matrices in which the velocity of the input `key` may lie, the first choice first."""
    if is_gene_matrix(key):
        return (GENE_VELOCITY,)
    name = key.removeprefix("obsm/")
    names = [f"velocity_{name}", f"velocity_{name.removeprefix('X_')}"]
    # The bare "latent" says nothing of which latent space; it needs its basis named.
    return tuple(f"obsm/{n}" for n in dict.fromkeys([*names, LATENT]))


def read_velocity(adata: ad.AnnData, key: str, confidence: str | None = CONFIDENCE) -> VelocityData:
    """The velocity of all cells in the basis of one of their matrices.

    Args:
        adata: the cells.
        key: the matrix that velocities are displacements of: "X", "layers/NAME" or "obsm/KEY".
        confidence: obs column of confidences, NaN counting as 0; None trusts all alike.

    Returns:
        Velocities in the order of the cells and features.

    Raises:
        UserError: there is no velocity for this input, it has the wrong width, is NaN throughout
            or infinite somewhere, or the confidences are missing or outside [0, 1].
    """
    source, values = _velocity_matrix(adata, key)
    finite = ~np.isnan(values)
    if is_gene_matrix(key):
        finite &= _velocity_genes(cast(pd.DataFrame, adata.var))
        known = np.any(finite, axis=1)
    else:
        known = np.all(finite, axis=1)
    if not known.any():
        raise UserError(f"{source} holds no velocity: every cell is NaN in it.")
    trust = _read_confidence(cast(pd.DataFrame, adata.obs), confidence)
    return VelocityData(
        velocity=np.where(finite & known[:, None], values, np.float32(0)),
        known=known,
        confidence=np.where(known, trust, np.float32(0)),
        dims=np.any(finite, axis=0),
        source=source,
    )


def run_velocity(
    adata: ad.AnnData, annotations: Annotations, spec: DataSpec, config: VelocitySettings, seed: int
) -> VelocityData:
    """The velocity of all cells of a run, in the basis of the model's input, shuffled if asked to.

    For expression it must be on the model's own scale (changes of log values where the model sees
    log values); `python -m wound_jax.velocity add --log1p` brings it there.

    Args:
        adata: the cells of the run, with the matrices of `velocity_keys`.
        annotations: their labels.
        spec: the model's input and genes.
        config: the confidence column and the shuffle.
        seed: of the shuffle.

    Raises:
        UserError: there is no velocity for the input, or it breaks the contract.
    """
    velocity = read_velocity(adata, spec.input, config.confidence_col)
    if spec.gene_input:
        velocity = _of_genes(velocity, list(adata.var_names), spec.genes)
    if config.shuffle:
        groups = [
            f"{t}\x1f{c}" for t, c in zip(annotations.cell_type, annotations.condition, strict=True)
        ]
        velocity = permute_within(velocity, np.array(groups), seed)
    return velocity


def refuse_leak(adata: ad.AnnData, velocity: VelocityData, split: Split) -> None:
    """Refuses directions that were made with the treated cells that the split holds out.

    A pseudotime's directions lead towards the treated cells that were in its graph. A leaky split
    says so by itself, in every report.

    Args:
        adata: the cells, with the note of how their velocity was made.
        velocity: their velocity.
        split: of the run.

    Raises:
        UserError: held-out treated cells have such a direction.
    """
    if not from_pseudotime(adata) or split.leaky:
        return
    held_out = np.concatenate([split.treated["val"], split.treated["test"]])
    n = int(velocity.known[held_out].sum())
    if n:
        raise UserError(
            f"the velocity was made from a pseudotime with {n} of the treated cells that the "
            f"{split.kind} split holds out; expected directions of training cells alone. Make it "
            "again with `python -m wound_jax.velocity add --from-pseudotime --leave-out "
            "COLUMN=VALUE,...`, naming what split.test and split.val hold out."
        )


def permute_within(velocity: VelocityData, groups: np.ndarray, seed: int) -> VelocityData:
    """The control experiment: velocities exchanged between the cells of a group.

    Each cell gets velocity and confidence of another cell of its group, so their distribution is
    kept and what they say about a single cell is lost.

    Args:
        velocity: of the cells.
        groups: [cells], labels.
        seed: the same seed gives the same exchange.
    """
    rng = stream(seed, Use.SHUFFLE_VELOCITY)
    source = np.arange(len(groups))
    for label in np.unique(groups):
        members = np.flatnonzero(groups == label)
        source[members] = rng.permutation(members)
    return dataclasses.replace(
        velocity,
        velocity=velocity.velocity[source],
        known=velocity.known[source],
        confidence=velocity.confidence[source],
        source=f"{velocity.source} (shuffled)",
    )


def from_pseudotime(adata: ad.AnnData) -> bool:
    """Whether the velocity of a file was made from a pseudotime."""
    return dict(adata.uns.get(ESTIMATE, {})).get("engine") == PSEUDOTIME_ENGINE


def present(adata: ad.AnnData) -> str:
    """What an AnnData holds, in words, for messages."""
    parts = {"layers": layer_names(adata), "obsm": adata.obsm, "obs": adata.obs}
    listed = [f"{kind}: {', '.join(map(str, part)) or 'none'}" for kind, part in parts.items()]
    return "; ".join(listed)


def _velocity_matrix(adata: ad.AnnData, key: str) -> tuple[str, np.ndarray]:
    """Where the velocity of `key` lies, and its values as float32 [cells, dims], not infinite."""
    width = adata.n_vars if is_gene_matrix(key) else _dense(matrix(adata, key)).shape[1]
    source = _find(adata, key)
    values = _dense(matrix(adata, source))
    if values.shape[1] != width:
        raise UserError(
            f"{source} has {values.shape[1]} columns, but {key} has {width}: a velocity must be in "
            "the basis of the representation it belongs to. Project it again by "
            "`python -m wound_jax.velocity add`."
        )
    if np.isinf(values).any():
        raise UserError(f"{source} holds infinite values; write NaN where a velocity is unknown.")
    return source, values


def _find(adata: ad.AnnData, key: str) -> str:
    for candidate in velocity_keys(key):
        kind, _, name = candidate.partition("/")
        holder = adata.layers if kind == "layers" else adata.obsm
        if name in holder and (name != LATENT or _latent_belongs(adata, key)):
            return candidate
    raise UserError(
        f"velocity was asked for, but there is none for {key}: expected {_expected(adata, key)}. "
        f"The file has {present(adata)}. {_remedy(adata, key)}"
    )


def _latent_belongs(adata: ad.AnnData, key: str) -> bool:
    return str(adata.uns.get(LATENT_BASIS, "")) == key.removeprefix("obsm/")


def _expected(adata: ad.AnnData, key: str) -> str:
    if is_gene_matrix(key):
        return "layers['velocity']"
    expected = f"obsm['velocity_{key.removeprefix('obsm/')}']"
    if LATENT in adata.obsm:
        basis = adata.uns.get(LATENT_BASIS)
        said = "is not set" if basis is None else f"is {str(basis)!r}"
        expected += f" (obsm['{LATENT}'] is there, but uns['{LATENT_BASIS}'] {said})"
    return expected


def _remedy(adata: ad.AnnData, key: str) -> str:
    if is_gene_matrix(key):
        spliced = {"spliced", "unspliced"} <= set(adata.layers)
        return (
            "Estimate it by `python -m wound_jax.velocity add --from-spliced`."
            if spliced
            else "Estimate it from spliced and unspliced counts, take directions from a pseudotime "
            "instead (`python -m wound_jax.velocity add --from-pseudotime`; see its help for what "
            "they are not), or train without velocity."
        )
    return f"Add it by `python -m wound_jax.velocity add --rep {key.removeprefix('obsm/')}`."


def _velocity_genes(var: pd.DataFrame) -> np.ndarray:
    """Which genes have a velocity, bool [genes]; all where the file does not say."""
    if GENES_COLUMN not in var:
        return np.ones(len(var), dtype=bool)
    column = var[GENES_COLUMN]
    if not pd.api.types.is_bool_dtype(column):
        raise UserError(f"var['{GENES_COLUMN}'] must be boolean; it is {column.dtype}.")
    genes = column.to_numpy(dtype=bool)
    if not genes.any():
        raise UserError(f"var['{GENES_COLUMN}'] is False for all genes: no gene has a velocity.")
    return genes


def _read_confidence(obs: pd.DataFrame, column: str | None) -> np.ndarray:
    """Confidences, float32 [cells], NaN replaced by 0."""
    if column is None:
        return np.ones(len(obs), dtype=np.float32)
    if column not in obs:
        raise UserError(
            f"velocity confidences were asked for, but there is no obs[{column!r}]; obs has "
            f"{', '.join(map(str, obs.columns)) or 'no columns'}. `python -m wound_jax.velocity "
            "add` writes it."
        )
    if not pd.api.types.is_numeric_dtype(obs[column]):
        raise UserError(f"obs[{column!r}] must hold numbers in [0, 1]; it is {obs[column].dtype}.")
    values = obs[column].to_numpy(dtype=np.float32)
    if np.isnan(values).all():
        raise UserError(f"obs[{column!r}] is NaN for all cells: no velocity would count.")
    low, high = np.nanmin(values), np.nanmax(values)
    if low < 0 or high > 1:
        raise UserError(
            f"obs[{column!r}] must lie in [0, 1]; it runs from {low:g} to {high:g}. Rescale it, or "
            "choose another column."
        )
    return np.nan_to_num(values, nan=0.0)


def _dense(values: Matrix) -> np.ndarray:
    dense = values.toarray() if isinstance(values, sp.csr_matrix) else values
    return np.asarray(dense, dtype=np.float32)


def _of_genes(velocity: VelocityData, names: list[str], genes: tuple[str, ...]) -> VelocityData:
    """The velocities of the model's genes, in its order."""
    place = {name: i for i, name in enumerate(names)}
    columns = np.array([place[gene] for gene in genes])
    return dataclasses.replace(
        velocity, velocity=velocity.velocity[:, columns], dims=velocity.dims[columns]
    )
