"""Reads what runs and comparisons left on disk; nothing is computed here.

A comparison folder holds `comparison.json`: {"name", "variants": [{"name", "runs": [folders],
"diff"}], "warnings", "table"}, the table with a line for each metric and variant. A run folder
holds config.yaml, metrics.jsonl, parameters.json, provenance.json and eval/. Only eval/metrics.json
is required: whatever else is missing is None or empty, and its section of the page says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from wound_jax.errors import UserError
from wound_jax.evaluation.files import Deltas
from wound_jax.evaluation.mixing import CellMap
from wound_jax.evaluation.uncertainty import Draws
from wound_jax.files import read_json
from wound_jax.training.log import read_metrics


@dataclass(frozen=True, eq=False)
class RunResult:
    """One evaluated run.

    Attributes:
        folder: the run folder.
        config: the resolved config, nested.
        records: `metrics.jsonl`.
        parameters: `parameters.json`; empty where missing.
        provenance: `provenance.json`; empty where missing.
        result: `eval/metrics.json`.
        deltas: changes by stratum and gene; None where missing.
        cell_map: UMAP coordinates; None where missing.
        draws: of the bootstrap over held-out replicates; None where missing.
    """

    folder: Path
    config: Mapping[str, Any]
    records: list[dict]
    parameters: Mapping[str, Any]
    provenance: Mapping[str, Any]
    result: Mapping[str, Any]
    deltas: Deltas | None
    cell_map: CellMap | None
    draws: Draws | None

    @property
    def seed(self) -> int | None:
        """The run's seed."""
        return self.config.get("seed")

    def part(self, name: str) -> Any:
        """A part of the result; an empty mapping where it is missing or null."""
        return self.result.get(name) or {}


@dataclass(frozen=True, eq=False)
class Variant:
    """Runs of one config that differ in their seed.

    Attributes:
        name: its name in the comparison.
        runs: at least one.
        rows: metric -> line of the comparison's table; none for a run that is not compared.
    """

    name: str
    runs: tuple[RunResult, ...]
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def shown(self) -> RunResult:
        """The run that stands for all where one must be drawn: the middle one by pearson_delta."""
        ranked = sorted(self.runs, key=_score)
        return ranked[(len(ranked) - 1) // 2]


@dataclass(frozen=True, eq=False)
class Study:
    """What one page is about.

    Attributes:
        name: title of the page.
        variants: at least one.
        warnings: of the comparison itself.
    """

    name: str
    variants: tuple[Variant, ...]
    warnings: tuple[str, ...] = ()

    @property
    def runs(self) -> list[RunResult]:
        """All runs of all variants."""
        return [run for variant in self.variants for run in variant.runs]


def load_comparison(folder: Path) -> Study:
    """Reads `folder/comparison.json` and the runs it names.

    Paths of runs are taken from the folder, and where nothing is there, as they are written.

    Raises:
        UserError: there is no comparison, it names no run, or a run was not evaluated.
    """
    path = folder / "comparison.json"
    if not path.is_file():
        raise UserError(f"{path} is missing; make the comparison first (wound_jax compare).")
    content = read_json(path)
    table = content.get("table") or ()
    variants = tuple(
        Variant(
            name=str(one["name"]),
            runs=tuple(load_run_result(_find(folder, run)) for run in one["runs"]),
            rows={row["metric"]: row for row in table if row["variant"] == one["name"]},
        )
        for one in content["variants"]
        if one["runs"]
    )
    if not variants:
        raise UserError(f"{path} names no run; expected at least one variant with a run.")
    return Study(
        name=str(content.get("name") or folder.name),
        variants=variants,
        warnings=tuple(str(text) for text in content.get("warnings") or ()),
    )


def load_single(folder: Path, evaluation: str | Path = "eval") -> Study:
    """Reads one run as a study of one variant.

    Raises:
        UserError: the run was not evaluated.
    """
    run = load_run_result(folder, evaluation)
    name = str(run.config.get("name") or folder.name)
    return Study(name=name, variants=(Variant(name, (run,)),))


def load_run_result(folder: Path, evaluation: str | Path = "eval") -> RunResult:
    """Reads one run.

    Args:
        folder: the run folder.
        evaluation: which of its evaluations, a folder in it.

    Raises:
        UserError: there is no such evaluation.
    """
    results = folder / evaluation
    if not (results / "metrics.json").is_file():
        raise UserError(
            f"{results / 'metrics.json'} is missing; evaluate the run first "
            f"(wound_jax evaluate {folder})."
        )
    config = folder / "config.yaml"
    deltas, cell_map, draws = (results / f"{name}.npz" for name in ("deltas", "umap", "bootstrap"))
    return RunResult(
        folder=folder,
        config=yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {},
        records=read_metrics(folder),
        parameters=_json(folder / "parameters.json"),
        provenance=_json(folder / "provenance.json"),
        result=_json(results / "metrics.json"),
        deltas=Deltas.load(deltas) if deltas.is_file() else None,
        cell_map=CellMap.load(cell_map) if cell_map.is_file() else None,
        draws=Draws.load(draws) if draws.is_file() else None,
    )


def _find(folder: Path, run: str) -> Path:
    return folder / run if (folder / run).is_dir() else Path(run)


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _score(run: RunResult) -> float:
    value = run.part("summary").get("model", {}).get("pearson_delta")
    return float("-inf") if value is None else value
