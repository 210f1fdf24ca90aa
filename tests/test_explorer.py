"""The explorer in a browser: what it shows is what the arrays say, and nothing goes wrong."""

import html
import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest

from vaejax.evaluation.plane import Plane
from vaejax.reporting.explorer import _start, explorer, explorer_data
from vaejax.reporting.page import page

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the PATH: bash launch/test.sh --browser installs it"
)

# Runs before all else: what goes wrong is remembered.
BEFORE = """<script>
window.faults = [];
addEventListener("error", (event) => faults.push(String(event.message)), true);
addEventListener("unhandledrejection", (event) => faults.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => faults.push(event.blockedURI));
console.error = console.warn = (...said) => faults.push(said.join(" "));
</script>"""

# Runs after all else: does what a person does, and notes what the page shows then.
AFTER = """<script>
const all = (selector) => [...document.querySelectorAll(selector)];
const parts = (name) => all(`[data-part=${name}]`);
const texts = (name) => parts(name).map((each) => each.textContent);
const shot = () => parts("plane").map((each) => each.toDataURL());
const pixels = (k) => {
  const canvas = parts("decoded")[k];
  return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
};
const at = (x, y) => { location.hash = `at=${x},${y}`; dispatchEvent(new Event("hashchange")); };
const seen = () => ({ at: texts("at"), p: texts("p"), q: texts("q"), ratio: texts("ratio"),
  verdict: texts("verdict"), where: texts("where"),
  symbols: all(".symbol").map((each) => each.textContent) });
const found = { steps: [] };
const note = (name, more = {}) => found.steps.push({ name, ...seen(), ...more });
const ready = setInterval(() => {
  if (!document.getElementById("explorer").dataset.ready) return;
  clearInterval(ready);
  try { act(); } catch (error) { faults.push(String(error.stack)); }
  found.faults = faults;
  found.loaded = performance.getEntriesByType("resource").map((e) => e.name)
    .filter((name) => !name.startsWith("data:"));
  const result = Object.assign(document.createElement("pre"), { id: "result" });
  result.textContent = JSON.stringify(found);
  document.body.append(result);
}, 20);
ACT
</script>"""

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 9, 5, 4, 1)) / 255
SHAPE = (5, 4, 1)


def plane_of(reach, decoded, shift=0.0, lift=0.0):
    """A plane whose prior is N(0, I), and whose aggregate posterior is N((shift, lift), I)."""
    x = np.linspace(-reach, reach, 129)
    ring = np.stack([np.cos(np.arange(40)), np.sin(np.arange(40))], axis=1).astype(np.float32)
    log_p = -0.5 * (x**2 + x[:, None] ** 2) - np.log(2 * np.pi)
    log_q = -0.5 * ((x - shift) ** 2 + (x[:, None] - lift) ** 2) - np.log(2 * np.pi)
    return Plane(x, x, log_p, log_q, decoded, ring, 2 * ring, 3 * ring, 0.25)


def browsed(tmp_path, runs, x, act, fragment=""):
    """What the script `act` notes on a page with the planes of `runs`."""
    labels = [f"run <{k}>" for k in range(len(runs))]
    classes = np.arange(40) % 2
    parts = explorer(labels, runs, [explorer_data(each, x, classes) for each in runs])
    text = page("explorer", parts, ("drawing.js", "explorer.js"))
    text = text.replace("<title>", f"{BEFORE}<title>", 1)
    text = text.replace("</body>", AFTER.replace("ACT", f"function act() {{ {act} }}") + "</body>")
    path = tmp_path / "page.html"
    path.write_text(text)
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1200", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, f"file://{path}{fragment}"], capture_output=True, text=True
    )
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result, done.stderr[-2000:]
    found = json.loads(html.unescape(result[1]))
    assert found["faults"] == []
    assert found["loaded"] == []
    return {step["name"]: step for step in found["steps"]}


def numbers(texts):
    return [float(text.replace("\u2212", "-")) for text in texts]


def gray(images):
    """Pixels as a canvas holds them."""
    levels = np.round(images[..., 0] * 255).astype(int)
    return np.stack([levels, levels, levels, np.full_like(levels, 255)], axis=-1).ravel()


def test_it_begins_in_the_deepest_pocket_that_every_run_shows():
    far, near = plane_of(4.0, IMAGES, 3.0), plane_of(1.0, IMAGES)
    alone, both = (_start("z", [{"z": each} for each in runs]) for runs in ((far,), (far, near)))
    reach = math.sqrt(-2 * math.log(0.1))  # nine tenths of N(0, I)
    assert alone == pytest.approx([-reach, 0], abs=0.3)
    assert math.hypot(*alone) == pytest.approx(reach, abs=0.07)
    assert both[0] == pytest.approx(-1, abs=0.07)
    apart = near._replace(x=near.x + 50)
    assert _start("z", [{"z": far}, {"z": apart}]) == alone


