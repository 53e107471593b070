"""Cells of an experiment: prepared once for all runs that read the same, and comparable.

Variants that read the same columns under the same split get the same arrays and one reference; a
second preparation would cost minutes and memory. The reference (genes, components, baselines) takes
the seed of the split, so that runs of different seeds are measured by one.

Where runs read other cells, their figures mean the same if they share

    split    the same cells train, validate and test
    genes    predictions are scored in the same space, the same genes in the same order
    scale    expression is in the same units

Anything else may differ; that is what a comparison is about.
"""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from wound_jax.config.schema import RunConfig
from wound_jax.data.cells import PreparedData
from wound_jax.data.prepare import prepare
from wound_jax.data.spec import DataSpec
from wound_jax.data.splits import PARTS
from wound_jax.errors import UserError
from wound_jax.evaluation.files import Deltas
from wound_jax.evaluation.reference import Reference, fit_reference
from wound_jax.experiments.finished import FinishedRun
from wound_jax.experiments.spec import ASPECTS

# Means of real cells agree to the last digits of float32, whichever program computed them.
_TOLERANCE = 1e-4
# Keys of the velocity section that only the loss reads; any other one may decide the cells.
_OF_THE_LOSS = {
    "source", "weight", "warmup_steps", "min_confidence", "beta", "scale", "regularization_weight",
    "relative_epsilon", "smallest_length",
}  # fmt: skip


def cells_key(config: RunConfig) -> str:
    """What decides the prepared cells of a run, as text: equal for runs that can share them."""
    velocity, model = config.velocity, config.model
    parts: list[Any] = [
        config.data.model_dump(mode="json"),
        config.split.model_dump(mode="json"),
        model.scalars.model_dump(mode="json"),
        model.decoder.enable,
        model.timepoint_embedding == "continuous",
        velocity.model_dump(mode="json", exclude=_OF_THE_LOSS) if velocity.enable else None,
        # The seed of a run decides of its cells nothing but that shuffle.
        config.seed if velocity.enable and velocity.shuffle else None,
    ]
    return json.dumps(parts)


class SharedCells:
    """The cells of several runs and the references they are scored by, each made once."""

    def __init__(self) -> None:
        self._prepared: dict[str, PreparedData] = {}
        self._references: dict[str, Reference] = {}

    def of(self, config: RunConfig) -> PreparedData:
        """The cells of a run.

        Raises:
            UserError: anything about them that does not fit the config.
        """
        key = cells_key(config)
        if key not in self._prepared:
            self._prepared[key] = prepare(config)
        return self._prepared[key]

    def reference(self, config: RunConfig) -> Reference:
        """What the predictions of a run are measured by."""
        key = cells_key(config) + config.evaluation.model_dump_json()
        if key not in self._references:
            data = self.of(config)
            self._references[key] = fit_reference(data, config.evaluation, config.split.seed)
        return self._references[key]


# (aspect, how two sides differ in it)
Disagreement = tuple[str, str]
Side = TypeVar("Side")


def require_agreement(
    sides: Sequence[tuple[str, Side]],
    compare: Callable[[Side, Side], Iterator[Disagreement]],
    allowed: Collection[str],
) -> list[str]:
    """Sets everything beside the first, and refuses what differs.

    Args:
        sides: name and data, or run, of each.
        compare: `between_data` or `between_runs`.
        allowed: aspects in which they may differ.

    Returns:
        One line for each difference that was allowed.

    Raises:
        UserError: they differ in an aspect that is not allowed.
    """
    (first, reference), *others = sides
    found = [
        (aspect, f"{first} and {name} differ in their {aspect}: {text}")
        for name, other in others
        for aspect, text in compare(reference, other)
    ]
    refused = [(aspect, line) for aspect, line in found if aspect not in allowed]
    if refused:
        aspects = ",".join(a for a in ASPECTS if a in {aspect for aspect, _ in refused})
        raise UserError(
            "\n".join(line for _, line in refused) + "\nFigures on different ground cannot be set "
            f"side by side; to do it nevertheless, give --allow-different {aspects}."
        )
    return [line for _, line in found]


