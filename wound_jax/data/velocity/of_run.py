"""The velocity of all cells of a run, in the basis of the model's input.

For expression, the velocity must be on the model's own scale (changes of log values where the
model sees log values); `python -m wound_jax.velocity add --log1p` brings it there.
"""

import dataclasses

import anndata as ad
import numpy as np

from wound_jax.config.schema import VelocityConfig
from wound_jax.data.annotations import Annotations
from wound_jax.data.spec import DataSpec
from wound_jax.data.splits import Split
from wound_jax.data.velocity.contract import ESTIMATE, VelocityData, read_velocity
from wound_jax.data.velocity.null import permute_within
from wound_jax.errors import UserError


def run_velocity(
    adata: ad.AnnData, annotations: Annotations, spec: DataSpec, config: VelocityConfig, seed: int
) -> VelocityData:
    """Reads velocities, brings genes to the model's order, and shuffles them if asked to.

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
    if dict(adata.uns.get(ESTIMATE, {})).get("engine") != "pseudotime" or split.leaky:
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


def _of_genes(velocity: VelocityData, names: list[str], genes: tuple[str, ...]) -> VelocityData:
    """The velocities of the model's genes, in its order."""
    place = {name: i for i, name in enumerate(names)}
    columns = np.array([place[gene] for gene in genes])
    return dataclasses.replace(
        velocity, velocity=velocity.velocity[:, columns], dims=velocity.dims[columns]
    )