def test_images_are_blended_and_readouts_are_those_of_the_grid(tmp_path):
    runs = [{"z": plane_of(4.0, IMAGES, 1.0)}, {"z": plane_of(4.0, 1 - IMAGES)}]
    act = """
    note("linked");
    at(-1, 2); note("node", { one: pixels(0), other: pixels(1) });
    at(4, -4); note("corner", { one: pixels(0) });
    at(-1.5, 2.5); note("between", { one: pixels(0) });
    at(9, 0); note("outside", { one: pixels(0) });
    """
    steps = browsed(tmp_path, runs, np.zeros((3, *SHAPE)), act, "#at=0.5,-1.25")
    assert steps["linked"]["at"] == ["(0.50, \u22121.25)"] * 2
    node = steps["node"]  # row 6 from the bottom, column 3
    np.testing.assert_array_equal(node["one"], gray(IMAGES[6, 3]))
    np.testing.assert_array_equal(node["other"], gray(1 - IMAGES[6, 3]))
    np.testing.assert_array_equal(steps["corner"]["one"], gray(IMAGES[0, 8]))
    blend = gray(IMAGES[6:8, 2:4].mean(axis=(0, 1)))
    assert np.abs(np.array(steps["between"]["one"]) - blend).max() <= 1
    log_p = -2.5 - np.log(2 * np.pi)
    assert numbers(node["p"]) == pytest.approx([log_p, log_p], abs=0.006)
    assert numbers(node["q"]) == pytest.approx([log_p - 1.5, log_p], abs=0.006)
    assert numbers(node["ratio"]) == pytest.approx([1.5, 0.0], abs=0.006)
    assert "sampled 4.5\u00d7" in node["verdict"][0]
    assert "covered" in node["verdict"][1]
    assert steps["outside"]["p"] == ["\u2013"] * 2
    assert not any(steps["outside"]["one"])


def test_pointer_keys_spaces_and_toggles_change_what_is_seen(tmp_path):
    runs = [{"z": plane_of(4.0, IMAGES, 1.0), "z0": plane_of(8.0, IMAGES, -6.0)}]
    runs.append({"z": plane_of(4.0, IMAGES)})
    act = """
    const plane = parts("plane")[0], box = plane.getBoundingClientRect();
    const before = shot();
    plane.dispatchEvent(new PointerEvent("pointermove",
      { clientX: box.left + 0.75 * box.width, clientY: box.top + 0.25 * box.height }));
    note("moved", { changed: shot().map((each, k) => each !== before[k]) });
    plane.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
    note("key");
    plane.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowUp", shiftKey: true }));
    note("shifted");
    for (const box of all("input[type=checkbox]")) {
      const before = shot();
      box.click();
      note(box.value, { changed: shot().map((each, k) => each !== before[k]) });
      box.click();
      note(box.value + " again", { changed: shot().map((each, k) => each !== before[k]) });
    }
    all("input[value=z0]")[0].click(); at(-6, 0); note("z0");
    dispatchEvent(new Event("resize")); note("resized");
    """
    steps = browsed(tmp_path, runs, np.zeros((3, *SHAPE)), act)
    assert steps["moved"]["changed"] == [True, True]
    assert steps["moved"]["at"] == ["(2.00, 2.00)"] * 2
    assert steps["key"]["at"] == ["(1.94, 2.00)"] * 2  # 8 / 128 to the left
    assert steps["shifted"]["at"] == ["(1.94, 2.50)"] * 2
    for layer in ("aggregate", "prior", "codes", "low", "high"):
        assert steps[layer]["changed"] == [True, True], layer
        assert steps[f"{layer} again"]["changed"] == [False, False], layer
    assert steps["pockets"]["changed"] == [True, False]  # the second prior has none
    assert steps["z0"]["symbols"] == ["z\u2080"] * 3 + ["z"] * 3
    assert numbers(steps["z0"]["ratio"][:1]) == pytest.approx([-18.0], abs=0.006)
    assert steps["z0"]["verdict"][0].startswith("leak")
    assert steps["z0"]["p"][1] == "\u2013"  # outside the plane of the second run
    assert steps["resized"] == {**steps["z0"], "name": "resized"}


def test_shades_lie_where_their_densities_do(tmp_path):
    act = """
    all("input[type=checkbox]").filter((box) => box.checked).forEach((box) => box.click());
    const alphas = (layer) => {
      const box = all(`input[value=${layer}]`)[0], canvas = parts("plane")[0];
      at(9, 9); box.click();
      const context = canvas.getContext("2d"), side = canvas.width;
      const places = [[1.5, 2], [1.5, -2], [-1.5, 2], [-1.5, -2]];
      const found = places.map(([x, y]) => context.getImageData(
        Math.round((0.5 + x / 8) * side), Math.round((0.5 - y / 8) * side), 1, 1).data[3]);
      box.click();
      return found;
    };
    note("shades", { aggregate: alphas("aggregate"), pockets: alphas("pockets") });
    """
    runs = [{"z": plane_of(4.0, IMAGES, 1.5, 2.0)}]
    shades = browsed(tmp_path, runs, np.zeros((3, *SHAPE)), act)["shades"]
    # q is densest at (1.5, 2), then (-1.5, 2), then (1.5, -2); it leaks at the first, and its
    # pockets are the other places.
    top, below, left, far = shades["aggregate"]
    assert top == pytest.approx(0.75 * 255, abs=2)
    assert left == pytest.approx(0.75 * 255 * (1 - 4.5 / 9), abs=4)
    assert below == pytest.approx(0.75 * 255 * (1 - 8 / 9), abs=4)
    assert far == 0
    ratios = np.array([3.125, 8 - 3.125, 4.5 - 3.125, 12.5 - 3.125])  # |log p - log q|
    opacities = np.minimum(0.85, (ratios - 0.7) / 4)
    assert shades["pockets"] == pytest.approx((255 * opacities).tolist(), abs=5)


def test_points_are_decoded_by_bilinear_interpolation(tmp_path):
    x = np.linspace(-4, 4, 9)
    decoded = np.stack(np.meshgrid(2 * x + 1, x), axis=-1)  # linear: the blend is exact
    act = 'at(0.3, -1.2); note("point"); at(3.9, 3.9); note("other");'
    data = np.random.default_rng(1).normal(size=(50, 2))
    steps = browsed(tmp_path, [{"z": plane_of(4.0, decoded)}], data, act)
    assert steps["point"]["where"] == ["x = (1.60, \u22121.20)"]
    assert steps["other"]["where"] == ["x = (8.80, 3.90)"]
