"""The page in a real browser, where one is installed: nothing overflows, nothing is cut off."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import report_runs

from wound_jax.report import write_html

BROWSER = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")

# The page forbids scripts, so that the copy that is measured goes without its policy.
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
MEASURE = """<script>
document.querySelectorAll("details").forEach(d => d.open = true);
const box = e => e.getBoundingClientRect();
const outside = [...document.querySelectorAll("main *")].filter(
  e => !e.closest(".scroll *") && (e.tagName === "svg" || !e.closest("svg"))
    && box(e).right > innerWidth + 1);
const cut = [...document.querySelectorAll("figure svg text")].filter(t => {
  const a = box(t), b = box(t.ownerSVGElement);
  return a.width && (a.left < b.left - 1 || a.right > b.right + 1
    || a.top < b.top - 1 || a.bottom > b.bottom + 1);
});
document.body.dataset.found = JSON.stringify({
  width: innerWidth, page: document.documentElement.scrollWidth,
  outside: outside.map(e => e.outerHTML.slice(0, 80)), cut: cut.map(t => t.textContent),
  figures: document.querySelectorAll("figure svg").length,
});
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A comparison whose names are long, made ready to be measured."""
    folder = tmp_path_factory.mktemp("comparison")
    long_name = "LoRA_mHC_velocity_with_a_rather_long_name_indeed"
    report_runs.write_comparison(folder, {"plain": 0.55, long_name: 0.72})
    text = write_html(folder).read_text(encoding="utf-8")
    copy = folder / "measured.html"
    copy.write_text(POLICY.sub("", text).replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    return copy


@pytest.mark.parametrize("width", [1280, 500])
def test_nothing_overflows_and_no_label_is_cut(page, tmp_path, width):
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    written = re.search(r'data-found="([^"]*)"', done.stdout)
    assert written, "the page was not read to its end"
    found = json.loads(written.group(1).replace("&quot;", '"').replace("&lt;", "<"))
    assert found["width"] == width
    assert found["page"] <= width
    assert found["outside"] == []
    assert found["cut"] == []
    assert found["figures"] > 30
