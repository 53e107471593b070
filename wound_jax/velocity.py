"""Command `python -m wound_jax.velocity`: brings RNA velocity into the basis a model works in.

`add` writes a copy of a file with `obsm["velocity_<rep>"]`, estimating gene velocities from spliced
and unspliced counts first where asked. `diagnose` prints whether the velocity of control cells
points to the treated state, against the null of `wound_jax.data.velocity.null`.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import cast, get_args

import anndata as ad
import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse as sp

from wound_jax.cli import run
from wound_jax.config.schema import DataConfig
from wound_jax.data.annotations import read_annotations
from wound_jax.data.source import matrix
from wound_jax.data.velocity.contract import CONFIDENCE, GENE_VELOCITY, read_velocity
from wound_jax.data.velocity.from_spliced import Engine, add_gene_velocity
from wound_jax.data.velocity.graph import (
    nearest_neighbours,
    neighbour_confidence,
    project_graph,
)
from wound_jax.data.velocity.null import NullOptions, alignment_table
from wound_jax.data.velocity.projection import (
    Encoder,
    loadings_agreement,
    log1p_velocity,
    project_encoder,
    project_linear,
)
from wound_jax.errors import UserError, unknown_name

_LOADINGS = "PCs"
# As in scVelo.
_SCALE = 10.0
# Options that do not act in every method, and the methods in which they do.
_METHODS_OF = {
    "loadings": ("linear",),
    "log1p": ("linear",),
    "expression": ("graph", "encoder"),
    "scale": ("graph",),
    "encoder": ("encoder",),
}
# Below this the loadings, or the encoder, are those of some other representation.
_SAME_BASIS = 0.9
_CHECKED_CELLS = 2_000


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0, or 2 when the input is wrong; the message is on stderr.
    """
    args = _parser().parse_args(argv)
    return run(lambda: args.body(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wound_jax.velocity",
        description="Bring RNA velocity into the basis of a representation, and test its use.",
    )
    commands = parser.add_subparsers(required=True, metavar="{add,diagnose}")
    _add_options(commands.add_parser("add", help="add obsm['velocity_<rep>'] to a file"))
    _diagnose_options(commands.add_parser("diagnose", help="does velocity point to the effect?"))
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(body=_add)
    option = parser.add_argument
    option("--input", type=Path, required=True, help="h5ad file")
    option("--output", type=Path, required=True, help="h5ad file to write")
    option("--overwrite", action="store_true", help="replace --output if it exists")
    option("--rep", required=True, help="representation in obsm, e.g. X_pca")
    option(
        "--method",
        choices=("linear", "graph", "encoder"),
        default="linear",
        help="linear: gene velocity times --loadings; encoder: by the derivative of --encoder; "
        "graph: displacement over a graph of neighbours, for any embedding (default: %(default)s)",
    )
    option("--neighbours", type=int, default=30, help="cells in a neighbourhood (%(default)s)")
    option("--loadings", help=f"linear: varm key of the loadings (default: {_LOADINGS})")
    option(
        "--log1p",
        action="store_true",
        help="linear: the velocity is of the counts layers['Ms'], the representation of their "
        "log(1 + x); apply the chain rule",
    )
    option(
        "--expression",
        help="graph, encoder: matrix that velocities are changes of (default: X; for graph "
        "layers/Ms if there)",
    )
    option(
        "--encoder",
        metavar="MODULE:FUNCTION",
        help="encoder: a JAX function from expression [cells, genes] to the representation",
    )
    option("--scale", type=float, help=f"graph: sharpness of transitions (default: {_SCALE:g})")
    _estimate_option(parser)


def _estimate_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from-spliced",
        nargs="?",
        const="scvelo",
        choices=get_args(Engine),
        help="estimate gene velocity from layers spliced and unspliced: by scVelo (optional extra "
        "'velocity'; meant where no name is given) or by the built-in steady-state model",
    )


