"""Command `python -m wound_jax.velocity`: brings RNA velocity into the basis a model works in.

`add` writes a copy of a file with `obsm["velocity_<rep>"]`, estimating gene velocities from spliced
and unspliced counts first where asked; or directions from a pseudotime, for files without splicing.
`diagnose` prints whether the velocity of control cells points to the treated cells, against the
null of `wound_jax.data.velocity.null`.
"""

import argparse
import sys

import numpy as np

from wound_jax import cli
from wound_jax.data.source import read_whole
from wound_jax.data.velocity.contract import from_pseudotime, read_velocity, velocity_keys
from wound_jax.data.velocity.estimate import add_gene_velocity
from wound_jax.data.velocity.graph import matrix_key, moving_matrix
from wound_jax.data.velocity.null import CIRCULAR, alignment_table
from wound_jax.data.velocity.options import (
    check,
    labels_of,
    null_options,
    parser,
    projection_options,
    pseudotime_options,
)
from wound_jax.data.velocity.projection import add_projection
from wound_jax.data.velocity.pseudotime import CAUTION, add_pseudotime_velocity
from wound_jax.errors import UserError, shown
from wound_jax.files import inert, replacing, require_place, write_text


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0, or 2 when the input is wrong; the message is on stderr.
    """
    args = parser(_add, _diagnose).parse_args(argv)
    return cli.run(lambda: args.body(args))


def _add(args: argparse.Namespace) -> int:
    check(args)
    if args.output.exists() and not args.overwrite:
        raise UserError(f"{args.output} exists; choose another name or add --overwrite.")
    require_place(args.output)
    adata = read_whole(args.input)
    key = matrix_key(args.rep)
    if args.from_pseudotime is not None:
        options = pseudotime_options(args)
        table = add_pseudotime_velocity(adata, options)
        nothing = "" if options.leave_out else " Here no cell was left out."
        print(f"warning: {CAUTION}{nothing}", file=sys.stderr)
        print(shown(table.to_string(index=False, float_format=lambda x: f"{x:.3f}")))
        how = f"from pseudotime, {options.scheme}"
    else:
        if args.from_spliced is not None:
            add_gene_velocity(adata, args.from_spliced, rep=args.rep, n_neighbours=args.neighbours)
        how = add_projection(adata, projection_options(args))
    found = read_velocity(adata, key, confidence=None)
    with replacing(args.output) as part:
        adata.write_h5ad(part)
    kind, _, name = velocity_keys(key)[0].partition("/")
    print(
        f"{args.output}: {kind}['{name}'] of {int(found.known.sum())} of {adata.n_obs} cells, "
        f"{found.velocity.shape[1]} dimensions ({how})"
    )
    return 0


def _diagnose(args: argparse.Namespace) -> int:
    adata, key = read_whole(args.input), matrix_key(args.rep)
    labels = labels_of(adata, args)
    velocity = read_velocity(adata, key, confidence=None)
    everyone, trust = np.arange(adata.n_obs), args.trust_scale
    cells = moving_matrix(adata, key, args.preprocess, everyone, trust_scale=trust)
    if from_pseudotime(adata):
        print(f"warning: {CIRCULAR}", file=sys.stderr)
    table = alignment_table(cells, velocity, labels, args.control, null_options(args))
    print(f"{velocity.source}: do {shown(args.control)} cells move to the other conditions?")
    print(shown(table.to_string(index=False, float_format=lambda x: f"{x:.4g}")))
    if args.csv is not None:
        write_text(args.csv, table.map(inert).to_csv(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
