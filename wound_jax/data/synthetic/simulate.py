"""The synthetic wound set, put together: what is measured, and the truth kept apart from it.

Cells are generated in blocks of 2,048, so that memory beyond the result stays small. The same
configuration gives the same numbers, bit for bit, on one machine with one version of numpy; the
gene programs depend on the seed and the number of genes alone.
"""

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float

from wound_jax.data.settings import SyntheticSettings
from wound_jax.data.synthetic import measure
from wound_jax.data.synthetic.cells import COUNTS_PER_GENE, Cells, draw_cells
from wound_jax.data.synthetic.design import BURN, DAYS, MICE, SHAM, Ingredient, stream
from wound_jax.data.synthetic.markers import TYPES
from wound_jax.data.synthetic.measure import Embedding, Expected, Tissue
from wound_jax.data.synthetic.programs import log_deltas

BLOCK = 2048
EMBEDDING_KEY = "X_state_baseline"
TIMEPOINTS = tuple(f"day{day}" for day in DAYS)
# A gene has a velocity if the mean type has this many molecules of it in a median cell.
VELOCITY_MIN_COUNT = 0.3
NOTE = (
    "Simulated cells, no measurement: gene programs, mice, the burn effect and the velocity are "
    "drawn by wound_jax.data.synthetic."
)

Matrix = np.ndarray | sp.csr_matrix


@dataclass(frozen=True)
class SyntheticTruth:
    """What no experiment can show, for evaluation only.

    Attributes:
        adata: the control cells, each as it would have been had its skin been burnt: same names,
            day, mouse, state, depth and activity of its genes. `X` is drawn, log1p of counts per
            10,000 (CSR); `layers["counts"]` its counts; `layers["mean"]` the same without noise,
            `log1p(1e4 lambda)`; `layers["control_mean"]` the cell as it is, without noise;
            `obsm` its embedding and `obsm["latent"]` its hidden state; `var` the kinetics. `obs`
            names the counterfactual condition, and `observed_condition` the measured one.
            `mean - control_mean` is the true burn effect on each cell.
        log_delta: expected burn effect on the natural log of the expression rate, before rates
            are divided by the cell's sum; also in `adata.uns["burn_log_delta"]`.
        types: names of the first axis of `log_delta`.
        timepoints: names of the second axis.
    """

    adata: ad.AnnData
    log_delta: Float[np.ndarray, "types days genes"]
    types: tuple[str, ...]
    timepoints: tuple[str, ...]


@dataclass(frozen=True)
class SyntheticWound:
    """A synthetic wound set.

    Attributes:
        adata: the measured cells. `X` log1p of counts per 10,000 (CSR float32), `layers` counts,
            spliced, unspliced (CSR, whole numbers as float32) and velocity (change of `X` per day
            without noise, float32, NaN outside `var["velocity_genes"]`); `obs` condition,
            cell_types_simple_short, timepoint, mouse_id, n_counts, velocity_confidence,
            velocity_magnitude, velocity_pseudotime;
            `obsm["X_state_baseline"]` float32; `uns["wound_jax_synthetic"]` the configuration.
        truth: the counterfactual of the control cells and the true effect.
    """

    adata: ad.AnnData
    truth: SyntheticTruth


def simulate(config: SyntheticSettings) -> SyntheticWound:
    """Simulates burnt and sham skin of mice, deterministic in the configuration.

    Args:
        config: size, seed, spread of the mice and strength of the burn.

    Returns:
        The measured cells, and the truth apart from them.
    """
    cells = draw_cells(config.n_cells, config.n_genes, config.seed)
    lab = _lab(config)
    sham = ~cells.burnt
    measured, counterfactual = _Rows(len(cells)), _Rows(int(sham.sum()))
    for block, start in enumerate(range(0, len(cells), BLOCK)):
        part = cells.take(slice(start, start + BLOCK))
        expected = lab.tissue.expected(part)
        rng = stream(config.seed, Ingredient.EXPRESSION, block)
        activity = measure.draw_activity(rng, len(part), lab.tissue.programs)
        measured.add(lab.measured(part, expected, activity, block))
        control = ~part.burnt
        if control.any():
            before = Expected(*(values[control] for values in expected))
            counterfactual.add(
                lab.counterfactual(part.take(control), before, activity[control], block)
            )
    origin = {"wound_jax_synthetic": {**config.model_dump(), "note": NOTE}}
    labels = _labels(cells)
    adata = _assemble_measured(labels, cells, lab, measured, origin)
    truth = _assemble_truth(labels.loc[sham], cells.take(sham), lab, counterfactual, origin)
    return SyntheticWound(adata, truth)


