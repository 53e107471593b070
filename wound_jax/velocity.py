"""Command `python -m wound_jax.velocity`: brings RNA velocity into the basis a model works in.

`add` writes a copy of a file with `obsm["velocity_<rep>"]`, estimating gene velocities from spliced
and unspliced counts first where asked; or directions from a pseudotime, for files without splicing.
`diagnose` prints whether the velocity of control cells points to the treated state, against the
null of `wound_jax.data.velocity.null`.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import cast, get_args

import anndata as ad
import numpy as np
import pandas as pd

from wound_jax import cli
from wound_jax.config.schema import DataConfig
from wound_jax.data.annotations import read_annotations
from wound_jax.data.source import is_gene_matrix, matrix
from wound_jax.data.velocity.contract import CONFIDENCE, ESTIMATE, read_velocity, velocity_keys
from wound_jax.data.velocity.from_pseudotime import (
    CAUTION,
    ENGINE,
    PseudotimeOptions,
    add_pseudotime_velocity,
    parse_leave_out,
)
from wound_jax.data.velocity.from_spliced import Engine, add_gene_velocity
from wound_jax.data.velocity.graph import nearest_neighbours, neighbour_confidence
from wound_jax.data.velocity.null import NullOptions, alignment_table
from wound_jax.data.velocity.projection import (
    LOADINGS,
    SCALE,
    by_encoder,
    by_graph,
    by_loadings,
    gene_velocity,
)
from wound_jax.data.velocity.pseudotime import Scheme
from wound_jax.data.velocity.spaces import matrix_key, moving_matrix
from wound_jax.errors import UserError, unknown_name

# Options that do not act in every method, and the methods in which they do.
_METHODS_OF = {
    "loadings": ("linear",),
    "log1p": ("linear",),
    "expression": ("graph", "encoder"),
    "scale": ("graph",),
    "encoder": ("encoder",),
}
# Options that act with --from-pseudotime alone.
_OF_PSEUDOTIME = (
    "pert_col", "control", "cell_type_col", "leave_out", "scheme", "neighbours_in", "preprocess",
)  # fmt: skip
_PREPROCESS = ("none", "log1p_cp10k")
_CIRCULAR = (
    "these directions were made from the treated cells they are compared with; that they point "
    "there is how they were made, and no finding."
)


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0, or 2 when the input is wrong; the message is on stderr.
    """
    args = _parser().parse_args(argv)
    return cli.run(lambda: args.body(args))


def _parser() -> argparse.ArgumentParser:
    what = "Bring RNA velocity into the basis of a representation, and test its use."
    parser = cli.parser("velocity", what)
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
    option(
        "--rep",
        required=True,
        help="representation in obsm, e.g. X_pca; with --from-pseudotime also X or layers/NAME",
    )
    option(
        "--method",
        choices=("linear", "graph", "encoder"),
        help="linear: gene velocity times --loadings; encoder: by the derivative of --encoder; "
        "graph: displacement over a graph of neighbours, for any embedding (default: linear)",
    )
    option("--neighbours", type=int, default=30, help="cells in a neighbourhood (%(default)s)")
    option("--loadings", help=f"linear: varm key of the loadings (default: {LOADINGS})")
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
    option("--scale", type=float, help=f"graph: sharpness of transitions (default: {SCALE:g})")
    _estimate_options(parser)
    _pseudotime_options(parser)


def _estimate_options(parser: argparse.ArgumentParser) -> None:
    estimates = parser.add_mutually_exclusive_group()
    estimates.add_argument(
        "--from-spliced",
        nargs="?",
        const="scvelo",
        choices=get_args(Engine),
        help="estimate gene velocity from layers spliced and unspliced: by scVelo (optional extra "
        "'velocity'; meant where no name is given) or by the built-in steady-state model",
    )
    estimates.add_argument(
        "--from-pseudotime",
        nargs="?",
        const="",
        metavar="KEY",
        help="for files without splicing: directions towards later cells of the obs column KEY, or "
        "of diffusion pseudotime within each cell type where none is named",
    )


def _pseudotime_options(parser: argparse.ArgumentParser) -> None:
    data = DataConfig()
    group = parser.add_argument_group("with --from-pseudotime", f"Mind that {CAUTION}")
    option = group.add_argument
    option("--pert-col", help=f"obs: condition, without KEY (default: {data.pert_col})")
    option("--control", help=f"label of control cells, without KEY (default: {data.control})")
    option(
        "--cell-type-col",
        help=f"obs: groups with an order each (default: {data.cell_type_col}; with KEY none)",
    )
    option(
        "--leave-out",
        action="append",
        metavar="COLUMN=VALUE[,VALUE]",
        help="cells that take no part and get no direction, such as held-out replicates; may be "
        "repeated",
    )
    option("--scheme", choices=get_args(Scheme), help="bias of the graph (default: soft)")
    option("--neighbours-in", metavar="KEY", help="obsm: where neighbours are found")
    option(
        "--preprocess",
        choices=_PREPROCESS,
        help="of X or a layer, as data.preprocess in training (default: none)",
    )


