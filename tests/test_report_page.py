"""The page of a run and of a comparison: well-formed, self-contained, complete, escaped."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import report_runs
from report_page import SECTIONS, Page, change_result, result_of, rows

import wound_jax.report
from wound_jax.errors import UserError
from wound_jax.evaluation.files import Deltas
from wound_jax.report import write_html, write_run_html

HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)> $name & \"'"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    """The folder of a comparison of two variants and two seeds."""
    folder = tmp_path_factory.mktemp("comparison")
    return report_runs.write_comparison(folder, {"plain": 0.55, "LoRA": 0.72})


@pytest.fixture(scope="module")
def page(comparison) -> Page:
    before = dict(matplotlib.rcParams)
    path = write_html(comparison)
    assert dict(matplotlib.rcParams) == before, "a page leaves matplotlib as it was"
    assert path == comparison / "report.html"
    return Page(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with its page."""
    folder = report_runs.write_run(tmp_path_factory.mktemp("runs") / "one")
    assert write_run_html(folder) == folder / "eval" / "report.html"
    return folder


def test_every_section_is_there_and_can_be_reached(page):
    assert set(page.sections) == SECTIONS
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    targets = {href[1:] for href in page.values("href") if href.startswith("#")}
    assert targets == SECTIONS


def test_nothing_is_fetched_and_nothing_runs(page, comparison):
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    for place in page.values("src", "href", "xlink:href", "action", "srcset"):
        assert place.startswith(("#", "tables/", "data:image/png;base64,"))
    assert all((comparison / href).is_file() for href in page.values("href") if "tables/" in href)
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in page.source
    assert not re.search(r"https?://", page.source)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_no_figure_is_printed_as_a_python_value(page):
    text = " ".join(page.sections.values())
    assert not re.search(r"\b(nan|None|True|False|inf)\b", text)


def test_the_summary_speaks_of_the_best_variant(page):
    summary = page.sections["summary"]
    assert "On 3 held-out mice, the best of 2 variants, LoRA, predicts" in summary
    assert "better than the best baseline (ridge_pca" in summary
    assert "The cells are simulated" in summary


def test_the_ceiling_says_what_it_was_made_of(page):
    told = (
        "treated cells of other replicates in 3 of 11 groups; one half of the treated cells against"
    )
    assert told in page.sections["results"]


def test_all_variants_are_drawn(page):
    for section in ("scorecard", "results", "strata", "genes", "maps", "markers", "training"):
        assert "plain" in page.sections[section], section
        assert "LoRA" in page.sections[section], section
    # Two panels of two variants; twelve groups of two variants.
    assert page.source.count('aria-label="UMAP: ') == 4
    assert page.source.count("true and predicted delta of each gene") == 24
    assert page.source.count("against the training step") == 3


def test_the_page_is_small(comparison):
    assert (comparison / "report.html").stat().st_size < 2e6


def test_a_section_without_data_says_why(page):
    assert (
        page.sections["time"].split("Not shown: ")[1].strip() == "no day was left out of training."
    )


def test_a_single_run_needs_no_column_of_variants(run):
    page = Page(run / "eval" / "report.html")
    assert set(page.sections) == SECTIONS
    assert "variant" not in page.sections["results"].split()
    assert "variants" not in page.sections["summary"]


def test_names_from_the_data_cannot_become_markup(tmp_path):
    folder = report_runs.write_comparison(tmp_path, {HOSTILE: 0.6, "other": 0.5}, seeds=1)
    run = folder / "runs" / "v0-0"

    def rename(result: dict) -> None:
        for stratum in [*result["strata"], *result["skipped"]]:
            stratum["cell_type"] = stratum["cell_type"].replace("Fib", HOSTILE)
        for stratum in result["strata"]:
            stratum["baselines"][HOSTILE] = stratum["baselines"]["identity"]
        result["summary"]["baselines"][HOSTILE] = result["summary"]["baselines"]["identity"]
        result["scorecard"][0]["why"] = HOSTILE
        result["biology"]["temporal"]["reason"] = HOSTILE

    change_result(run, rename)
    deltas = Deltas.load(run / "eval" / "deltas.npz")
    genes = deltas.genes.astype("<U200")
    genes[0] = HOSTILE
    Deltas(**{**vars(deltas), "genes": genes}).save(run / "eval" / "deltas.npz")
    comparison = json.loads((folder / "comparison.json").read_text())
    comparison |= {"name": HOSTILE, "warnings": [HOSTILE]}
    (folder / "comparison.json").write_text(json.dumps(comparison))

    page = Page(write_html(folder))
    assert set(page.sections) == SECTIONS
    assert not {"script", "img"} & set(page.tags)
    for section in ("summary", "scorecard", "strata", "results", "time"):
        assert HOSTILE in page.sections[section], section
    assert any(HOSTILE in line["gene"] for line in rows(folder / "tables" / "genes.csv"))


