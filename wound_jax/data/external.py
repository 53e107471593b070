"""Cells of another file, brought to a trained model's genes and scale by name."""

import numpy as np

from wound_jax.config.schema import DataConfig
from wound_jax.data.annotations import read_annotations, require_control
from wound_jax.data.prepare import CellTable, PreparedData, apply_spec, fingerprint, match_labels
from wound_jax.data.source import read_parts
from wound_jax.data.spec import DataSpec
from wound_jax.data.splits import Split


def read_external(
    path: str, config: DataConfig, spec: DataSpec, *, missing: str = "error"
) -> PreparedData:
    """All cells of a file as held-out cells of a trained model.

    Args:
        path: an h5ad file with the columns that the config names.
        config: names the columns and the matching.
        spec: the model's genes, vocabularies and preprocessing.
        missing: "error", or "zero" to fill absent genes with zeros.

    Raises:
        UserError: a column, the control label or a gene is missing, or the scale is another.
    """
    adata = read_parts(path, {spec.input, config.genes})
    annotations = read_annotations(adata.obs, config)
    require_control(annotations, spec.control)
    cells = CellTable(annotations, *apply_spec(adata, spec, config.genes, missing=missing))
    treated = annotations.condition != spec.control
    nobody = np.zeros(0, dtype=int)
    split = Split(
        kind="external",
        treated={"train": nobody, "val": nobody, "test": np.flatnonzero(treated)},
        controls={"train": nobody, "val": nobody, "test": np.flatnonzero(~treated)},
        leaky=False,
    )
    return PreparedData(cells, split, spec, match_labels(config), fingerprint(cells))
