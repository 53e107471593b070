"""`python -m wound_jax.predict RUN --input cells.h5ad --output pred.h5ad --perturbation Burn`.

Writes one predicted cell for each control cell of the input: same names and columns, the condition
set, expression in the model's genes and scale, and for each cell whether its type, timepoint and
animal were seen in training. `--with-controls` adds the real controls, so that the file fits the
field's evaluator (cell-eval), which wants both in one file.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from wound_jax import cli
from wound_jax.errors import UserError, unknown_name

if TYPE_CHECKING:
    import anndata as ad
    import numpy as np
    import pandas as pd

    from wound_jax.data.annotations import Annotations
    from wound_jax.data.preprocess import Preprocessing
    from wound_jax.data.spec import DataSpec
    from wound_jax.run_folder import LoadedRun


def main(argv: list[str] | None = None) -> int:
    """Predicts the cells of a file; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return cli.run(lambda: _main(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wound_jax.predict",
        description="Predict perturbed cells from the control cells of a file.",
    )
    parser.add_argument("run", help="run folder")
    parser.add_argument("--input", required=True, help="h5ad file with control cells")
    parser.add_argument("--output", required=True, help="h5ad file to write")
    parser.add_argument("--perturbation", required=True, help="condition to predict")
    parser.add_argument(
        "--with-controls",
        action="store_true",
        help="copy the real controls too, named NAME-control",
    )
    parser.add_argument(
        "--missing",
        choices=("error", "zero"),
        default="error",
        help="model genes that the file lacks: refuse, or fill with zeros",
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    return parser


def _main(arguments: argparse.Namespace) -> int:
    output = Path(arguments.output)
    if output.resolve() == Path(arguments.input).resolve():
        raise UserError(f"--input and --output are both {output}; write to another file.")
    if output.exists() and not arguments.overwrite:
        raise UserError(f"{output} exists; choose another --output, or give --overwrite.")
    if not output.parent.is_dir():
        raise UserError(f"there is no folder {output.parent} to write {output.name} into.")
    # Everything heavy is imported once the arguments are known to be sound.
    from wound_jax.compilation import use_compilation_cache
    from wound_jax.run_folder import load_run

    use_compilation_cache()
    run = load_run(arguments.run, arguments.checkpoint)
    if arguments.perturbation not in run.spec.perturbations:
        raise unknown_name("perturbation", arguments.perturbation, run.spec.perturbations.names)
    if arguments.perturbation == run.spec.control and not run.config.data.control_fraction:
        _warn(
            f"{run.spec.control} is the control, which no training set had as its target "
            "(data.control_fraction=0): the model never learned to predict it."
        )
    predicted = predict_file(
        run,
        arguments.input,
        arguments.perturbation,
        with_controls=arguments.with_controls,
        missing=arguments.missing,
    )
    # Under another name first: a crash leaves no half-written file behind.
    part = output.with_name(output.name + ".part")
    predicted.write_h5ad(part)
    part.replace(output)
    print(f"{predicted.n_obs} cells x {predicted.n_vars} genes in {output}", file=sys.stderr)
    return 0


def predict_file(
    run: "LoadedRun", path: str, perturbation: str, *, with_controls: bool, missing: str
) -> "ad.AnnData":
    """Predicts every control cell of a file.

    Args:
        run: the trained model.
        path: the h5ad file.
        perturbation: a condition the model knows.
        with_controls: whether to append the real controls, in the same genes and scale.
        missing: "error" or "zero", for genes the file lacks.

    Raises:
        UserError: there is no control cell, or the file does not fit the model.
    """
    from wound_jax.data.days import require_days
    from wound_jax.data.prepare import cell_table
    from wound_jax.data.source import read_parts

    data = run.config.data
    decodes = run.spec.genes and not run.spec.gene_input
    beside = [data.genes] if with_controls and decodes else []
    adata = read_parts(path, {run.spec.input, *beside})
    adata, labels = _control_cells(run, adata, path)
    if run.config.model.timepoint_embedding == "continuous":
        require_days(labels.timepoint)
    table = cell_table(
        adata, labels, run.spec, data.genes, missing=missing, expression=with_controls
    )
    if run.spec.gene_input:
        _warn_of_missing(run.spec.preprocessing, adata.var_names)
    values = _predict_all(run, table, perturbation)
    return _as_anndata(run, adata, table, values, perturbation, with_controls)


def _control_cells(
    run: "LoadedRun", adata: "ad.AnnData", path: str
) -> "tuple[ad.AnnData, Annotations]":
    """The control cells of a file and their labels."""
    import numpy as np

    from wound_jax.data.annotations import read_annotations

    labels = read_annotations(cast("pd.DataFrame", adata.obs), run.config.data)
    controls = np.flatnonzero(labels.condition == run.spec.control)
    if not len(controls):
        raise UserError(
            f"{path} holds no {run.spec.control!r} cell in obs[{run.config.data.pert_col!r}] "
            f"(present: {', '.join(sorted(set(labels.condition)))}); predictions start from "
            "control cells."
        )
    return adata[controls], labels.take(controls)


def _predict_all(run: "LoadedRun", table, perturbation: str) -> "np.ndarray":
    """Predicted cells in the order of the table, set by set of one type and timepoint."""
    import numpy as np

    from wound_jax.data.days import day_of
    from wound_jax.data.groups import make_groups
    from wound_jax.data.prepare import match_labels
    from wound_jax.inference import Request

    spec, everyone = run.spec, np.arange(len(table.annotations))
    labels = match_labels(run.config.data)
    groups, _ = make_groups(table.annotations, everyone, everyone, labels)
    code = int(spec.perturbations.encode(np.array([perturbation]))[0])
    days = spec.timepoints.encode(np.array([group.timepoint for group in groups]))
    requests = [
        Request(group.targets, code, int(day), day_of(group.timepoint))
        for group, day in zip(groups, days, strict=True)
    ]
    animals = spec.animals.encode(table.annotations.animal)
    parts = run.predictor.predict(table.features, animals, requests, table.scalars)
    out = np.empty((len(everyone), parts[0].shape[1]), np.float32)
    for request, part in zip(requests, parts, strict=True):
        out[request.controls] = part
    return out


def _as_anndata(
    run: "LoadedRun",
    adata: "ad.AnnData",
    table,
    values: "np.ndarray",
    perturbation: str,
    with_controls: bool,
) -> "ad.AnnData":
    import anndata as ad
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    spec = run.spec
    names = spec.genes or tuple(f"{spec.input.split('/')[-1]}_{i}" for i in range(values.shape[1]))
    real = cast("pd.DataFrame", adata.obs)
    obs = real.copy()
    obs[run.config.data.pert_col] = perturbation
    seen = _seen(table.annotations, spec)
    for column, flags in seen.items():
        obs[column] = flags
    parts = [values]
    if with_controls:
        real = real.assign(**seen)
        real.index = [f"{name}-control" for name in real.index]
        obs = pd.concat([obs, real])
        parts.append(table.expression)
    whole = np.concatenate(parts)
    # Expression is mostly zeros where the model's output is rectified: half the size, or less.
    x = sp.csr_matrix(whole) if (whole == 0).mean() > 0.5 else whole
    out = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=pd.Index(names)))
    out.uns["wound_jax"] = {
        "run": run.folder.resolve().name,
        "model": f"wound_jax set transformer, {run.config.model.backbone}",
        "step": run.step,
        "perturbation": perturbation,
        "scale": _scale(spec),
        "with_controls": with_controls,
    }
    return out


