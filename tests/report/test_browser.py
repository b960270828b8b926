"""The page in a real browser: headless Chromium, one for the session."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gradscope.report.live.web import served
from gradscope.report.page.document import report
from tests.helpers.growing_record import open_writer, rows
from tests.helpers.handmade import handmade

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic"]
HOSTILE = "</script><img src=x onerror='window.pwned=1'>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def written(collapsed_run: Path, healthy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "page.html"
    report([collapsed_run, healthy_run], out)
    return out


def opened(browser: Any, path: Path, **options: Any) -> Any:
    """The page, drawn; what went wrong in ``page.trouble``."""
    page = browser.new_context(**options).new_page()
    page.trouble = []
    page.on("console", lambda m: page.trouble.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.trouble.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else page.trouble.append(r.url))
    page.goto(path.as_uri(), timeout=200_000)
    page.wait_for_selector("body[data-ready]", timeout=200_000)
    return page


@pytest.fixture(scope="module")
def wide(browser: Any, written: Path) -> Iterator[Any]:
    page = opened(browser, written, viewport={"width": 1280, "height": 900})
    yield page
    page.context.close()


def painted(page: Any, name: str) -> int:
    """How many pixels of a plot's own canvas are not blank."""
    return page.evaluate(
        """(name) => {
          const all = (n) => [...n.querySelectorAll("*")].flatMap((p) => [
            ...(p.tagName === "CANVAS" ? [p] : []), ...(p.shadowRoot ? all(p.shadowRoot) : [])]);
          const [canvas] = all(document.querySelector(`[data-name="${name}"]`));
          const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          return data.filter((value, i) => i % 4 === 3 && value > 0).length;
        }""",
        name,
    )


def test_it_renders_without_an_error_or_a_request(wide: Any) -> None:
    assert "collapsed.h5 does not learn" in wide.locator(".verdict").first.inner_text()
    for name in (
        "run-loss",
        "loss",
        "strength",
        "metrics-0",
        "layer-gradient",
        "layer-penalty",
        "layer-balance",
        "map",
    ):
        wide.wait_for_function('(name) => document.querySelector(`[data-name="${name}"]`).clientHeight > 200', arg=name)
        assert painted(wide, name) > 1000, name
    assert wide.trouble == []


def hovered(page: Any) -> Any:
    """What hovers over a line of the loss gradients."""
    plot = page.locator('[data-name="layer-gradient"]')
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    tooltip = page.locator(".bk-tooltip-content:visible")
    for share in range(20, 90, 2):  # somewhere on the way down there is a line
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * share / 100)
        if tooltip.count():
            break
    return tooltip.first


def test_hover_tells_layer_and_value(wide: Any) -> None:
    text = hovered(wide).inner_text()
    assert ".weight" in text
    assert "∂L/∂w" in text
    assert "e-" in text  # a value


def shown(page: Any, name: str) -> int:
    return len(data(page, name)["name"])


def data(page: Any, name: str) -> dict[str, Any]:
    """What a figure of lines is made of."""
    found: dict[str, Any] = page.evaluate(
        "(name) => ({...Bokeh.documents[0].get_model_by_name(`${name}-source`).data})", name
    )
    return found


def test_layers_can_be_chosen_with_the_keyboard(wide: Any) -> None:
    assert shown(wide, "layer-gradient") == 6  # the penalised ones
    wide.locator("[data-choose=none]").focus()
    wide.keyboard.press("Enter")
    assert data(wide, "layer-gradient")["name"] == [""]
    wide.locator("#names input").first.focus()
    wide.keyboard.press("Space")
    assert shown(wide, "layer-gradient") == 1
    wide.locator("#filter").fill("bias")
    assert wide.locator("#names label:visible").count() == 6
    wide.locator("[data-choose=penalised]").press("Enter")
    wide.locator("#from").fill("100")
    wide.locator("#to").fill("200")
    wide.locator("#to").press("Enter")
    span = wide.evaluate(
        "(() => {const r = Bokeh.documents[0].get_model_by_name('map').x_range; return [r.start, r.end]})()"
    )
    assert span == [100, 200]
    wide.locator("#whole").press("Enter")


ACTIVE = "(({id, dataset, tagName}) => id || dataset.choose || tagName)(document.activeElement)"


def test_every_control_is_on_the_way_of_the_tab_key(wide: Any) -> None:
    wide.evaluate("document.activeElement.blur()")
    wanted = {"run", "penalised", "none", "filter", "from", "to", "whole", "mapped", "rows", "SUMMARY"}
    seen: set[str] = set()
    for _ in range(400):
        wide.keyboard.press("Tab")
        seen.add(wide.evaluate(ACTIVE))
        if wanted <= seen:
            break
    assert wanted <= seen


def test_another_run_can_be_shown(wide: Any) -> None:
    wide.locator("#run").select_option(label="healthy.h5")
    assert wide.locator("#events caption:visible").inner_text() == "Events of healthy.h5"
    strength = data(wide, "strength")
    assert strength["name"] == ["weight_decay (2λ)"]
    assert strength["ys"][0][0] == pytest.approx(0.004)
    wide.locator("#run").select_option(index=0)


