"""The documentation's site as it is read from disk: nothing comes from the network, and the search finds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.thorough
def test_formulas_and_asterisks_survive(site: Path) -> None:
    page = (site / "search.html").read_text()
    assert "finds the strength λ* at which half of the runs" in page
    first = (site / "index.html").read_text()
    assert "pip" in first and ".[demo]" in first
    assert 'href="https://github.com/gradscope-dynamics/gradscope"' in first


@pytest.mark.thorough
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")
def test_the_search_works_from_disk(site: Path) -> None:
    with ThreadPoolExecutor(1) as own:  # where no event loop of another test is running
        asked = own.submit(_requests_of_a_search, site).result()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def _requests_of_a_search(site: Path) -> list[str]:
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "decisions/0036-one-process-a-trial.html"):
            page.goto((site / name).as_uri())
            page.click("input.md-search__input")
            page.keyboard.type("submitit")
            page.wait_for_selector(
                ".md-search-result__item h1:has-text('Searching the tolerance level')", timeout=60_000
            )
        browser.close()
    return asked
