"""The page in a real browser: it fits every width, asks for nothing, and its pictures are saved."""

import json
import re
import shutil
import subprocess
from html import escape, unescape
from xml.etree import ElementTree

import pytest
from test_report_html import page
from test_study_verdicts import SIX, above, study_of

from slimnet.report import NetworkReport, Slim
from slimnet.study import Facts, LatencyFacts

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
WIDTHS = (390, 820, 1400)

# runs before the page's own scripts
WATCH = """
window.found = { errors: [] };
addEventListener("error", (event) => found.errors.push(String(event.message)));
addEventListener("unhandledrejection", (event) => found.errors.push(String(event.reason)));
for (const kind of ["error", "warn"])
  console[kind] = (...said) => found.errors.push(said.join(" "));
"""
# and after them: what sticks out, what was asked for, what is saved
LOOK = """
addEventListener("load", async () => {
  const root = document.documentElement, wide = root.clientWidth;
  const inside = (element) => element.closest(".scroll, pre, .legend");
  found.over = root.scrollWidth - wide;
  found.out = [...document.body.querySelectorAll("*")]
    .filter((e) => !inside(e) && e.getBoundingClientRect().right > wide + 1)
    .map((e) => e.outerHTML.slice(0, 80));
  found.asked = performance.getEntriesByType("resource").map((entry) => entry.name)
    .filter((name) => !name.startsWith("data:"));
  found.saved = [];
  for (const chart of document.querySelectorAll(".chart")) {
    const one = {};
    for (const kind in SAVED) {
      const blob = await SAVED[kind](chart);
      one[kind] = [blob.type, kind === "png" ? blob.size : await blob.text()];
    }
    found.saved.push(one);
  }
  const shown = (series) => getComputedStyle(series).display !== "none";
  const button = document.querySelector(".legend button"), line = document.querySelector(".series");
  const before = shown(line);
  button.click();
  found.hidden = before && !shown(line);
  document.querySelector(".series:last-of-type .mark")
    .dispatchEvent(new Event("click", { bubbles: true }));
  found.told = document.querySelector(".said").textContent;
  parent.postMessage(JSON.stringify(found), "*");
});
"""
FRAMES = """<!doctype html><body><script>
const all = [];
addEventListener("message", (event) => {
  all.push(JSON.parse(event.data));
  if (all.length === WIDTHS) {
    const result = document.createElement("pre");
    result.id = "found";
    result.textContent = JSON.stringify(all);
    document.body.append(result);
  }
});
</script>"""


def study():
    rows = {
        ("l1", "finetune"): above(SIX),
        ("l1", "scratch-e"): above([0.0] * 6),
        ("a-criterion-with-a-long-name", "finetune"): above([-0.5] * 6),
    }
    curves = {"losses": (2.0, 1.0, 0.5, 0.25), "curve": (50.0, 80.0, 85.0, 90.0), "best": 90.0}
    groups = [{"layers": ["layer1.0.conv1", "layer1.0.bn1"], "before": 16, "after": 8}]
    timed = LatencyFacts(0.4, 0.38, 0.5, speedup=2.0)
    facts = Facts(100, 60, 0.5, timed, achieved={"groups": groups})
    results = study_of(rows, finetune={**curves, "facts": facts}, scratch_e={"facts": facts})
    return NetworkReport("net", Facts(200, 90), [Slim("l1, ratio 0.5", facts)], results)


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    if BROWSER is None:
        pytest.skip("no Chromium here: the page is not looked at in a browser")
    folder, html = tmp_path_factory.mktemp("browser"), page(networks=[study()])
    html = html.replace("<head>", f"<head><script>{WATCH}</script>", 1)
    html = html.replace("</body>", f"<script>{LOOK}</script></body>", 1)
    frames = [
        f'<iframe width="{width}" height="800" srcdoc="{escape(html)}"></iframe>'
        for width in WIDTHS
    ]
    whole = FRAMES.replace("WIDTHS", str(len(WIDTHS))) + "".join(frames)
    (folder / "frames.html").write_text(whole, encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"]
    ran = subprocess.run(
        [
            *(BROWSER, *flags, f"--user-data-dir={folder / 'profile'}"),
            *("--virtual-time-budget=20000", (folder / "frames.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', ran.stdout, re.DOTALL)
    assert found, ran.stderr[-2000:]
    return json.loads(unescape(found[1]))


@pytest.mark.parametrize("number", range(len(WIDTHS)))
def test_nothing_sticks_out_fails_or_is_asked_for(looked, number):
    found = looked[number]
    assert (found["over"], found["out"]) == (0, [])
    assert (found["errors"], found["asked"]) == ([], [])


def test_lines_are_hidden_and_points_read(looked):
    for found in looked:
        assert found["hidden"]
        assert "% of the MACs" in found["told"]


def test_every_picture_is_saved_in_three_ways(looked):
    titles = ("MACs remaining", "compression", "ms per run", "training in all", "epochs")
    for found in looked:
        saved = found["saved"]
        assert len(saved) == 8  # four views, two curves, widths, latency
        for one, title in zip(saved, titles, strict=False):
            assert one["svg"][0] == "image/svg+xml"
            assert ElementTree.fromstring(one["svg"][1]).tag.endswith("svg}svg")
            assert title in one["svg"][1] and "var(" not in one["svg"][1]
            assert one["csv"][1].startswith("series,")
        for one in saved:
            kind, size = one["png"]
            assert kind == "image/png" and size > 3000
        assert "l1, fine-tuned" in saved[0]["svg"][1]
