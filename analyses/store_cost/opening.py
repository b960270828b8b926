"""How long a browser takes to open the pages of large records: python -m analyses.store_cost.opening.

A record of 10,000 parameters, one of a million rows, and both in one page, each opened three times in a Chromium of
its own: seconds until the figures stand, by the page's own clock. Needs playwright and a chromium; appends to
opening.csv.
"""

from __future__ import annotations

import csv
import datetime
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from analyses.store_cost.scale import written

HERE = Path(__file__).parent
#: Figures of the page stand once Bokeh has drawn into each root.
DRAWN = "() => window.Bokeh && Bokeh.documents.length > 0 && Bokeh.documents.every(d => d.is_idle)"


def opened(page_file: Path) -> float:
    """Seconds from the start of loading to figures that stand."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(page_file.as_uri())
        page.wait_for_function(DRAWN, timeout=120_000)
        seconds = float(page.evaluate("performance.now()")) / 1000
        browser.close()
    return seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as name, (HERE / "opening.csv").open("a", newline="") as file:
        folder, table = Path(name), csv.writer(file)
        wide, long = written(folder / "wide.h5", 1000, 10_000), written(folder / "long.h5", 1_000_000, 8)
        if not file.tell():
            table.writerow(["date", "machine", "load", "page", "megabytes", "seconds_median", "seconds_all"])
        for what, records in {"10,000 parameters": [wide], "1,000,000 rows": [long], "both": [wide, long]}.items():
            page = folder / "page.html"
            words = [sys.executable, "-m", "gradscope", "report", *map(str, records), "-o", str(page)]
            subprocess.run(words, check=True, capture_output=True)
            each = [opened(page) for _ in range(3)]
            where = [datetime.date.today(), f"{platform.machine()} {os.cpu_count()} cores"]
            row = [*where, round(os.getloadavg()[0], 1), what, round(page.stat().st_size / 1e6, 2)]
            table.writerow([*row, round(statistics.median(each), 2), " ".join(f"{s:.2f}" for s in each)])
            print(what, each, flush=True)


if __name__ == "__main__":
    main()