class _Rows:
    """Named matrices filled by blocks of rows: dense ones in place, sparse ones stacked at last."""

    def __init__(self, n_rows: int):
        self.n_rows = n_rows
        self.filled = 0
        self._dense: dict[str, np.ndarray] = {}
        self._sparse: dict[str, list[sp.csr_matrix]] = {}

    def add(self, parts: dict[str, Matrix]) -> None:
        """Appends a block: the same names each time, all of one number of rows."""
        height = len(next(part for part in parts.values() if isinstance(part, np.ndarray)))
        for name, part in parts.items():
            if isinstance(part, np.ndarray):
                shape = (self.n_rows, *part.shape[1:])
                whole = self._dense.setdefault(name, np.empty(shape, part.dtype))
                whole[self.filled : self.filled + height] = part
            else:
                self._sparse.setdefault(name, []).append(part)
        self.filled += height

    def take(self, name: str) -> Matrix:
        """The whole matrix of that name, which is then forgotten here."""
        if name in self._dense:
            return self._dense.pop(name)
        return sp.csr_matrix(sp.vstack(self._sparse.pop(name), format="csr"))


@dataclass(frozen=True)
class _Lab:
    """What turns cells into measurements."""

    seed: int
    tissue: Tissue
    embedding: Embedding
    velocity_genes: Bool[np.ndarray, " genes"]

    def measured(
        self, cells: Cells, expected: Expected, activity: np.ndarray, block: int
    ) -> dict[str, Matrix]:
        """All matrices of a block of measured cells."""
        rng = stream(self.seed, Ingredient.MOLECULES, block)
        programs = self.tissue.programs
        counts = measure.draw_counts(rng, expected, activity, cells.depth)
        expression = measure.log1p_cp10k(counts)
        noise = stream(self.seed, Ingredient.EMBEDDING_NOISE, block)
        velocity = np.where(self.velocity_genes, expected.velocity(), np.float32(np.nan))
        return {
            "X": expression,
            "counts": counts,
            "spliced": measure.draw_spliced(rng, counts),
            "unspliced": measure.draw_unspliced(rng, expected, activity, cells.depth, programs),
            "velocity": velocity,
            "confidence": measure.velocity_confidence(expected, cells.depth, programs),
            EMBEDDING_KEY: self.embedding.embed(noise, expression.toarray()),
        }

    def counterfactual(
        self, controls: Cells, before: Expected, activity: np.ndarray, block: int
    ) -> dict[str, Matrix]:
        """All matrices of the control cells of a block, had they been burnt."""
        # Without an effect it is the cell as it is, to the bit: products of other shapes may round
        # otherwise.
        after = self.tissue.expected(controls.as_burnt()) if self.tissue.effect_scale else before
        rng = stream(self.seed, Ingredient.COUNTERFACTUAL, block)
        counts = measure.draw_counts(rng, after, activity, controls.depth)
        expression = measure.log1p_cp10k(counts)
        noise = stream(self.seed, Ingredient.COUNTERFACTUAL_NOISE, block)
        return {
            "X": expression,
            "counts": counts,
            "mean": after.log1p_cp10k(),
            "control_mean": before.log1p_cp10k(),
            EMBEDDING_KEY: self.embedding.embed(noise, expression.toarray()),
        }


def _lab(config: SyntheticSettings) -> _Lab:
    tissue = measure.draw_tissue(config.n_genes, config.mouse_sd, config.effect_scale, config.seed)
    typical_count = tissue.typical().share.mean(axis=0) * COUNTS_PER_GENE * config.n_genes
    return _Lab(
        seed=config.seed,
        tissue=tissue,
        embedding=measure.draw_embedding(tissue, config.embedding_dim, config.seed),
        velocity_genes=typical_count >= VELOCITY_MIN_COUNT,
    )