def _diagnose_options(parser: argparse.ArgumentParser) -> None:
    data, null = DataConfig(), NullOptions()
    parser.set_defaults(body=_diagnose)
    option = parser.add_argument
    option("--input", type=Path, required=True, help="h5ad file")
    option("--rep", required=True, help="representation in obsm with a velocity, e.g. X_pca")
    option("--pert-col", default=data.pert_col, help="obs: condition (%(default)s)")
    option("--control", default=data.control, help="label of control cells (%(default)s)")
    option("--cell-type-col", default=data.cell_type_col, help="obs: cell type (%(default)s)")
    option("--animal-col", help="obs: animal; control cells are then halved by animal")
    option("--draws", type=int, default=null.draws, help="sign patterns drawn (%(default)s)")
    option("--min-cells", type=int, default=null.min_cells, help="fewest cells (%(default)s)")
    option("--alpha", type=float, default=null.alpha, help="false discovery rate (%(default)s)")
    option("--seed", type=int, default=null.seed, help="seed (%(default)s)")
    option("--csv", type=Path, help="also write the table to this file")


def _add(args: argparse.Namespace) -> int:
    _check_options(args)
    if args.output.exists() and not args.overwrite:
        raise UserError(f"{args.output} exists; choose another name or add --overwrite.")
    adata = _read(args.input)
    representation = np.asarray(matrix(adata, f"obsm/{args.rep}"))
    if args.from_spliced is not None:
        add_gene_velocity(adata, args.from_spliced, rep=args.rep, n_neighbours=args.neighbours)
    velocity = _gene_velocity(adata)
    if CONFIDENCE not in adata.obs:
        neighbours = nearest_neighbours(representation, args.neighbours)
        adata.obs[CONFIDENCE] = neighbour_confidence(velocity, neighbours)
    project = {"linear": _linear, "graph": _graph, "encoder": _encoder}[args.method]
    projected = project(adata, velocity, representation, args)
    adata.obsm[f"velocity_{args.rep}"] = projected
    _write(adata, args.output)
    known = int((~np.isnan(projected).any(axis=1)).sum())
    print(
        f"{args.output}: obsm['velocity_{args.rep}'] of {known} of {adata.n_obs} cells, "
        f"{projected.shape[1]} dimensions ({args.method})"
    )
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuses options that would not act."""
    for name, methods in _METHODS_OF.items():
        if args.method not in methods and getattr(args, name) not in (None, False):
            raise UserError(
                f"--{name} belongs to --method {' or '.join(methods)}, not to {args.method}."
            )
    if args.method == "encoder" and args.encoder is None:
        raise UserError("--method encoder needs the encoder: add --encoder MODULE:FUNCTION.")


def _gene_velocity(adata: ad.AnnData) -> np.ndarray:
    """[cells, genes], NaN where unknown."""
    if "velocity" not in adata.layers and {"spliced", "unspliced"} <= set(adata.layers):
        raise UserError(
            "the file has spliced and unspliced counts, but no layers['velocity']; add "
            "--from-spliced to estimate it (needs pip install 'wound_jax[velocity]'), or "
            "--from-spliced steady_state for the built-in estimate."
        )
    found = read_velocity(adata, GENE_VELOCITY, confidence=None)
    return np.where(found.known[:, None] & found.dims, found.velocity, np.nan)


def _linear(
    adata: ad.AnnData, velocity: np.ndarray, representation: np.ndarray, args: argparse.Namespace
) -> np.ndarray:
    key = args.loadings or _LOADINGS
    if key not in adata.varm:
        raise UserError(
            f"--method linear needs the loadings of {args.rep} in varm[{key!r}], but "
            f"varm has {', '.join(adata.varm.keys()) or 'nothing'}. Name them by --loadings, or "
            "use --method graph."
        )
    loadings = np.asarray(adata.varm[key])
    if loadings.shape[1] != representation.shape[1]:
        raise UserError(
            f"varm[{key!r}] has {loadings.shape[1]} columns and obsm[{args.rep!r}] has "
            f"{representation.shape[1]}; they do not belong together."
        )
    rows = slice(0, _CHECKED_CELLS)
    agreement = loadings_agreement(_dense(adata, "X", rows), loadings, representation[rows])
    if agreement < _SAME_BASIS:
        raise UserError(
            f"X times varm[{key!r}] does not reproduce obsm[{args.rep!r}] (correlation "
            f"{agreement:.2f}); a velocity projected by them would be in another basis. Put the "
            "matrix they were fitted on into X, or use --method graph."
        )
    if args.log1p:
        velocity = log1p_velocity(velocity, _dense(adata, "layers/Ms"))
    return project_linear(velocity, loadings)


def _graph(
    adata: ad.AnnData, velocity: np.ndarray, representation: np.ndarray, args: argparse.Namespace
) -> np.ndarray:
    key = args.expression or ("layers/Ms" if "Ms" in adata.layers else "X")
    print(f"graph: displacements in {key}, {args.neighbours} neighbours in {args.rep}")
    neighbours = nearest_neighbours(representation, args.neighbours)
    expression = _dense(adata, key)
    scale = _SCALE if args.scale is None else args.scale
    return project_graph(velocity, expression, representation, neighbours, scale=scale)


def _encoder(
    adata: ad.AnnData, velocity: np.ndarray, representation: np.ndarray, args: argparse.Namespace
) -> np.ndarray:
    encoder = _load_encoder(args.encoder)
    expression = _dense(adata, args.expression or "X")
    encoded = np.asarray(encoder(jnp.asarray(expression[:_CHECKED_CELLS])))
    expected = representation[:_CHECKED_CELLS]
    same_shape = encoded.shape == expected.shape
    agreement = np.corrcoef(encoded.ravel(), expected.ravel())[0, 1] if same_shape else np.nan
    if not agreement >= _SAME_BASIS:
        raise UserError(
            f"{args.encoder} does not reproduce obsm[{args.rep!r}] (shape {encoded.shape} against "
            f"{expected.shape}, correlation {agreement:.2f}); give the encoder that made it, or "
            "name the matrix it encodes by --expression."
        )
    return project_encoder(encoder, expression, velocity)


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


def _diagnose(args: argparse.Namespace) -> int:
    adata = _read(args.input)
    config = DataConfig(
        pert_col=args.pert_col,
        control=args.control,
        cell_type_col=args.cell_type_col,
        timepoint_col=None,
        animal_col=args.animal_col,
    )
    cells = read_annotations(cast(pd.DataFrame, adata.obs), config)
    if args.control not in cells.condition:
        raise unknown_name("control label (--control)", args.control, set(cells.condition))
    labels = pd.DataFrame({"cell_type": cells.cell_type, "condition": cells.condition})
    if args.animal_col is not None:
        labels["animal"] = cells.animal
    key = f"obsm/{args.rep}"
    velocity = read_velocity(adata, key, confidence=None)
    options = NullOptions(args.draws, args.min_cells, args.alpha, args.seed)
    table = alignment_table(np.asarray(matrix(adata, key)), velocity, labels, args.control, options)
    print(f"{velocity.source}: do {args.control} cells move to the other conditions?")
    print(table.to_string(index=False, float_format=lambda x: f"{x:.4g}"))
    if args.csv is not None:
        table.to_csv(args.csv, index=False)
    return 0


def _read(path: Path) -> ad.AnnData:
    if not path.is_file():
        raise UserError(f"no file at {path}.")
    try:
        return ad.read_h5ad(path)
    except OSError as e:
        raise UserError(f"{path} is not an h5ad (HDF5) file: {e}") from e


def _write(adata: ad.AnnData, path: Path) -> None:
    """Writes beside the target, then renames: a broken run leaves no half file under its name."""
    part = path.with_name(path.name + ".part")
    adata.write_h5ad(part)
    os.replace(part, path)


def _dense(adata: ad.AnnData, key: str, rows: slice = slice(None)) -> np.ndarray:
    values = matrix(adata, key)[rows]
    return values.toarray() if isinstance(values, sp.csr_matrix) else values


if __name__ == "__main__":
    sys.exit(main())
