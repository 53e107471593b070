"""`python -m wound_jax convert --config CONFIG --output STORE.h5ad [key=value ...]`.

Rewrites a file once as a training store, from which runs train that do not fit in memory: genes
chosen, values on the model's scale, rows quick to read. `docs/large_data.md` says what to expect.
"""

import argparse
import sys
import time

from wound_jax import cli
from wound_jax.config import RunConfig, load_config
from wound_jax.config.rules import require_data_source
from wound_jax.data.settings import FileData, file_path
from wound_jax.errors import UserError

_EXAMPLES = """example:
  python -m wound_jax convert --config configs/burn_sham_gene.yaml data.path=big.h5ad \\
      --output big_store.h5ad
  python -m wound_jax train --config configs/burn_sham_gene.yaml data.path=big_store.h5ad \\
      data.location=disk
"""


def main(argv: list[str] | None = None) -> int:
    """Converts one file; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    return cli.run(lambda: _main(arguments))


def _parser() -> argparse.ArgumentParser:
    what = "Rewrite a file as a training store, for data.location=disk."
    parser = cli.parser("convert", what, _EXAMPLES)
    parser.add_argument("--config", required=True, help="config of the runs that will train")
    parser.add_argument("--output", required=True, help="store to write (.h5ad)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing store")
    cli.add_no_progress(parser)
    cli.add_overrides(parser)
    return parser


def _main(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, arguments.overrides)
    _require_convertible(config)
    overwrite = arguments.overwrite
    output = cli.new_file(
        arguments.output, file_path(config.data), "data.path", overwrite=overwrite
    )
    # Everything heavy is imported once the config is known to be sound.
    from wound_jax.data.store.convert import convert

    start = time.perf_counter()
    store = convert(config, output, progress=not arguments.no_progress)
    n_cells, n_genes = store.rows.shape
    print(
        f"{n_cells} cells x {n_genes} genes, {output.stat().st_size / 1e9:.2f} GB, in {output} "
        f"after {time.perf_counter() - start:.0f} s; train with data.path={output} "
        "data.location=disk",
        file=sys.stderr,
    )
    return 0


def _require_convertible(config: RunConfig) -> None:
    require_data_source(config)
    if not isinstance(config.data, FileData):
        raise UserError(
            f"data.source={config.data.source} is in memory; write it to a file first "
            "(python -m wound_jax synthetic), or train with data.location=device."
        )
    if config.data.is_embedding:
        raise UserError(
            f"data.input={config.data.input} is an embedding; a training store holds expression: "
            "set data.input=X or layers/NAME."
        )


if __name__ == "__main__":
    sys.exit(main())
