"""Drawings: scales, curves, colours, places of labels, and SVG that is well-formed."""

import base64
import io
import math
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from wound_jax.report.figures.curves import (
    Bundle,
    Curve,
    draw_curves,
    mean_curve,
    read_curve,
    series_style,
    smooth,
)
from wound_jax.report.figures.heat_map import Field, color_of, draw_heat_map
from wound_jax.report.figures.labels import Box, place_labels
from wound_jax.report.figures.marker_panel import Marker, draw_marker_panel
from wound_jax.report.figures.ranking import Ranked, draw_ranking
from wound_jax.report.figures.raster import raster
from wound_jax.report.figures.scatter import GeneChange, draw_scatter, named_genes
from wound_jax.report.figures.score_days import DayScore, draw_score_days
from wound_jax.report.svg import Scale, scale

HOSTILE = "</svg><script>\"'&"
RNG = np.random.default_rng(0)
VALUES = st.floats(-1e3, 1e3, allow_nan=False)


def texts(drawing: str) -> list[str]:
    """All texts and titles of a drawing, which must be well-formed."""
    return [element.text or "" for element in ET.fromstring(drawing).iter()]


@given(st.lists(VALUES, min_size=1, max_size=20))
def test_a_scale_holds_all_values_between_its_ends(values):
    axis = scale(values, 10.0, 200.0)
    pixels = [axis(value) for value in values]
    assert all(10.0 <= pixel <= 200.0 for pixel in pixels)
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks())
    for value, pixel in zip(values, pixels, strict=True):
        back = axis.low + (pixel - 10.0) / 190.0 * (axis.high - axis.low)
        assert back == pytest.approx(value, abs=1e-9 * (1 + axis.high - axis.low))


def test_equal_ratios_take_equal_room_on_a_logarithmic_scale():
    axis = Scale(0.01, 100.0, 0.0, 400.0, log=True)
    assert [axis(v) for v in (0.01, 0.1, 1.0, 10.0, 100.0)] == pytest.approx(
        [0, 100, 200, 300, 400]
    )
    assert set(axis.ticks()) >= {0.1, 1.0, 10.0}
    assert len(scale([0.5, 0.6], 0, 1, log=True).ticks()) >= 2


def test_a_scale_without_values_is_still_one():
    assert scale([math.nan], 0.0, 1.0)(0.5) == pytest.approx(0.5)


def test_a_curve_leaves_out_what_is_not_defined():
    records = [{"step": 2, "loss": 4.0}, {"step": 1, "loss": 2.0}, {"step": 3, "loss": None}]
    curve = read_curve([*records, {"step": 4, "loss": math.nan}, {"step": 5}], "loss")
    assert curve is not None
    np.testing.assert_array_equal(curve.steps, [1, 2])
    np.testing.assert_array_equal(curve.values, [2.0, 4.0])
    assert read_curve(records, "other") is None
    assert read_curve([{"step": 1, "loss": None}], "loss") is None


def test_a_long_curve_is_thinned_to_medians():
    records = [{"step": i, "loss": float(i % 10 == 0) * 1e6} for i in range(15_000)]
    curve = read_curve(records, "loss")
    assert curve is not None
    assert len(curve.steps) == 150
    assert curve.values.max() == 0.0, "single outliers do not carry a median"
    assert np.all(np.diff(curve.steps) > 0)


