"""The cells of a run that trains from a store: labels in memory, expression on disk.

Split, vocabularies, plan and fingerprint are those of the same run in memory.
"""

import hashlib

import numpy as np

from wound_jax.config.schema import RunConfig
from wound_jax.data.annotations import Annotations, read_annotations, require_control
from wound_jax.data.cells import Cells, PreparedData, match_labels
from wound_jax.data.fit import (
    fit_scalars,
    non_negative,
    require_counts,
    training_labels,
)
from wound_jax.data.scalars import read_scalars
from wound_jax.data.settings import file_path
from wound_jax.data.spec import DataSpec
from wound_jax.data.splits import Split, make_split
from wound_jax.data.store.files import Store, labels_digest, open_store, training_digest
from wound_jax.data.store.seal import CONVERT
from wound_jax.data.timepoints import require_times
from wound_jax.errors import UserError


def prepare_store(config: RunConfig, spec: DataSpec | None = None) -> PreparedData:
    """The cells of a run whose `data.path` is a training store.

    Args:
        config: which columns, which split.
        spec: of a trained model; None takes genes and scale from the store, the rest from the
            training cells.

    Raises:
        UserError: the store is none, or was converted with other settings, on other training
            cells, or for another model.
    """
    data = config.data
    store = open_store(file_path(data))
    annotations = read_annotations(store.obs, data)
    require_control(annotations, data.control)
    split = make_split(annotations, data.control, config.split)
    if spec is None:
        _require_settings(store, config, split)
        spec = _fit_spec(store, annotations, split, config)
        require_counts(spec, config.prediction)
    elif spec.preprocessing != store.preprocessing:
        raise UserError(
            f"{store.path} holds {len(store.genes)} genes ({store.record.preprocess}), not the "
            f"{len(spec.genes)} genes ({spec.preprocessing.kind}) of the model, or others; restore "
            "the store the model was trained on."
        )
    if config.model.timepoint_embedding == "continuous":
        require_times(annotations.timepoint)
    scalars = read_scalars(store.obs, spec.scalars)
    replicate = spec.replicates.encode(annotations.replicate)
    cells = Cells(annotations, store.rows, replicate, scalars=scalars)
    digest = _fingerprint(store, annotations, scalars)
    return PreparedData(cells, split, spec, match_labels(data), digest)


def _require_settings(store: Store, config: RunConfig, split: Split) -> None:
    """Refuses a store that holds other cells, genes or values than the config asks for."""
    problems = store.record.problems(config.data)
    if not problems and store.record.chosen_on not in (None, training_digest(split)):
        problems = [
            f"its {len(store.genes)} variable genes were chosen on the training cells of another "
            "split (split.*), some of which this run holds out"
        ]
    if problems:
        raise UserError(
            f"{store.path} does not fit the config: {'; '.join(problems)}. Set these keys as they "
            f"were, or convert the cells again: {CONVERT}."
        )


def _fit_spec(store: Store, annotations: Annotations, split: Split, config: RunConfig) -> DataSpec:
    data, scalars = config.data, config.model.scalars
    columns = scalars.columns if scalars.enable else ()
    return DataSpec(
        input=data.input,
        gene_input=True,
        input_width=len(store.genes),
        preprocessing=store.preprocessing,
        control=data.control,
        non_negative=store.record.non_negative or non_negative(store.rows, split.training_cells),
        scalars=fit_scalars(store.obs, columns, split.training_cells),
        **training_labels(annotations, split, data),
    )


def _fingerprint(store: Store, annotations: Annotations, scalars: np.ndarray | None) -> str:
    """That of the same cells in memory, unless their labels are read from other columns now."""
    labels = labels_digest(annotations)
    if labels == store.record.labels and scalars is None:
        return store.record.fingerprint
    digest = hashlib.blake2b(f"{store.record.fingerprint}{labels}".encode(), digest_size=16)
    if scalars is not None:
        digest.update(np.ascontiguousarray(scalars).data)
    return digest.hexdigest()