def _labels(cells: Cells) -> pd.DataFrame:
    """Condition, type, day and mouse of each cell, as categories; names as the index."""
    mice = [mouse.name for mouse in MICE]
    days = np.searchsorted(DAYS, cells.day)
    within = np.concatenate([np.arange(n) for n in np.bincount(cells.mouse_index)])
    names = [f"{mice[m]}_c{n:05d}" for m, n in zip(cells.mouse_index, within, strict=True)]
    categorical = pd.Categorical.from_codes
    return pd.DataFrame(
        {
            "condition": categorical((~cells.burnt).astype(int), [BURN, SHAM]),
            "cell_types_simple_short": categorical(cells.type_index, list(TYPES)),
            "timepoint": categorical(days, list(TIMEPOINTS), ordered=True),
            "mouse_id": categorical(cells.mouse_index, mice),
        },
        index=pd.Index(names),
    )


def _lengths(velocity: Float[np.ndarray, "cells genes"]) -> Float[np.ndarray, " cells"]:
    """Length of each cell's velocity, over the genes that have one."""
    return np.sqrt(np.nansum(np.square(velocity), axis=1))


def _pseudotime(cells: Cells) -> Float[np.ndarray, " cells"]:
    """Where each cell stands on the time course, from 0 (first of all cells) to 1 (last)."""
    time = cells.time
    return ((time - time.min()) / (time.max() - time.min())).astype(np.float32)


def _assemble_measured(
    labels: pd.DataFrame, cells: Cells, lab: _Lab, rows: _Rows, origin: dict
) -> ad.AnnData:
    counts, velocity = rows.take("counts"), rows.take("velocity")
    obs = labels.assign(
        n_counts=np.asarray(counts.sum(axis=1)).ravel().astype(np.float32),
        velocity_confidence=rows.take("confidence"),
        velocity_magnitude=_lengths(np.asarray(velocity)),
        velocity_pseudotime=_pseudotime(cells),
    )
    var = pd.DataFrame(
        {"velocity_genes": lab.velocity_genes}, index=pd.Index(lab.tissue.programs.genes)
    )
    adata = ad.AnnData(X=rows.take("X"), obs=obs, var=var, uns=origin)
    adata.layers["counts"] = counts
    adata.layers["velocity"] = velocity
    for name in ("spliced", "unspliced"):
        adata.layers[name] = rows.take(name)
    adata.obsm[EMBEDDING_KEY] = rows.take(EMBEDDING_KEY)
    return adata


def _assemble_truth(
    labels: pd.DataFrame, controls: Cells, lab: _Lab, rows: _Rows, origin: dict
) -> SyntheticTruth:
    programs = lab.tissue.programs
    obs = labels.assign(
        condition=pd.Categorical([BURN] * len(labels)), observed_condition=labels["condition"]
    )
    var = pd.DataFrame(
        {
            "velocity_genes": lab.velocity_genes,
            "overdispersion": programs.overdispersion,
            "splicing_rate": programs.splicing_rate,
            "degradation_rate": programs.degradation_rate,
        },
        index=pd.Index(programs.genes),
    )
    delta = log_deltas(lab.tissue.effects, lab.tissue.effect_scale)
    names = {"types": np.array(TYPES), "timepoints": np.array(TIMEPOINTS)}
    uns = {**origin, "burn_log_delta": {"values": delta, **names}}
    adata = ad.AnnData(X=rows.take("X"), obs=obs, var=var, uns=uns)
    for name in ("counts", "mean", "control_mean"):
        adata.layers[name] = rows.take(name)
    adata.obsm[EMBEDDING_KEY] = rows.take(EMBEDDING_KEY)
    adata.obsm["latent"] = _latent(controls)
    return SyntheticTruth(adata, delta, TYPES, TIMEPOINTS)


def _latent(cells: Cells) -> Float[np.ndarray, "cells factors"]:
    """Hidden state: lineage axes (3), competence, cycle, own factors (2), progress in days."""
    states = [cells.axes, cells.competence, cells.cycle, cells.own, cells.progress]
    return np.column_stack(states).astype(np.float32)