def test_the_mean_over_seeds_ends_where_the_shortest_ends():
    long = Curve(np.arange(0.0, 11.0), np.arange(0.0, 11.0))
    short = Curve(np.array([0.0, 4.0]), np.array([10.0, 2.0]))
    mean = mean_curve([long, short])
    np.testing.assert_array_equal(mean.steps, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(mean.values, [5.0, 4.5, 4.0, 3.5, 3.0])


def test_smoothing_takes_out_single_peaks_and_leaves_short_curves_alone():
    values = np.ones(100)
    values[50] = 9.0
    assert smooth(Curve(np.arange(100.0), values)).values.max() == 1.0
    short = Curve(np.arange(5.0), np.array([1.0, 9.0, 1.0, 1.0, 1.0]))
    assert smooth(short) is short


def test_variants_differ_in_colour_or_dash():
    assert len({series_style(i) for i in range(18)}) == 18


def luminance(color: str) -> float:
    """Relative luminance by WCAG 2.1."""
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@given(st.floats(-1.0, 1.0))
def test_figures_in_fields_can_be_read(goodness):
    dark, light = sorted(luminance(color) for color in color_of(goodness))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_good_is_blue_and_bad_is_orange():
    good, bad = color_of(1.0)[0], color_of(-1.0)[0]
    assert int(good[5:], 16) > int(good[1:3], 16)
    assert int(bad[5:], 16) < int(bad[1:3], 16)


POINTS = st.lists(st.tuples(st.floats(0, 300), st.floats(0, 300)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(POINTS, st.booleans())
def test_labels_cover_neither_each_other_nor_points(points, cover):
    frame = Box(0, 0, 300, 300)
    boxes = place_labels(points, ["Tnfrsf11b"] * len(points), frame, cover=cover)
    placed = [box for box in boxes if box is not None]
    assert len(boxes) == len(points)
    assert all(frame.holds(box) for box in placed)
    assert not any(a.meets(b) for i, a in enumerate(placed) for b in placed[i + 1 :])
    if not cover:
        inside = [
            box.left < x < box.right and box.top < y < box.bottom
            for box in placed
            for x, y in points
        ]
        assert not any(inside)


def test_a_label_alone_stands_right_of_its_point():
    (box,) = place_labels([(50.0, 50.0)], ["Tnf"], Box(0, 0, 300, 300))
    assert box is not None
    assert 50 < box.left < 65
    assert box.top < 50 < box.bottom


def test_named_genes_are_the_worst_misses_and_the_strongest_others():
    true = np.zeros(50)
    predicted = np.zeros(50)
    true[:10] = np.arange(10, 0, -1)
    predicted[:5] = true[:5]
    worst, strongest = named_genes(true, predicted)
    assert set(worst) == {5, 6, 7, 8, 9}
    assert worst[0] == 5, "the largest miss first"
    assert list(strongest) == [0, 1, 2, 3, 4]


def test_points_are_drawn_where_they_belong():
    image = raster(np.array([[30.0, 20.0]]), ["#ff0000"], (10, 10, 40, 40), radius=3, opacity=1.0)
    href = ET.fromstring(image).attrib["href"]
    pixels = imread(io.BytesIO(base64.b64decode(href.removeprefix("data:image/png;base64,"))))
    rows, columns = np.nonzero(pixels[..., 3] > 0.5)
    density = pixels.shape[0] / 40
    assert np.mean(columns) / density == pytest.approx(20, abs=0.7)
    assert np.mean(rows) / density == pytest.approx(10, abs=0.7)
    assert pixels[..., 3].min() == 0.0, "the ground is transparent"
    assert np.ptp(columns) / density == pytest.approx(6, abs=1.2)


def test_rasters_leave_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    raster(RNG.normal(size=(20, 2)), ["#000000"] * 20, (0, 0, 10, 10))
    assert dict(matplotlib.rcParams) == before


def test_every_drawing_is_well_formed_and_escapes_names():
    genes = [HOSTILE, *(f"g{i}" for i in range(30))]
    true, predicted = RNG.normal(size=(2, 31))
    true[0] = 9.0
    curve = Curve(np.arange(3.0), np.array([1.0, 50.0, 2.0]))
    fields = {(HOSTILE, "day1"): Field(0.5, 0.5, HOSTILE), ("b", "day1"): Field(math.nan, 0.0, "n")}
    drawings = [
        draw_curves([Bundle("none", []), Bundle(HOSTILE, [curve])], "Loss"),
        draw_heat_map(HOSTILE, "n = 1", [HOSTILE, "b"], ["day1", "day2"], fields),
        draw_scatter(GeneChange("title", HOSTILE, genes, true, predicted)),
        draw_ranking(HOSTILE, "s", [Ranked(HOSTILE, 0.5, 0.4, 0.6, True)], 0.9, 0.0),
        draw_ranking("t", "s", [Ranked("a", 0.5, None, None, False)], None, None),
        draw_score_days(HOSTILE, "s", [DayScore(HOSTILE, 0.1, math.nan, math.nan, [("v", 0.2)])]),
        draw_marker_panel("t", "s", [Marker(HOSTILE, -1, -0.5, 0.2)]),
    ]
    named = 0
    for drawing in drawings:
        root = ET.fromstring(drawing)
        assert "script" not in {element.tag for element in root.iter()}
        assert all("nan" not in value for e in root.iter() for value in e.attrib.values())
        named += any("</svg>" in text for text in texts(drawing))
    assert named == len(drawings) - 1, "all but the one without a hostile name"


def test_a_heat_map_shows_its_figures_and_marks():
    fields = {("Mac", "day2"): Field(0.456, 0.4, "note", mark=True)}
    shown = texts(draw_heat_map("v", "n = 1", ["Mac"], ["day2"], fields))
    assert "0.46 ▴" in shown
    assert "note" in shown


def test_a_marker_is_right_where_it_moves_the_registered_way():
    assert Marker("a", -1, -0.5, -0.2).right
    assert not Marker("a", 1, 0.5, -0.2).right
    assert not Marker("a", 1, 0.5, 0.0).right
    wrong = draw_marker_panel("t", "s", [Marker("a", 1, 0.5, -0.2)])
    assert "stroke-dasharray" in wrong
    assert "stroke-dasharray" not in draw_marker_panel("t", "s", [Marker("a", 1, 0.5, 0.2)])


def test_a_method_beyond_the_axis_is_given_by_its_figure():
    rows = [Ranked("near", 0.4, 0.2, 9.0, False), Ranked("far", 7.5, 5.0, 9.0, False)]
    drawing = draw_ranking("t", "s", rows, None, 1.0, limit=1.5)
    assert "7.50 ▸" in texts(drawing)
    assert "near: 0.400 [0.200, 9.000]" in texts(drawing)
    assert len([e for e in ET.fromstring(drawing).iter() if e.tag == "circle"]) == 1
    rights = [float(e.attrib["x2"]) for e in ET.fromstring(drawing).iter() if e.tag == "line"]
    assert max(rights) <= 476
