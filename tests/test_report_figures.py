"""Drawings: axes, curves, colours, places of labels, and SVG that is well-formed."""

import base64
import io
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

import wound_jax.report
from wound_jax.errors import on_one_line
from wound_jax.report.figures.curves import (
    Bundle,
    Curve,
    TimepointScore,
    draw_curves,
    draw_scores,
    mean_curve,
    read_curve,
    running_median,
    series_style,
    smooth,
)
from wound_jax.report.figures.drawing import (
    VARIABLES,
    LegendItem,
    Panel,
    disc,
    limits,
    round_ticks,
    write_png,
)
from wound_jax.report.figures.points import (
    Box,
    GeneDeltas,
    draw_scatter,
    named_genes,
    place_labels,
    scatter,
)
from wound_jax.report.figures.rows import (
    Field,
    Marker,
    Ranked,
    color_of,
    draw_heat_map,
    draw_markers,
    draw_ranking,
    draw_type_bars,
    type_legend,
    type_marks,
)

pytestmark = pytest.mark.quick

HOSTILE = "</svg><script>\"'&"
RNG = np.random.default_rng(0)
VALUES = st.floats(-1e3, 1e3, allow_nan=False)
RANKED = [Ranked("a", 0.5, 0.4, 0.6, True), Ranked("b", 0.3, None, None, False)]


def elements(panel: Panel, tag: str) -> list[ET.Element]:
    """The elements of a kind in a drawing, which must be well-formed."""
    return [element for element in ET.fromstring(panel.svg()).iter() if element.tag == tag]


def texts(panel: Panel) -> list[str]:
    """All texts and titles of a drawing."""
    return [element.text or "" for element in ET.fromstring(panel.svg()).iter()]


@given(st.lists(VALUES, min_size=1, max_size=20))
def test_the_ends_of_an_axis_hold_all_values(values):
    low, high = limits(values)
    assert all(low < value < high for value in values)


def shown_ticks(ends: tuple[float, float], scale: str = "linear") -> list[float]:
    """The values whose labels a panel shows along its horizontal axis."""
    panel = Panel(420, 60, "n")
    axes = panel.axes((10, 10, 410, 40), ends, (0.0, 1.0), "x")
    axes.set_xscale(scale)
    round_ticks(axes, "x")
    axes.set_yticks([])
    labels = [text.replace("\N{MINUS SIGN}", "-").replace(",", "") for text in texts(panel)]
    return [float(label) for label in labels if label.strip()]


@settings(deadline=None, max_examples=10)
@given(st.lists(VALUES, min_size=1, max_size=20))
def test_ticks_lie_within_the_axis(values):
    low, high = limits(values)
    # Matplotlib draws what lies within half a pixel; labels have six digits.
    room = (high - low) / 800 + 1e-5 * (abs(low) + abs(high))
    assert all(low - room <= tick <= high + room for tick in shown_ticks((low, high)))


def test_equal_ratios_take_equal_room_on_a_logarithmic_axis():
    panel = Panel(420, 60, "n")
    axes = panel.axes((10, 10, 410, 40), (0.01, 100.0), (0.0, 1.0))
    axes.set_xscale("log")
    for value in (0.01, 0.1, 1.0, 10.0, 100.0):
        panel.dot(axes, (value, 0.5), 2, "#d55e00")
    places = [float(circle.attrib["cx"]) for circle in elements(panel, "circle")]
    assert places == pytest.approx([10, 110, 210, 310, 410])
    assert set(shown_ticks((0.01, 100.0), "log")) >= {0.1, 1.0, 10.0}
    assert len(shown_ticks(limits([0.5, 0.6], log=True), "log")) >= 2
    assert all(end > 0 for end in limits([0.5, 0.6], log=True))


def test_an_axis_without_values_is_still_one():
    low, high = limits([math.nan])
    assert (low + high) / 2 == pytest.approx(0.5)


def test_a_dot_stands_at_its_value_in_the_pages_own_colour():
    panel = Panel(120, 60, "n")
    axes = panel.axes((10, 10, 110, 50), (0.0, 1.0), (0.0, 2.0))
    panel.dot(axes, (0.25, 0.5), 3, "#d55e00", "here")
    (circle,) = elements(panel, "circle")
    assert [float(circle.attrib[key]) for key in ("cx", "cy", "r")] == pytest.approx([35, 40, 3])
    assert "fill: var(--real)" in circle.attrib["style"]
    assert "here" in texts(panel)


