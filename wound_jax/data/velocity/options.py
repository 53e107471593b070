"""Options of `python -m wound_jax.velocity`: which there are, which act together, what they say."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import anndata as ad
import pandas as pd

from wound_jax import cli
from wound_jax.config.text import parse_yaml
from wound_jax.data.annotations import read_annotations
from wound_jax.data.settings import DataSettings
from wound_jax.data.source import is_gene_matrix
from wound_jax.data.velocity.estimate import Engine
from wound_jax.data.velocity.graph import SCALE, matrix_key
from wound_jax.data.velocity.null import NullOptions
from wound_jax.data.velocity.projection import Method, ProjectionOptions
from wound_jax.data.velocity.pseudotime import CAUTION, PseudotimeOptions, Scheme
from wound_jax.errors import UserError, unknown_name
from wound_jax.registry import as_read

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
    "trust_scale",
)  # fmt: skip
_PREPROCESS = ("none", "log1p_cp10k")
_DATA, _NULL = DataSettings(), NullOptions()

_ADD: dict[str, dict[str, Any]] = {
    "--input": {"type": Path, "required": True, "help": "h5ad file"},
    "--output": {"type": Path, "required": True, "help": "h5ad file to write"},
    "--overwrite": {"action": "store_true", "help": "replace --output if it exists"},
    "--rep": {
        "required": True,
        "help": "representation in obsm, e.g. X_pca; with --from-pseudotime also X or layers/NAME",
    },
    "--method": {
        "choices": get_args(Method),
        "help": "linear: gene velocity times --loadings; encoder: by the derivative of --encoder; "
        "graph: displacement over a graph of neighbours, for any embedding (default: linear)",
    },
    "--neighbours": {
        "type": cli.count,
        "default": 30,
        "help": "cells in a neighbourhood (%(default)s)",
    },
    "--loadings": {
        "help": f"linear: varm key of the loadings (default: {ProjectionOptions.loadings})"
    },
    "--log1p": {
        "action": "store_true",
        "help": "linear: the velocity is of the counts layers['Ms'], the representation of their "
        "log(1 + x); apply the chain rule",
    },
    "--expression": {
        "help": "graph, encoder: matrix that velocities are changes of (default: X; for graph "
        "layers/Ms if there)"
    },
    "--encoder": {
        "metavar": "MODULE:FUNCTION",
        "help": "encoder: a JAX function from expression [cells, genes] to the representation",
    },
    "--scale": {
        "type": cli.positive,
        "help": f"graph: sharpness of transitions (default: {SCALE:g})",
    },
}
# At most one of these.
_SOURCES: dict[str, dict[str, Any]] = {
    "--from-spliced": {
        "nargs": "?",
        "const": "steady_state",
        "choices": get_args(Engine),
        "help": "estimate gene velocity from layers spliced and unspliced by scVelo (optional "
        "extra 'velocity'): its deterministic mode (where no name is given), or its full kinetics",
    },
    "--from-pseudotime": {
        "nargs": "?",
        "const": "",
        "metavar": "KEY",
        "help": "for files without splicing: directions towards later cells of the obs column KEY, "
        "or of diffusion pseudotime within each cell type where none is named",
    },
}
_PSEUDOTIME: dict[str, dict[str, Any]] = {
    "--pert-col": {"help": f"obs: condition, without KEY (default: {_DATA.pert_col})"},
    "--control": {
        "type": as_read,
        "help": f"label of control cells, without KEY (default: {_DATA.control})",
    },
    "--cell-type-col": {
        "help": f"obs: groups with an order each (default: {_DATA.cell_type_col}; with KEY none)"
    },
    "--leave-out": {
        "action": "append",
        "metavar": "COLUMN=VALUE[,VALUE]",
        "help": "cells that take no part and get no direction, such as held-out replicates; may be "
        "repeated; for a label with a comma COLUMN='[\"A, B\", C]'",
    },
    "--scheme": {"choices": get_args(Scheme), "help": "bias of the graph (default: soft)"},
    "--neighbours-in": {"metavar": "KEY", "help": "obsm: where neighbours are found"},
    "--preprocess": {
        "choices": _PREPROCESS,
        "help": "of X or a layer, as data.preprocess in training (default: none)",
    },
    "--trust-scale": {"action": "store_true", "help": "as data.scale=trust in training"},
}
_DIAGNOSE: dict[str, dict[str, Any]] = {
    "--input": {"type": Path, "required": True, "help": "h5ad file"},
    "--rep": {
        "required": True,
        "help": "representation with a velocity: in obsm, e.g. X_pca, or X or layers/NAME",
    },
    "--preprocess": {"choices": _PREPROCESS, "default": "none", "help": "of X or a layer"},
    "--trust-scale": {"action": "store_true", "help": "as data.scale=trust in training"},
    "--pert-col": {"default": _DATA.pert_col, "help": "obs: condition"},
    "--control": {"type": as_read, "default": _DATA.control, "help": "label of control cells"},
    "--cell-type-col": {"default": _DATA.cell_type_col, "help": "obs: cell type"},
    "--replicate-col": {"help": "obs: replicate; control cells are then halved by replicate"},
    "--draws": {"type": int, "default": _NULL.draws, "help": "sign patterns drawn"},
    "--min-cells": {"type": int, "default": _NULL.min_cells, "help": "fewest cells"},
    "--alpha": {"type": float, "default": _NULL.alpha, "help": "false discovery rate"},
    "--seed": {"type": cli.seed, "default": _NULL.seed, "help": "seed"},
    "--csv": {"type": Path, "help": "also write the table to this file"},
}
Body = Callable[[argparse.Namespace], int]


def parser(add: Body, diagnose: Body) -> argparse.ArgumentParser:
    """The parser of the command; `body` of what it reads is the function to run."""
    what = "Bring RNA velocity into the basis of a representation, and test its use."
    whole = cli.parser("velocity", what)
    commands = whole.add_subparsers(required=True, metavar="{add,diagnose}")
    one = commands.add_parser("add", help="add obsm['velocity_<rep>'] to a file")
    one.set_defaults(body=add)
    _add_all(one, _ADD)
    _add_all(one.add_mutually_exclusive_group(), _SOURCES)
    _add_all(one.add_argument_group("with --from-pseudotime", f"Mind that {CAUTION}"), _PSEUDOTIME)
    other = commands.add_parser(
        "diagnose",
        help="does velocity point to the treated cells?",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    other.set_defaults(body=diagnose)
    _add_all(other, _DIAGNOSE)
    return whole


def _add_all(to: Any, options: dict[str, dict[str, Any]]) -> None:
    for flag, settings in options.items():
        to.add_argument(flag, **settings)


def check(args: argparse.Namespace) -> None:
    """Refuses options of `add` that would not act.

    Raises:
        UserError: there is one, or --encoder is missing.
    """
    if args.from_pseudotime is not None:
        return _check_pseudotime(args)
    _refuse(args, _OF_PSEUDOTIME, "belongs to --from-pseudotime")
    method = args.method or "linear"
    for name, methods in _METHODS_OF.items():
        if method not in methods:
            _refuse(args, (name,), f"belongs to --method {' or '.join(methods)}, not to {method}")
    if method == "encoder" and args.encoder is None:
        raise UserError("--method encoder needs the encoder: add --encoder MODULE:FUNCTION.")


def _check_pseudotime(args: argparse.Namespace) -> None:
    why = "does not act with --from-pseudotime, which moves the representation itself"
    _refuse(args, ("method", *_METHODS_OF), why)
    if args.from_pseudotime:
        why = f"does not act with a pseudotime that is given ({args.from_pseudotime!r})"
        _refuse(args, ("pert_col", "control"), why)
    if not is_gene_matrix(matrix_key(args.rep)):
        _refuse(
            args,
            ("preprocess", "trust_scale"),
            f"is for X and layers, not for the embedding {args.rep}",
        )


def _refuse(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, False):
            raise UserError(f"--{name.replace('_', '-')} {why}.")


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were typed; the others keep the defaults of their record."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def projection_options(args: argparse.Namespace) -> ProjectionOptions:
    """How `add` is to project velocities of genes."""
    named = _given(args, "method", "loadings", "log1p", "expression", "encoder", "scale")
    return ProjectionOptions(args.rep, n_neighbours=args.neighbours, **named)


def pseudotime_options(args: argparse.Namespace) -> PseudotimeOptions:
    """How `add` is to make directions from a pseudotime."""
    return PseudotimeOptions(
        key=matrix_key(args.rep),
        pseudotime=args.from_pseudotime or None,
        groups=args.cell_type_col or (None if args.from_pseudotime else _DATA.cell_type_col),
        condition=args.pert_col or _DATA.pert_col,
        control=args.control or _DATA.control,
        leave_out=parse_leave_out(args.leave_out or []),
        n_neighbours=args.neighbours,
        **_given(args, "scheme", "neighbours_in", "preprocess", "trust_scale"),
    )


def null_options(args: argparse.Namespace) -> NullOptions:
    """How `diagnose` is to draw and read the null."""
    return NullOptions(args.draws, args.min_cells, args.alpha, args.seed)


def labels_of(adata: ad.AnnData, args: argparse.Namespace) -> pd.DataFrame:
    """The labels that `diagnose` compares by, as `alignment_table` takes them.

    Raises:
        UserError: a column is missing or not filled in, or no cell carries the control label.
    """
    config = DataSettings(
        pert_col=args.pert_col,
        control=args.control,
        cell_type_col=args.cell_type_col,
        timepoint_col=None,
        replicate_col=args.replicate_col,
    )
    cells = read_annotations(cast(pd.DataFrame, adata.obs), config)
    if config.control not in cells.condition:
        raise unknown_name("control label (--control)", config.control, set(cells.condition))
    labels = pd.DataFrame({"cell_type": cells.cell_type, "condition": cells.condition})
    return labels if args.replicate_col is None else labels.assign(replicate=cells.replicate)


def parse_leave_out(leave_out: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Cells to leave out, obs column -> values, from COLUMN=VALUE[,VALUE], one or several.

    Values that hold a comma are written as in a config: COLUMN=["A, B", C].

    Raises:
        UserError: one of them has another form.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in leave_out:
        column, equals, values = text.partition("=")
        named = _values_named(values.strip(), f"--leave-out {text!r}")
        if not equals or not column or not named:
            raise UserError(
                f"--leave-out {text!r}: expected COLUMN=VALUE[,VALUE], such as donor=1256,1488, or "
                """a list, such as type='["A, B", C]'."""
            )
        found[column] = found.get(column, ()) + named
    return found


def _values_named(text: str, source: str) -> tuple[str, ...]:
    """The values of a list in brackets, or of one between commas."""
    if text.startswith("[") and text.endswith("]"):
        listed = parse_yaml(text, source)
        return tuple(as_read(str(value)) for value in listed)
    return tuple(as_read(value) for value in text.split(",") if as_read(value))
