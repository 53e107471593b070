"""Writes the page of a run or of a comparison, its tables and its pictures.

    read -> sections of plain blocks -> templates

One HTML file without scripts and without anything to fetch, so that it opens from a disk, a mail
or an archive; the tables lie beside it as CSV files, in full precision.
"""

from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from wound_jax.files import make_folder, write_text
from wound_jax.report.blocks import VERDICTS, Block, Section
from wound_jax.report.load import Study, load_comparison, load_single
from wound_jax.report.pictures import write_pictures
from wound_jax.report.sections.biology import (
    macrophages_section,
    markers_section,
    timepoint_section,
)
from wound_jax.report.sections.cells import genes_section, maps_section
from wound_jax.report.sections.record import (
    parameters_section,
    provenance_section,
    settings_section,
    terms_section,
    training_section,
)
from wound_jax.report.sections.results import results_section, scorecard_section
from wound_jax.report.sections.strata import strata_section
from wound_jax.report.sections.summary import facts, summary_section

_SECTIONS = (
    summary_section,
    scorecard_section,
    results_section,
    strata_section,
    genes_section,
    maps_section,
    macrophages_section,
    markers_section,
    timepoint_section,
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


def write_run_html(
    run_folder: Path, evaluation: str | Path = "eval", *, pictures: bool = False
) -> Path:
    """The page of a single run, and pictures for those who want files.

    Args:
        run_folder: the run.
        evaluation: which of its evaluations, a folder in it or elsewhere by its whole path.
        pictures: whether to write `loss_curves.png`, `strata.png` and `umap.png` beside the page.

    Returns:
        `report.html` in the evaluation's folder; the tables are in `tables` beside it.

    Raises:
        UserError: the run was not evaluated.
    """
    folder = Path(run_folder)
    study = load_single(folder, evaluation)
    if pictures:
        write_pictures(study.variants[0].shown, folder / evaluation)
    return _write(study, folder / evaluation)


def render_block(block: Block | Section) -> str:
    """One block as markup; all text is escaped."""
    return str(_environment().get_template("blocks.html").module.block(block))  # pyright: ignore


def _write(study: Study, folder: Path) -> Path:
    sections = [make(study) for make in _SECTIONS]
    tables = folder / "tables"
    make_folder(tables)
    for table in (table for section in sections for table in section.tables()):
        table.write_csv(tables)
    page = _environment().get_template("page.html")
    path = folder / "report.html"
    text = page.render(title=study.name, facts=facts(study), sections=sections)
    write_text(path, text + "\n")
    return path


@cache
def _environment() -> Environment:
    """The templates. Every value is escaped; only `Panel.svg` returns markup."""
    made = Environment(
        loader=PackageLoader("wound_jax.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    made.globals["verdicts"] = VERDICTS
    return made
