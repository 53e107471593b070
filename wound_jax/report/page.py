"""Writes the page and its tables: read, turn into sections, fill the template.

One HTML file without scripts and without anything to fetch, so that it opens from a disk, a mail
or an archive; the tables lie beside it as CSV files, in full precision.
"""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from wound_jax.report.blocks import Note, Section
from wound_jax.report.load import Study, load_comparison, load_single
from wound_jax.report.markup import Html, join, tag
from wound_jax.report.sections.genes import genes_section
from wound_jax.report.sections.macrophages import macrophages_section
from wound_jax.report.sections.maps import maps_section
from wound_jax.report.sections.markers import markers_section
from wound_jax.report.sections.record import (
    parameters_section,
    provenance_section,
    settings_section,
)
from wound_jax.report.sections.results import results_section
from wound_jax.report.sections.scorecard import scorecard_section
from wound_jax.report.sections.strata import strata_section
from wound_jax.report.sections.summary import facts, summary_section
from wound_jax.report.sections.terms import terms_section
from wound_jax.report.sections.time import time_section
from wound_jax.report.sections.training import training_section

_SECTIONS = (
    summary_section,
    scorecard_section,
    results_section,
    strata_section,
    genes_section,
    maps_section,
    macrophages_section,
    markers_section,
    time_section,
    training_section,
    parameters_section,
    settings_section,
    provenance_section,
    terms_section,
)


def write_html(folder: Path) -> Path:
    """The page of a comparison, from `folder/comparison.json` and the runs it names.

    Args:
        folder: of the comparison.

    Returns:
        `folder/report.html`; the tables are in `folder/tables`.

    Raises:
        UserError: there is no comparison, or a run of it was not evaluated.
    """
    return _write(load_comparison(Path(folder)), Path(folder))


def write_run_html(run_folder: Path, evaluation: str = "eval") -> Path:
    """The page of a single run.

    Args:
        run_folder: the run.
        evaluation: which of its evaluations, a folder in it.

    Returns:
        `report.html` in the evaluation's folder; the tables are in `tables` beside it.

    Raises:
        UserError: the run was not evaluated.
    """
    folder = Path(run_folder)
    return _write(load_single(folder, evaluation), folder / evaluation)


def sections_of(study: Study) -> list[Section]:
    """The sections of the page, in order."""
    return [make(study) for make in _SECTIONS]


def render(study: Study, sections: Sequence[Section]) -> str:
    """The page as text."""
    templates = files("wound_jax.report") / "templates"
    page = Template((templates / "page.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=join([study.name]),
        style=(templates / "style.css").read_text(encoding="utf-8").strip(),
        contents=_contents(sections),
        facts=tag("p", facts(study), class_="facts"),
        sections=Html("\n".join(section.html() for section in sections)),
        footer=join(["Made by wound_jax. Hover over marks and underlined headings for details."]),
    )


def _write(study: Study, folder: Path) -> Path:
    sections = sections_of(study)
    tables = folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for table in (table for section in sections for table in section.tables()):
        table.write_csv(tables)
    path = folder / "report.html"
    path.write_text(render(study, sections), encoding="utf-8")
    return path


def _contents(sections: Sequence[Section]) -> Html:
    """Links to the sections; those that are only an excuse are pale."""
    items = [
        tag("li", tag("a", section.title, href=f"#{section.id}"), class_=_class_of(section))
        for section in sections
    ]
    return tag("ol", *items)


def _class_of(section: Section) -> str | None:
    excuses = [isinstance(block, Note) and block.style == "absent" for block in section.blocks]
    return "missing" if all(excuses) else None