def test_colours_are_those_of_the_light_page():
    templates = Path(wound_jax.report.__file__).parent / "templates"
    light = (templates / "style.css").read_text(encoding="utf-8").partition("@media")[0]
    written = dict(re.findall(r"--([\w-]+): (#\w+);", light))
    for color, variable in VARIABLES.items():
        # The ground has a colour of its own in a drawing, next to white.
        assert color == ("#fffffe" if variable == "raised" else written[variable]), variable


def test_a_drawing_is_the_same_every_time():
    assert (
        draw_ranking("t", "s", RANKED, 0.7, 0.0).svg()
        == draw_ranking("t", "s", RANKED, 0.7, 0.0).svg()
    )


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
    panel = Panel(60, 60, "n")
    axes = panel.axes((10, 10, 50, 50), (0.0, 4.0), (0.0, 4.0), grid=None)
    axes.set_axis_off()
    scatter(axes, np.array([[2.0, 3.0]]), ["#ff0000"], 3, 1.0)
    (image,) = elements(panel, "image")
    data = base64.b64decode(image.attrib["href"].removeprefix("data:image/png;base64,"))
    pixels = imread(io.BytesIO(data))
    found = np.array(np.nonzero(pixels[..., 3] > 0.5), dtype=float)
    # The image is written upside down and turned by its transform: scale(1 -1) translate(0 -H).
    turn = r"scale\(1 (-?1)\) translate\(0 (-?[\d.]+)\)"
    ((turned, shift),) = re.findall(turn, image.attrib["transform"])
    width, height = (float(image.attrib[key]) for key in ("width", "height"))
    rows, columns = (
        (found + 0.5)
        * np.array([[height], [width]])
        / np.array([[pixels.shape[0]], [pixels.shape[1]]])
    )
    across = float(image.attrib["x"]) + columns
    down = float(turned) * (float(image.attrib["y"]) + float(shift) + rows)
    assert np.mean(across) == pytest.approx(30, abs=0.7)
    assert np.mean(down) == pytest.approx(20, abs=0.7)
    assert np.ptp(across) == pytest.approx(6, abs=1.2)
    assert pixels[0, 0, 3] == 0.0, "the ground is transparent"


def test_drawings_leave_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    panel = draw_ranking("t", "s", RANKED, 0.7, 0.0)
    panel.svg()
    panel.pixels()
    assert dict(matplotlib.rcParams) == before


