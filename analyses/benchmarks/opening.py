"""How long a browser takes to open the pages of large records.

A record of 10,000 parameters, one of a million rows, and both in one page, each opened three times in a Chromium of
its own: seconds until the figures stand, by the page's own clock. Needs playwright and a chromium.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from analyses.benchmarks.scale import written
from analyses.common.results import Cell, Row
from analyses.common.study import Options

ROUNDS = 3
#: Figures of the page stand once Bokeh has drawn into each root.
DRAWN = "() => window.Bokeh && Bokeh.documents.length > 0 && Bokeh.documents.every(d => d.is_idle)"


def opened(page_file: Path) -> float:
    """Seconds from the start of loading to figures that stand."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(page_file.as_uri())
        page.wait_for_function(DRAWN, timeout=120_000)
        seconds = float(page.evaluate("performance.now()")) / 1000
        browser.close()
    return seconds


def cells(asked: Options) -> list[Cell]:
    """All pages of the same records."""
    return [{"page": "both"}]


def measured(cell: Cell, asked: Options) -> list[Row]:
    """A row a page."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wide, long = written(folder / "wide.h5", 1000, 10_000), written(folder / "long.h5", 1_000_000, 8)
        for what, records in {"10,000 parameters": [wide], "1,000,000 rows": [long], "both": [wide, long]}.items():
            page = folder / "page.html"
            words = [sys.executable, "-m", "gradscope", "report", *map(str, records), "-o", str(page)]
            subprocess.run(words, check=True, capture_output=True)
            each = [opened(page) for _ in range(asked.more["rounds"] or ROUNDS)]
            found.append({
                "load": round(os.getloadavg()[0], 1), "page": what, "megabytes": round(page.stat().st_size / 1e6, 2),
                "seconds_median": round(statistics.median(each), 2), "seconds_all": " ".join(f"{s:.2f}" for s in each),
            })  # fmt: skip
            print(what, each, flush=True)
    return found