def test_many_layers_are_drawn_by_block_and_what_is_left_out_is_said(browser: Any, tmp_path: Path) -> None:
    out, path = tmp_path / "page.html", tmp_path / "run.h5"
    weights = ["embed", *(f"blocks.{i}.{name}" for i in range(28) for name in "ab")]
    handmade(
        path, 113, 256, names=[f"{weights[0]}.weight", *(f"{w}.{n}" for w in weights[1:] for n in ("weight", "bias"))]
    )
    [shown] = report([path], out).runs
    named = [name for name in shown.named if name in shown.parameters][:5]
    assert named  # the layers in which the collapse shows
    page = opened(browser, out, viewport={"width": 1280, "height": 900})
    drawn = data(page, "layer-weight")
    assert drawn["name"] == ["embed", *(f"blocks.{i}–{i + 2}" for i in range(0, 27, 3)), "blocks.27", *named]
    assert drawn["width"][-1] > drawn["width"][0]  # in front
    told = page.locator("#told").inner_text()
    assert told.startswith("57 layers as 11 blocks of neighbours")
    assert "56 of the 113 layers are not drawn" in told
    assert "The 40 worst of 57 layers" in page.locator("#map-told").inner_text()
    rows = "[...Bokeh.documents[0].get_model_by_name('map').left[0].major_label_overrides.values()]"
    assert page.evaluate(rows)[0] == "blocks.27.b.weight"  # fades fastest
    assert f"{named[0]} (verdict" in page.locator("#key").inner_text()
    page.locator("#rows").select_option("model")
    assert page.evaluate(rows)[0] == "embed.weight"
    page.locator("#filter").fill("blocks.12")
    assert page.locator("#names label:visible").count() == 4
    page.locator("[data-choose=none]").click()
    page.locator("#names label:visible input").first.check()
    assert data(page, "layer-weight")["name"] == ["blocks.12.a.weight"]
    assert page.locator("#told").inner_text().startswith("Each line is a layer")
    assert page.trouble == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_at_400_pixels(browser: Any, written: Path, scheme: str) -> None:
    page = opened(browser, written, viewport={"width": 400, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.evaluate("getComputedStyle(document.querySelector('.sentence')).fontSize") >= "16px"
    low = page.evaluate(
        """() => [...document.querySelectorAll("p, li, td, th, dd, dt, summary, label, button")]
             .filter((e) => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll"))
             .map((e) => e.textContent)"""
    )
    assert low == []
    assert painted(page, "layer-gradient") > 1000
    # What the browser really paints, measured (WCAG 2.2, 1.4.3).
    assert page.evaluate(CONTRASTS) == []
    behind = hovered(page).evaluate("(e) => getComputedStyle(e.getRootNode().host).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", behind)[:3])) < 128) == (scheme == "dark")
    assert page.trouble == []
    page.context.close()


#: Texts whose colour has less than 4.5 : 1 on the background they stand on.
CONTRASTS = """() => {
  const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  const low = (e) => {
    const [dim, bright] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => a - b);
    return (bright + 0.05) / (dim + 0.05) < 4.5;
  };
  const written = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll("body *")].filter((e) => e.offsetParent && written(e) && low(e))
    .map((e) => e.outerHTML.slice(0, 80));
}"""


def test_paper_gets_pictures_tables_and_no_controls(browser: Any, written: Path, tmp_path: Path) -> None:
    page = opened(browser, written, color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("img.paper:visible").count() >= 12
    assert page.locator(".plot:visible").count() == 0
    assert page.locator("#choice:visible").count() == 0
    assert page.locator("#tables table:visible").count() == 2
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.emulate_media(media="screen")
    assert page.locator("img.paper").count() == 0
    page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    page.context.close()


def test_a_hostile_record_stays_text(browser: Any, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    report([handmade(tmp_path / "run.h5", 3, 64, prefix=HOSTILE)], out)
    page = opened(browser, out)
    assert page.evaluate("window.pwned") is None
    assert page.locator("img").count() == 0
    assert page.locator("#names label").first.inner_text().endswith(f"{HOSTILE}0.weight")
    assert page.trouble == []
    page.context.close()


def test_a_live_page_follows_the_run(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    writer = open_writer(path)
    writer.append(rows(0, 40))
    writer.flush()
    with served(path) as (address, view):
        page = browser.new_page()
        trouble: list[str] = []
        page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        while view.follower.run() is None:
            view.follower.wait(0.1)
        page.goto(address, timeout=200_000)
        page.wait_for_selector("body[data-ready]", timeout=200_000)
        assert "40 rows" in page.locator("#verdicts").inner_text()
        writer.append(rows(40, 80))
        writer.close("finished")
        page.locator("#verdicts", has_text="120 rows").wait_for(timeout=200_000)
        page.locator("#live", has_text="finished").wait_for(timeout=200_000)
        drawn = "Bokeh.documents[0].get_model_by_name('layer-gradient-source').data.xs[0].at(-1)"
        assert page.evaluate(drawn) >= 118
        assert page.locator("#tables h2").count() == 1
        assert trouble == []
        page.close()
