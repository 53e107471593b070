"""`python -m wound_jax synthetic --output CELLS.h5ad`: the synthetic wound set as h5ad files.

The measured cells go to `--output`; the truth (counterfactual of each control cell, true effect)
goes to a file of its own, and only when `--truth` asks for it, so that no training reads it.
"""

import argparse
import sys
from pathlib import Path

import anndata as ad
from pydantic import ValidationError

from wound_jax import cli
from wound_jax.data.settings import SyntheticSettings
from wound_jax.data.synthetic import simulate
from wound_jax.errors import UserError
from wound_jax.files import replacing, require_place

_HELP = {
    "n_cells": "cells in all",
    "n_genes": "genes in all, marker genes included",
    "embedding_dim": "width of obsm['X_state_baseline']",
    "mouse_sd": "spread of the mice on the log expression of a gene",
    "effect_scale": "factor on the burn effect; 0 switches it off",
    "seed": "seed; the same settings write the same numbers",
}


def main(argv: list[str] | None = None) -> int:
    """Writes the files; returns the exit status."""
    args = _parser().parse_args(argv)
    return cli.run(lambda: _write(args))


def _parser() -> argparse.ArgumentParser:
    what = "Write the synthetic wound set: simulated burnt and sham mouse skin."
    parser = cli.parser("synthetic", what)
    parser.add_argument("--output", type=Path, required=True, help="h5ad file of the cells")
    parser.add_argument("--truth", type=Path, help="h5ad file of the counterfactual and effect")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    for name, field in SyntheticSettings.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            help=f"{_HELP[name]} (default: %(default)s)",
        )
    return parser


def _config(args: argparse.Namespace) -> SyntheticSettings:
    try:
        return SyntheticSettings(**{name: getattr(args, name) for name in _HELP})
    except ValidationError as e:
        faults = [
            f"--{str(fault['loc'][0]).replace('_', '-')} {fault['input']}: {fault['msg']}"
            for fault in e.errors()
        ]
        raise UserError("; ".join(faults) + ".") from e


def _check_target(path: Path, overwrite: bool) -> None:
    if path.suffix != ".h5ad":
        raise UserError(f"{path} does not end in .h5ad, the format that is written; rename it.")
    if not path.parent.is_dir():
        raise UserError(f"no folder {path.parent} to write {path.name} into; make it first.")
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; choose another name or add --overwrite.")
    require_place(path)
    if path.is_dir():
        raise UserError(f"{path} is not a file and cannot be overwritten; choose another name.")


def _write(args: argparse.Namespace) -> int:
    config = _config(args)
    targets = [path for path in (args.output, args.truth) if path is not None]
    if len({path.resolve() for path in targets}) < len(targets):
        raise UserError("--output and --truth name one file; give each its own.")
    for path in targets:
        _check_target(path, args.overwrite)
    wound = simulate(config)
    _save(wound.adata, args.output)
    if args.truth is not None:
        _save(wound.truth.adata, args.truth)
    return 0


def _save(adata: ad.AnnData, path: Path) -> None:
    with replacing(path) as part:
        adata.write_h5ad(part)
    print(f"{path}: {adata.n_obs} cells x {adata.n_vars} genes")


if __name__ == "__main__":
    sys.exit(main())