def drop(value: Any) -> Any:
    """The same with every figure undefined, as JSON writes it."""
    if isinstance(value, dict):
        return {key: drop(one) for key, one in value.items()}
    return None if isinstance(value, float) else value


def test_figures_that_are_not_defined_are_dashes(tmp_path):
    run = report_runs.write_run(tmp_path / "one")
    (run / "eval" / "bootstrap.npz").unlink()

    def undefine(result: dict) -> None:
        for part in ("summary", "uncertainty", "mixing", "training"):
            result[part] = drop(result[part])
        for stratum in result["strata"]:
            stratum["model"] = drop(stratum["model"])
        for value in result["biology"]["polarisation"]["values"]:
            value["low"] = value["high"] = None

    change_result(run, undefine)
    page = Page(write_run_html(run))
    assert "no correlation of deltas could be computed" in page.sections["summary"]
    assert "\N{EN DASH}" in page.sections["results"]
    assert "n/a" in page.sections["strata"]
    assert not re.search(r"\bnan\b", page.source.partition("</style>")[2], re.IGNORECASE)


def test_a_run_with_nothing_but_scores_has_a_page(tmp_path):
    """An evaluation of before the page, or of an embedding."""
    run = report_runs.write_run(tmp_path / "one")
    for name in ("deltas.npz", "umap.npz", "bootstrap.npz"):
        (run / "eval" / name).unlink()
    for name in ("parameters.json", "provenance.json", "metrics.jsonl"):
        (run / name).unlink()
    kept = ("split", "strata", "summary")

    def reduce(result: dict) -> None:
        for key in set(result) - set(kept):
            del result[key]

    change_result(run, reduce)
    page = Page(write_run_html(run))
    assert set(page.sections) == SECTIONS
    without = {name for name, text in page.sections.items() if "Not shown: " in text}
    assert without == {
        "scorecard", "genes", "maps", "macrophages", "markers", "time", "training", "parameters",
        "provenance",
    }  # fmt: skip
    assert "no interval says how sure this is" in page.sections["summary"]


def test_a_comparison_can_be_moved_and_its_runs_can_be_elsewhere(comparison, tmp_path):
    moved = shutil.copytree(comparison, tmp_path / "moved")
    assert write_html(moved) == moved / "report.html"
    content = json.loads((moved / "comparison.json").read_text())
    for variant in content["variants"]:
        variant["runs"] = [str(comparison / run) for run in variant["runs"]]
    shutil.rmtree(moved / "runs")
    (moved / "comparison.json").write_text(json.dumps(content))
    assert write_html(moved) == moved / "report.html"


def test_another_evaluation_of_a_run_has_its_own_page(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.copytree(copy / "eval", copy / "eval-val")
    assert write_run_html(copy, "eval-val") == copy / "eval-val" / "report.html"
    assert (copy / "eval-val" / "tables" / "results.csv").is_file()


def test_what_is_missing_is_said_with_its_fix(tmp_path, run):
    with pytest.raises(UserError, match=r"comparison\.json is missing; make the comparison"):
        write_html(tmp_path)
    with pytest.raises(UserError, match=r"metrics\.json is missing; evaluate the run first"):
        write_run_html(run, "eval-none")
    (tmp_path / "comparison.json").write_text('{"name": "a", "variants": []}')
    with pytest.raises(UserError, match="names no run; expected at least one variant"):
        write_html(tmp_path)


def test_pyplot_is_not_used():
    """It keeps figures and a window system in global state."""
    sources = Path(wound_jax.report.__file__).parent.rglob("*.py")
    assert not [path.name for path in sources if "pyplot" in path.read_text(encoding="utf-8")]


def test_numbers_survive_the_way_to_the_page(run):
    page = Page(run / "eval" / "report.html")
    value = result_of(run)["summary"]["model"]["pearson_delta"]
    assert math.isfinite(value)
    assert f"{value:.3f}" in page.sections["results"]