def _diagnose_options(parser: argparse.ArgumentParser) -> None:
    data, null = DataConfig(), NullOptions()
    parser.set_defaults(body=_diagnose)
    option = parser.add_argument
    option("--input", type=Path, required=True, help="h5ad file")
    option(
        "--rep",
        required=True,
        help="representation with a velocity: in obsm, e.g. X_pca, or X or layers/NAME",
    )
    option(
        "--preprocess", choices=_PREPROCESS, default="none", help="of X or a layer (%(default)s)"
    )
    option("--pert-col", default=data.pert_col, help="obs: condition (%(default)s)")
    option("--control", default=data.control, help="label of control cells (%(default)s)")
    option("--cell-type-col", default=data.cell_type_col, help="obs: cell type (%(default)s)")
    option("--replicate-col", help="obs: replicate; control cells are then halved by replicate")
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
    if args.from_pseudotime is None:
        how = _by_gene_velocity(adata, args)
    else:
        how = _by_pseudotime(adata, args)
    key = matrix_key(args.rep)
    found = read_velocity(adata, key, confidence=None)
    _write(adata, args.output)
    kind, _, name = velocity_keys(key)[0].partition("/")
    print(
        f"{args.output}: {kind}['{name}'] of {int(found.known.sum())} of {adata.n_obs} cells, "
        f"{found.velocity.shape[1]} dimensions ({how})"
    )
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuses options that would not act."""
    if args.from_pseudotime is not None:
        return _check_pseudotime_options(args)
    _refuse(args, _OF_PSEUDOTIME, "belongs to --from-pseudotime")
    method = args.method or "linear"
    for name, methods in _METHODS_OF.items():
        if method not in methods:
            _refuse(args, (name,), f"belongs to --method {' or '.join(methods)}, not to {method}")
    if method == "encoder" and args.encoder is None:
        raise UserError("--method encoder needs the encoder: add --encoder MODULE:FUNCTION.")


def _check_pseudotime_options(args: argparse.Namespace) -> None:
    why = "does not act with --from-pseudotime, which moves the representation itself"
    _refuse(args, ("method", *_METHODS_OF), why)
    if args.from_pseudotime:
        why = f"does not act with a pseudotime that is given ({args.from_pseudotime!r})"
        _refuse(args, ("pert_col", "control"), why)
    if not is_gene_matrix(matrix_key(args.rep)):
        _refuse(args, ("preprocess",), f"is for X and layers, not for the embedding {args.rep}")


def _refuse(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, False):
            raise UserError(f"--{name.replace('_', '-')} {why}.")


def _by_pseudotime(adata: ad.AnnData, args: argparse.Namespace) -> str:
    """Adds directions from a pseudotime; says what they are not, and how they were made."""
    data = DataConfig()
    options = PseudotimeOptions(
        key=matrix_key(args.rep),
        pseudotime=args.from_pseudotime or None,
        groups=args.cell_type_col or (None if args.from_pseudotime else data.cell_type_col),
        condition=args.pert_col or data.pert_col,
        control=args.control or data.control,
        leave_out=parse_leave_out(args.leave_out or []),
        scheme=args.scheme or "soft",
        n_neighbours=args.neighbours,
        neighbours_in=args.neighbours_in,
        preprocess=args.preprocess or "none",
    )
    table = add_pseudotime_velocity(adata, options)
    nothing = "" if options.leave_out else " Here no cell was left out."
    print(f"warning: {CAUTION}{nothing}", file=sys.stderr)
    print(table.to_string(index=False, float_format=lambda x: f"{x:.3f}"))
    return f"from pseudotime, {options.scheme}"


def _by_gene_velocity(adata: ad.AnnData, args: argparse.Namespace) -> str:
    """Adds the projection of gene velocities; says by what method."""
    representation = np.asarray(matrix(adata, f"obsm/{args.rep}"))
    if args.from_spliced is not None:
        add_gene_velocity(adata, args.from_spliced, rep=args.rep, n_neighbours=args.neighbours)
    velocity = gene_velocity(adata)
    if CONFIDENCE not in adata.obs:
        neighbours = nearest_neighbours(representation, args.neighbours)
        adata.obs[CONFIDENCE] = neighbour_confidence(velocity, neighbours)
    method = args.method or "linear"
    adata.obsm[f"velocity_{args.rep}"] = _projected(adata, velocity, method, args)
    return method


def _projected(
    adata: ad.AnnData, velocity: np.ndarray, method: str, args: argparse.Namespace
) -> np.ndarray:
    if method == "linear":
        return by_loadings(adata, velocity, args.rep, args.loadings or LOADINGS, log1p=args.log1p)
    if method == "encoder":
        return by_encoder(adata, velocity, args.rep, args.encoder, args.expression or "X")
    key = args.expression or ("layers/Ms" if "Ms" in adata.layers else "X")
    print(f"graph: displacements in {key}, {args.neighbours} neighbours in {args.rep}")
    scale = SCALE if args.scale is None else args.scale
    return by_graph(adata, velocity, args.rep, key, args.neighbours, scale=scale)


def _diagnose(args: argparse.Namespace) -> int:
    adata = _read(args.input)
    config = DataConfig(
        pert_col=args.pert_col,
        control=args.control,
        cell_type_col=args.cell_type_col,
        timepoint_col=None,
        replicate_col=args.replicate_col,
    )
    cells = read_annotations(cast(pd.DataFrame, adata.obs), config)
    if args.control not in cells.condition:
        raise unknown_name("control label (--control)", args.control, set(cells.condition))
    labels = pd.DataFrame({"cell_type": cells.cell_type, "condition": cells.condition})
    if args.replicate_col is not None:
        labels["replicate"] = cells.replicate
    key = matrix_key(args.rep)
    velocity = read_velocity(adata, key, confidence=None)
    representation = moving_matrix(adata, key, args.preprocess, np.arange(adata.n_obs))
    options = NullOptions(args.draws, args.min_cells, args.alpha, args.seed)
    if dict(adata.uns.get(ESTIMATE, {})).get("engine") == ENGINE:
        print(f"warning: {_CIRCULAR}", file=sys.stderr)
    table = alignment_table(representation, velocity, labels, args.control, options)
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


if __name__ == "__main__":
    sys.exit(main())