def _seen(labels: "Annotations", spec: "DataSpec") -> "dict[str, np.ndarray]":
    """For each cell whether its labels were in training; warns of those that were not."""
    import numpy as np

    known = {
        "cell_type": (labels.cell_type, spec.cell_types),
        "timepoint": (labels.timepoint, spec.timepoints),
        "animal": (labels.animal, spec.animals),
    }
    flags = {}
    for kind, (values, vocabulary) in known.items():
        flags[f"seen_{kind}"] = np.isin(values, vocabulary.names)
        unseen = sorted(set(values[~flags[f"seen_{kind}"]]))
        if unseen and kind != "animal":
            _warn(
                f"no treated cell of {kind} {', '.join(unseen)} was in training; these cells are "
                f"predicted all the same and marked seen_{kind}=False."
            )
    return flags


def _warn_of_missing(preprocessing: "Preprocessing", present: Iterable[str]) -> None:
    """Warns of genes that `--missing zero` fills in, those of a cell's total included."""
    counts = preprocessing.kind == "log1p_cp10k"
    wanted = preprocessing.normalisation_genes if counts else preprocessing.genes
    absent = sorted(set(wanted) - set(present))
    if absent:
        _warn(
            f"{len(absent)} of {len(wanted)} genes are missing and taken as zero "
            f"({', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''})."
        )


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _scale(spec: "DataSpec") -> str:
    if not spec.genes:
        return f"embedding {spec.input}"
    if spec.preprocessing.kind == "none":
        return "log-normalised as in the training file"
    return spec.preprocessing.kind


if __name__ == "__main__":
    sys.exit(main())
