"""Cells of another file, brought to a trained model's genes and scale by name."""

import numpy as np

from wound_jax.config.schema import DataConfig
from wound_jax.data.annotations import require_control
from wound_jax.data.cells import PreparedData, fingerprint, match_labels
from wound_jax.data.prepare import cell_table, labelled_cells
from wound_jax.data.source import read_parts
from wound_jax.data.spec import DataSpec
from wound_jax.data.splits import Split
from wound_jax.errors import UserError


def read_external(
    path: str, config: DataConfig, spec: DataSpec, *, missing: str = "error"
) -> PreparedData:
    """The cells of a file as held-out cells of a trained model, but for those of `data.exclude`.

    Args:
        path: an h5ad file with the columns that the config names.
        config: names the columns and the matching.
        spec: the model's genes, vocabularies and preprocessing.
        missing: "error", or "zero" to fill absent genes with zeros.

    Raises:
        UserError: a column, the control label or a gene is missing, a condition is unknown to the
            model, or the scale is another.
    """
    decodes = spec.genes and not spec.gene_input
    whole = read_parts(path, {spec.input, *([config.genes] if decodes else [])})
    adata, annotations = labelled_cells(whole, config, strict=False)
    require_control(annotations, spec.control)
    _require_known(set(annotations.condition), spec)
    cells = cell_table(adata, annotations, spec, config.genes, missing=missing)
    treated = annotations.condition != spec.control
    nobody = np.zeros(0, dtype=int)
    split = Split(
        kind="external",
        treated={"train": nobody, "val": nobody, "test": np.flatnonzero(treated)},
        controls={"train": nobody, "val": nobody, "test": np.flatnonzero(~treated)},
        leaky=False,
    )
    digest = fingerprint(cells, spec.genes)
    return PreparedData(cells, split, spec, match_labels(config), digest)


def _require_known(conditions: set[str], spec: DataSpec) -> None:
    unknown = sorted(conditions - set(spec.perturbations.names))
    if unknown:
        raise UserError(
            f"the file holds cells of condition {', '.join(unknown)}, but the model was trained on "
            f"{', '.join(spec.perturbations.names)} alone; leave the others out of the file."
        )
