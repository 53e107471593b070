"""The prediction of a file, from disk to disk: labels in memory, cells a batch of sets at a time.

1. the control cells in the model's features, 2. their predictions, both by position in tables that
lie on disk where they are large (`wound_jax.prediction.blocks`); 3. what the config asks for after
the network (`wound_jax.prediction.calibration`); 4. the output file, in the order of the
input, under another name until it is whole.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from wound_jax.data.annotations import Annotations, excluded, read_annotations
from wound_jax.data.cells import Cells, match_labels
from wound_jax.data.groups import make_groups
from wound_jax.data.h5ad_writer import new_h5ad, write_csr, write_dense
from wound_jax.data.prepare import require_spelling
from wound_jax.data.preprocess import Preprocessing
from wound_jax.data.scalars import read_scalars
from wound_jax.data.source import is_store, open_h5ad, read_labels, row_blocks
from wound_jax.data.spec import DataSpec
from wound_jax.data.store.rows import Rows, Table
from wound_jax.data.timepoints import require_times
from wound_jax.errors import UserError, named, warn
from wound_jax.files import replacing
from wound_jax.prediction.blocks import Scratch, expression_of, features_of, features_of_store
from wound_jax.prediction.calibration.calibration import load_calibration
from wound_jax.prediction.loaded_run import LoadedRun


def predict_file(
    run: LoadedRun,
    path: str,
    output: Path,
    perturbation: str,
    *,
    with_controls: bool,
    missing: str,
    progress: bool = False,
) -> tuple[int, int]:
    """Predicts every control cell of a file that `data.exclude` leaves.

    Args:
        run: the trained model.
        path: the h5ad file, or a training store of this model.
        output: the file to write; tables too large for memory lie beside it meanwhile.
        perturbation: a condition the model knows.
        with_controls: whether to append the real controls, in the same genes and scale.
        missing: "error" or "zero", for genes the file lacks.
        progress: whether to draw bars.

    Returns:
        Cells and columns of what was written.

    Raises:
        UserError: there is no control cell, or the file does not fit the model.
    """
    scratch = Scratch(output.parent, progress)
    settings, control = run.config.prediction, run.spec.control
    calibration = load_calibration(run.folder, settings, perturbation, control)
    wanted = with_controls or bool(calibration)
    cells, obs = _control_cells(run, path, scratch, with_expression=wanted, missing=missing)
    seen = _seen(cells.annotations, run.spec)
    predicted = _predict_all(run, cells, perturbation, scratch)
    tables: list[Rows] = [predicted]
    if calibration:
        calibration.apply_to_table(
            run.config.data, cells.annotations, cells.expression, predicted, perturbation
        )
    if with_controls:
        tables.append(cells.expression)
    obs = _obs(run, obs, seen, perturbation, with_controls)
    with replacing(output) as part:
        _write(part, run, obs, tables, perturbation)
    return len(obs), predicted.shape[1]


def _control_cells(
    run: LoadedRun, path: str, scratch: Scratch, *, with_expression: bool, missing: str
) -> tuple[Cells, pd.DataFrame]:
    """The control cells of a file as the model sees them, and their columns."""
    spec, trust = run.spec, run.config.data.trusts_scale
    with open_h5ad(path) as file:
        obs, names = read_labels(file)
        positions, labels = _controls(run, obs, path)
        if run.config.model.timepoint_embedding == "continuous":
            require_times(labels.timepoint)
        genes = None
        if is_store(file):
            features = features_of_store(file, spec, positions)
        else:
            features = features_of(file, spec, positions, scratch, missing=missing, trust=trust)
        if spec.gene_input:
            _warn_of_missing(spec.preprocessing, names)
        elif with_expression and spec.genes:
            key = run.config.data.genes
            genes = expression_of(file, spec, key, positions, scratch, missing=missing, trust=trust)
    obs = obs.iloc[positions]
    replicate, scalars = spec.replicates.encode(labels.replicate), read_scalars(obs, spec.scalars)
    return Cells(labels, features, replicate, genes, scalars), obs


def _controls(run: LoadedRun, obs: pd.DataFrame, path: str) -> tuple[np.ndarray, Annotations]:
    """Where the control cells are, and their labels."""
    data = run.config.data
    left_out = excluded(obs, data.exclude, strict=False)
    kept = np.flatnonzero(~left_out)
    if len(kept) < len(obs):
        warn(f"{left_out.sum()} of {len(obs)} cells are left out, as in training (data.exclude).")
    labels = read_annotations(obs.iloc[kept] if left_out.any() else obs, data)
    require_spelling(labels, run.spec)
    controls = np.flatnonzero(labels.condition == run.spec.control)
    if not len(controls):
        raise UserError(
            f"{path} holds no {run.spec.control!r} cell in obs[{data.pert_col!r}] (present: "
            f"{named(sorted(set(labels.condition)))}); predictions start from control cells."
        )
    return kept[controls], labels.take(controls)


def _predict_all(run: LoadedRun, cells: Cells, perturbation: str, scratch: Scratch) -> Table:
    """Predicted cells in the order of the controls, set by set of one type and timepoint."""
    spec, labels = run.spec, cells.annotations
    everyone, match_on = np.arange(len(labels)), match_labels(run.config.data)
    groups = [
        dataclasses.replace(group, condition=perturbation, controls=group.targets)
        for group in make_groups(labels, everyone, everyone, match_on)[0]
    ]
    out = scratch.table(len(everyone), len(spec.genes) or spec.input_width)
    begun = np.zeros(len(everyone), dtype=bool)
    stream = run.predictor.stream(cells, groups)
    total = run.predictor.passes * len(everyone)
    with tqdm(total=total, desc="predicting", unit="cell", disable=not scratch.progress) as bar:
        for owner, places, predicted in stream:
            rows = groups[owner].controls[places]
            # An ensemble comes member by member, each its share of the mean.
            out[rows] = predicted + out[rows] if begun[rows].all() else predicted
            begun[rows] = True
            bar.update(len(places))
    return out


def _obs(
    run: LoadedRun,
    real: pd.DataFrame,
    seen: dict[str, np.ndarray],
    perturbation: str,
    with_controls: bool,
) -> pd.DataFrame:
    """The columns of the predicted cells, and of the real controls after them.

    All are as the file has them, but for the condition, whose labels are those of the model.
    """
    column = run.config.data.pert_col
    real = real.assign(**seen, **{column: run.spec.control})
    obs = real.assign(**{column: perturbation})
    if not with_controls:
        return obs
    real.index = pd.Index([f"{name}-control" for name in real.index])
    return pd.concat([obs, real])


def _write(
    path: Path, run: LoadedRun, obs: pd.DataFrame, tables: list[Rows], perturbation: str
) -> None:
    spec, width = run.spec, tables[0].shape[1]
    names = spec.genes or tuple(f"{spec.input.split('/')[-1]}_{i}" for i in range(width))
    notes = {
        "run": run.folder.resolve().name,
        "model": f"wound_jax set transformer, {run.config.model.backbone}",
        "steps": list(run.steps),
        "perturbation": perturbation,
        "scale": _scale(spec),
        "with_controls": len(tables) > 1,
    }
    # Expression is mostly zeros where the model's output is rectified: half the size, or less.
    values = sum(np.count_nonzero(block) for block in _blocks(tables))
    write = write_csr if values < 0.5 * len(obs) * width else write_dense
    with new_h5ad(path, obs, names, {"wound_jax": notes}) as file:
        write(file, _blocks(tables), (len(obs), width))


def _blocks(tables: list[Rows]) -> Iterator[np.ndarray]:
    return (np.asarray(block) for table in tables for _, block in row_blocks(table))


def _seen(labels: Annotations, spec: DataSpec) -> dict[str, np.ndarray]:
    """For each cell whether its labels were in training; warns of those that were not."""
    known = {
        "cell_type": (labels.cell_type, spec.cell_types),
        "timepoint": (labels.timepoint, spec.timepoints),
        "replicate": (labels.replicate, spec.replicates),
    }
    flags = {}
    for kind, (values, vocabulary) in known.items():
        flags[f"seen_{kind}"] = np.isin(values, vocabulary.names)
        unseen = sorted(set(values[~flags[f"seen_{kind}"]]))
        if unseen and kind != "replicate":
            warn(
                f"no treated cell of {kind} {named(unseen)} was in training; these cells are "
                f"predicted all the same and marked seen_{kind}=False."
            )
    return flags


def _warn_of_missing(preprocessing: Preprocessing, present: Iterable[Any]) -> None:
    """Warns of genes that `--missing zero` fills in, those of a cell's total included."""
    counts = preprocessing.kind == "log1p_cp10k"
    wanted = preprocessing.normalisation_genes if counts else preprocessing.genes
    absent = sorted(set(wanted) - set(present))
    if absent:
        warn(
            f"{len(absent)} of {len(wanted)} genes are missing and taken as zero "
            f"({', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''})."
        )


def _scale(spec: DataSpec) -> str:
    if not spec.genes:
        return f"embedding {spec.input}"
    if spec.preprocessing.kind == "none":
        return "log-normalised as in the training file"
    return spec.preprocessing.kind