DRAWINGS = {
    "curves": lambda: draw_curves(
        [Bundle("none", []), Bundle(HOSTILE, [Curve(np.arange(3.0), np.array([1.0, 50.0, 2.0]))])],
        "Loss",
    ),
    "heat map": lambda: draw_heat_map(
        HOSTILE, "s", [HOSTILE, "b"], ["day1"],
        {(HOSTILE, "day1"): Field(0.5, 0.5, HOSTILE), ("b", "day1"): Field(math.nan, 0.0, "n")},
    ),
    "markers": lambda: draw_markers("t", "s", [Marker(HOSTILE, -1, -0.5, 0.2)]),
    "ranking": lambda: draw_ranking("t", "s", [Ranked(HOSTILE, 0.5, 0.4, 0.6, True)], 0.7, 0.0),
    "scatter": lambda: draw_scatter(
        GeneDeltas("t", "s", [HOSTILE, *(f"g{i}" for i in range(30))],
                   np.array([9.0, *RNG.normal(size=30)]), RNG.normal(size=31))
    ),
    "scores": lambda: draw_scores(
        "t", "s", [TimepointScore("day1", 0.5, math.nan, math.nan, [(HOSTILE, 0.4)])]
    ),
    "type bars": lambda: draw_type_bars("t", "s", ["a"], {"model": [0.5], HOSTILE: [math.nan]}),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_drawing_is_well_formed_and_escapes_names(name):
    panel = DRAWINGS[name]()
    root = ET.fromstring(panel.svg())
    assert "script" not in {element.tag for element in root.iter()}
    assert all("nan" not in value for e in root.iter() for value in e.attrib.values())
    assert not [e for e in root.iter() if "id" in e.attrib], "ids of two drawings could meet"
    assert any("</svg>" in text for text in texts(panel))


def test_names_are_shown_as_they_are():
    """Matplotlib would set what stands between two dollars as a formula."""
    shown = texts(draw_ranking("$a$ b", "s", [Ranked("$x$", 0.5, None, None, True)], None, None))
    assert {"$a$ b", "$x$"} <= set(shown)


ODD = ["$\\frac{$", "$x^{2", 'a\n"b"', "\x1b[31mred", "日本", "\u0394 <b>"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("label", ODD)
def test_any_label_is_drawn_on_one_line(label, tmp_path):
    fields = {(label, label): Field(0.4, 0.4, label)}
    panels = [
        draw_heat_map(label, label, [label], [label], fields),
        draw_ranking(label, label, [Ranked(label, 0.5, None, None, True)], None, None),
        draw_markers(label, label, [Marker(label, 1, 0.5, 0.2)]),
    ]
    for panel in panels:
        assert on_one_line(label) in texts(panel)
    write_png(tmp_path / "odd.png", panels, [disc(label, "#009e73")], label)


def test_a_heat_map_shows_its_figures_and_marks():
    fields = {("Mac", "day2"): Field(0.456, 0.4, "note", mark=True)}
    shown = texts(draw_heat_map("v", "n = 1", ["Mac"], ["day2"], fields))
    assert "0.46 ▴" in shown
    assert "note" in shown


def test_a_marker_is_right_where_it_moves_the_registered_way():
    assert Marker("a", -1, -0.5, -0.2).right
    assert not Marker("a", 1, 0.5, -0.2).right
    assert not Marker("a", 1, 0.5, 0.0).right
    wrong = draw_markers("t", "s", [Marker("a", 1, 0.5, -0.2)])
    assert "stroke-dasharray" in wrong.svg()
    assert "stroke-dasharray" not in draw_markers("t", "s", [Marker("a", 1, 0.5, 0.2)]).svg()


def test_a_method_beyond_the_axis_is_given_by_its_figure():
    rows = [Ranked("near", 0.4, 0.2, 9.0, False), Ranked("far", 7.5, 5.0, 9.0, False)]
    panel = draw_ranking("t", "s", rows, None, 1.0, limit=1.5)
    assert "7.50 ▸" in texts(panel)
    assert "near: 0.400 [0.200, 9.000]" in texts(panel)
    assert len(elements(panel, "circle")) == 1
    rights = [
        float(place)
        for path in elements(panel, "path")
        for place in re.findall(r"[ML] (-?[\d.]+) ", path.attrib["d"])
    ]
    assert max(rights) <= 476


def test_running_median() -> None:
    values = np.array([1.0, 9.0, 2.0, 3.0, 50.0])
    np.testing.assert_array_equal(running_median(values, 3), [5.0, 2.0, 3.0, 3.0, 26.5])


def test_many_baselines_keep_marks_of_their_own():
    marks = type_marks(["model", "identity", *(f"b{i}" for i in range(45))])
    assert len(marks) == 45
    assert len({(style["marker"], style["mfc"]) for style in marks.values()}) == 45
    assert [item.words for item in type_legend(["model", "identity", "b"])] == [
        "model", "b", "identity",
    ]  # fmt: skip


def test_a_collapsed_baseline_leaves_the_others_their_room():
    """Marks beyond the edge stand at it, wherever they would be."""
    drawn = [
        draw_type_bars("t", "s", ["a"], {"model": [0.4], "collapsed": [ratio]}, 1.5).svg()
        for ratio in (40.0, 80.0)
    ]
    assert drawn[0] == drawn[1]


def test_a_legend_shows_each_mark_as_it_is_drawn():
    assert "var(--real)" in disc("words", "#d55e00").svg()
    assert "stroke-dasharray" in LegendItem("line", {"color": "#646b73", "ls": "--", "lw": 1}).svg()
    assert 'aria-hidden="true"' in disc("words", "#d55e00").svg()