def between_data(a: PreparedData, b: PreparedData) -> Iterator[Disagreement]:
    """In what the cells of two variants differ, before anything is trained."""
    labels = a.cells.annotations, b.cells.annotations
    same_cells = len(labels[0]) == len(labels[1]) and all(
        np.array_equal(getattr(labels[0], name), getattr(labels[1], name))
        for name in ("cell_type", "timepoint", "condition", "replicate")
    )
    if not same_cells:
        yield "split", f"{len(labels[0])} and {len(labels[1])} cells, not the same ones."
    else:
        yield from _between_splits(a, b)
    yield from _between_specs(a.spec, b.spec)
    same_shape = a.cells.expression.shape == b.cells.expression.shape
    if same_cells and same_shape and a.spec.genes == b.spec.genes:
        yield from _between_means(a.cells.expression[:1000], b.cells.expression[:1000])


def between_runs(a: FinishedRun, b: FinishedRun) -> Iterator[Disagreement]:
    """In what the cells of two finished runs differ."""
    yield from _between_split_records(a, b)
    yield from _between_specs(a.spec, b.spec)
    one, other = (_deltas(run) for run in (a, b))
    if one is None or other is None:
        return
    if np.array_equal(one.genes, other.genes) and np.array_equal(one.strata, other.strata):
        real = [np.concatenate([d.control_mean, d.true_delta]) for d in (one, other)]
        yield from _between_means(*real)


def _between_splits(a: PreparedData, b: PreparedData) -> Iterator[Disagreement]:
    for part in PARTS:
        treated = a.split.treated[part], b.split.treated[part]
        controls = a.split.controls[part], b.split.controls[part]
        for arm, (one, other) in (("treated", treated), ("control", controls)):
            if not np.array_equal(one, other):
                text = f"not the same {arm} {part} cells ({len(one)} and {len(other)})."
                yield "split", f"{a.split.kind} and {b.split.kind}; {text}"
                return


def _between_split_records(a: FinishedRun, b: FinishedRun) -> Iterator[Disagreement]:
    changed = _changed_keys(a.config, b.config)
    strata = [
        [(s["cell_type"], s["timepoint"], s.get("perturbation"), s["n_control"], s["n_treated"])
         for s in run.result["strata"]]
        for run in (a, b)
    ]  # fmt: skip
    prints = [run.provenance.get("data_fingerprint") for run in (a, b)]
    if changed:
        yield "split", f"{changed}."
    elif a.split_table != b.split_table:
        yield "split", "their split.txt count other cells."
    elif strata[0] != strata[1]:
        yield "split", f"{len(strata[0])} and {len(strata[1])} strata were scored, not the same."
    elif cells_key(a.config) == cells_key(b.config) and prints[0] != prints[1]:
        yield "split", f"their cells have the fingerprints {prints[0]} and {prints[1]}."


def _changed_keys(a: RunConfig, b: RunConfig) -> str:
    """The keys of the split that differ, as text."""
    one, other = a.split.model_dump(), b.split.model_dump()
    return ", ".join(
        f"split.{key} is {one.get(key)} and {other.get(key)}"
        for key in {**one, **other}
        if one.get(key) != other.get(key)
    )


def _between_specs(a: DataSpec, b: DataSpec) -> Iterator[Disagreement]:
    if a.genes != b.genes:
        common = len(set(a.genes) & set(b.genes))
        order = "in another order" if common == len(a.genes) == len(b.genes) else "not the same"
        yield "genes", f"{len(a.genes)} and {len(b.genes)} genes, {order} ({common} in common)."
    elif not a.genes and (a.input, a.input_width) != (b.input, b.input_width):
        yield "genes", f"predictions are in {_space(a)} and in {_space(b)}."
    kinds = a.preprocessing.kind, b.preprocessing.kind
    if kinds[0] != kinds[1]:
        yield "scale", f"expression is preprocessed by {kinds[0]} and by {kinds[1]}."


def _space(spec: DataSpec) -> str:
    return f"{spec.input} ({spec.input_width} features)"


def _between_means(one: np.ndarray, other: np.ndarray) -> Iterator[Disagreement]:
    """Real expression, of single cells or of means, that should be equal."""
    largest = float(np.abs(one - other).max(initial=0.0))
    if largest > _TOLERANCE * max(1.0, float(np.abs(one).max(initial=0.0))):
        yield "scale", f"the same real cells have other values, by up to {largest:.3g}."


def _deltas(run: FinishedRun) -> Any:
    path = run.folder / "eval" / "deltas.npz"
    return Deltas.load(path) if path.is_file() else None
