"""Pictures of a run: written where they are wanted, in the colours of the page."""

import json
from pathlib import Path

import numpy as np
import pytest
import report_runs
from matplotlib.image import imread
from report_page import change_result

from wound_jax.report import write_run_html
from wound_jax.report.figures.drawing import PREDICTED, REAL
from wound_jax.report.figures.points import MAP_COLORS

PICTURES = {"loss_curves.png", "strata.png", "umap.png"}


@pytest.fixture
def run(tmp_path) -> Path:
    """A run without its page."""
    return report_runs.write_run(tmp_path / "run")


def pictures(run: Path) -> dict[str, np.ndarray]:
    """The pictures beside a run's page, each with something but background on it."""
    write_run_html(run, pictures=True)
    found = {path.name: imread(path)[..., :3] for path in (run / "eval").glob("*.png")}
    for pixels in found.values():
        assert min(pixels.shape[:2]) > 300
        assert (pixels.min(axis=-1) < 0.9).mean() > 0.005
    return found


def share_of_color(pixels: np.ndarray, color: str) -> float:
    target = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return float((np.abs(pixels - target).max(axis=-1) < 0.08).mean())


def test_pictures_are_drawn_where_they_are_wanted(run):
    write_run_html(run)
    assert not list((run / "eval").glob("*.png"))
    assert set(pictures(run)) == PICTURES


def test_what_a_run_lacks_is_not_drawn(run):
    (run / "eval" / "umap.npz").unlink()
    (run / "metrics.jsonl").unlink()
    assert set(pictures(run)) == {"strata.png"}


def test_loss_curves(run):
    assert share_of_color(pictures(run)["loss_curves.png"], REAL) > 1e-3
    lines = (run / "metrics.jsonl").read_text().splitlines()
    without = [line for line in lines if "val/loss" not in json.loads(line)]
    (run / "metrics.jsonl").write_text("\n".join(without) + "\n")
    assert share_of_color(pictures(run)["loss_curves.png"], REAL) == 0.0


def test_strata_bars(run):
    pixels = pictures(run)["strata.png"]
    assert share_of_color(pixels, PREDICTED) > 0.02
    assert share_of_color(pixels, "#e69f00") > 1e-4

    def undefine(result: dict) -> None:
        for stratum in result["strata"]:
            stratum["model"]["pearson_delta"] = None

    change_result(run, undefine)
    assert share_of_color(pictures(run)["strata.png"], PREDICTED) > 0.001, "the distance is left"


def test_maps_and_all_pictures_are_the_same_every_time(run):
    first, again = pictures(run), pictures(run)
    for color in MAP_COLORS.values():
        assert share_of_color(first["umap.png"], color) > 1e-4
    for name in PICTURES:
        np.testing.assert_array_equal(first[name], again[name])
