"""The page as typed values and as one file: what it says, how big it is, what it lets through."""

from __future__ import annotations

import base64
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gradscope_cli.main import run

from gradscope.report.page import fold
from gradscope.report.page.blocks import blocks
from gradscope.report.page.colours import RUNS, THEMES, contrast, layer_palette
from gradscope.report.page.document import document
from gradscope.report.page.encode import packed
from gradscope.report.page.page_values import Page
from gradscope.report.page.run_page import VALUES, differences, faded_at, page_of, read
from gradscope.report.page.windows import PageWindows
from gradscope.store import record as record_of
from gradscope.store.reader import open_run
from gradscope.store.record import Record
from gradscope.types import InputError
from tests.helpers.handmade import handmade


@pytest.fixture(scope="module")
def page(collapsed_run: Path, healthy_run: Path) -> Page:
    return page_of([collapsed_run, healthy_run])


# -- windows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("cuts", [[1000], [1, 7, 300, 692], [999, 1], [250] * 4])
def test_windows_keep_every_spike_whoever_cuts_the_blocks(cuts: list[int], size: int) -> None:
    rng = np.random.default_rng(0)
    y = rng.standard_normal((1000, 2))
    y[500, 1], y[501, 0], y[10] = 99.0, -99.0, np.nan
    windows = PageWindows(16, size)
    start = 0
    for n in cuts:
        windows.add({"y": y[start : start + n]}, {"s": y[start : start + n]})
        start += n
    found = windows.envelope("y")
    assert 16 <= windows.count <= 32
    for i in range(windows.count):
        part = y[i * windows.size : (i + 1) * windows.size]
        np.testing.assert_array_equal(found.low[i], np.nanmin(part, axis=0))
        np.testing.assert_array_equal(found.high[i], np.nanmax(part, axis=0))
        np.testing.assert_allclose(found.mean[i], np.nanmean(part, axis=0))
        np.testing.assert_allclose(windows.sum("s")[i], np.nansum(part, axis=0))
    assert found.high[:, 1].max() == 99
    assert found.low[:, 0].min() == -99


def test_numbers_survive_packing() -> None:
    values = np.array([0, 1, -2.5, 1e-40, 3e38, 0.1234, np.nan, np.inf], dtype=np.float32)
    halves = np.frombuffer(base64.b64decode(packed(values)), "<u2").astype("<u4") << 16
    back = halves.view("<f4")
    np.testing.assert_allclose(back[[0, 1, 2, 4, 5]], values[[0, 1, 2, 4, 5]], rtol=2**-8)
    assert 0 < back[3] < 2e-40  # a subnormal stays above zero
    assert np.isnan(back[6:]).all()


# -- what it says -----------------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_verdict_and_the_remedy_are_one_sentence(page: Page) -> None:
    failed, healthy = page.runs
    assert failed.label == "collapsed.h5"
    assert re.fullmatch(
        r"collapsed.h5 does not learn, collapsed from step 0, could have been known at step \d+: use a lower .*\.",
        failed.sentence,
    )
    assert re.fullmatch(
        r"healthy.h5 learns, in its active phase from step \d+. Remedy: none needed .*\.", healthy.sentence
    )
    assert failed.decay == "weight_decay 0.08 (λ 0.04)"
    kinds = [mark.kind for mark in failed.marks]
    assert "onset" in kinds
    assert "could be known" in kinds
    assert [mark.step for mark in failed.marks] == sorted(mark.step for mark in failed.marks)


def test_what_is_drawn_is_what_was_recorded(page: Page, collapsed_run: Path) -> None:
    shown = page.runs[0]
    with open_run(collapsed_run) as dataset:
        gradient = dataset["loss_gradient_mean_abs"].values
        dot, norm = dataset["weight_gradient_dot"].values, dataset["weight_norm"].values
        loss = dataset["loss"].values
        names = [str(name) for name in dataset["parameter"].values]
    size = shown.window_rows
    found = shown.quantities["gradient"]
    assert list(found.names) == names
    for i in (0, 5, len(shown.begin) - 1):
        np.testing.assert_array_equal(found.envelope.high[i], gradient[i * size : (i + 1) * size].max(0))
    np.testing.assert_allclose(shown.network["loss"].low[0], loss[:size].min())
    assert shown.quantities["penalty"].names == tuple(n for n in names if n.endswith("weight"))
    first = slice(0, size)
    push = (2 * 0.04 * norm[first, 0].astype(float) ** 2).sum()
    balance = shown.quantities["balance"]
    assert balance.envelope.mean[0, 0] == pytest.approx(-dot[first, 0].sum() / push, rel=1e-3)
    assert balance.weight is not None
    assert balance.weight[0, 0] == pytest.approx(push, rel=1e-3)
    assert shown.table[0].gradient[0] == pytest.approx(gradient[first, 0].mean(dtype=float), rel=1e-6)


def test_when_a_gradient_has_faded() -> None:
    begin = np.arange(5.0) * 10
    assert faded_at(np.array([1, 0.5, 0.05, 0.01, 0.0]), begin) == 20
    assert faded_at(np.array([1, 0.01, 0.5, 0.05, np.nan]), begin) == 30
    assert faded_at(np.array([1, 0.01, 0.01, 0.01, 0.5]), begin) is None
    assert faded_at(np.full(5, np.nan), begin) is None


def test_what_differs_between_runs(page: Page) -> None:
    assert differences([{"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}]) == (("b", ("2", "3")), ("c", ("–", "4")))
    assert any("weight_decay" in name for name, _ in page.differences)


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(handmade(tmp_path / name / "run.h5", 2, 64))
    assert [r.label for r in page_of(paths).runs] == ["a/run.h5", "b/run.h5"]


# -- size and memory --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [12_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_hundred_layers_fit_into_three_megabytes(tmp_path: Path, steps: int) -> None:
    path = handmade(tmp_path / "run.h5", 100, steps)
    whole = page_of([path])
    html = document(whole)
    assert len(html.encode()) < 3_000_000
    gradient = whole.runs[0].quantities["gradient"].envelope
    assert gradient.high.max() == 7.0  # the one spike
    assert len(whole.runs[0].begin) > 150
    # Words are cut short in a page, packed numbers never: every layer has its value in every window.
    found = re.search(r'id="data-json">(.*?)</script>', html, re.S)
    assert found
    [run_data] = json.loads(found[1])["runs"]
    for name, table in run_data["tables"].items():
        values = len(base64.b64decode(table["mean"], validate=True)) // 2
        assert values % len(table["names"]) == 0, name
        assert values >= len(table["names"]) * len(run_data["x"]), name


@pytest.mark.thorough
def test_memory_does_not_grow_with_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_of, "BLOCK_CELLS", 1 << 14)
    with Record(handmade(tmp_path / "run.h5", 20, 40_000)) as record:
        tracemalloc.start()
        read(record, VALUES)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # The judge keeps thirteen numbers of each of the first 65,536 rows, in a table that doubles; the windows take
    # 4 MB. All of the record at once would be 47 MB, and three times that in float64.
    assert peak < 40_000 * 13 * 8 * 3 + 12e6


def test_of_very_many_layers_some_are_shown_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "MOST_LAYERS", 40)
    shown = page_of([handmade(tmp_path / "run.h5", 60, 40)])
    assert len(shown.runs[0].table) == 40
    assert "40 of 60 layers are in this page" in document(shown)


def test_layers_are_grouped_by_the_blocks_of_their_names() -> None:
    def grouped(names: list[str], most: int = 12) -> dict[str, list[str]]:
        labels, places = blocks([name.split(".")[:-1] for name in names], most)
        return {label: [n for n, p in zip(names, places, strict=True) if p == i] for i, label in enumerate(labels)}

    net = ["embed.weight", *(f"h.{i}.{n}.weight" for i in range(24) for n in ("q", "mlp.0")), "head.weight"]
    found = grouped(net)
    assert list(found) == ["embed", *(f"h.{i}–{i + 2}" for i in range(0, 24, 3)), "head"]
    assert found["h.3–5"] == [f"h.{i}.{n}.weight" for i in (3, 4, 5) for n in ("q", "mlp.0")]
    assert list(grouped(net, 30)) == ["embed", *(f"h.{i}" for i in range(24)), "head"]
    assert list(grouped(["0.weight", "2.weight", "4.weight"], 2)) == ["0–2", "4"]
    assert list(grouped(["stem.conv.weight", "stem.conv.bias", "fc.weight", "w"])) == ["stem.conv", "fc", "(the model)"]
    assert list(grouped([f"{name}.weight" for name in "abcde"], 2)) == ["a … c", "d … e"]


def test_all_of_a_thousand_tensors_are_in_a_page_under_5_mb(tmp_path: Path) -> None:
    html = document(page_of([handmade(tmp_path / "run.h5", 1000, 300)]))
    assert len(html.encode()) < 5e6
    assert "blocks.999.weight" in html


# -- safety -----------------------------------------------------------------------------------------


def test_text_from_a_record_stays_text(tmp_path: Path) -> None:
    hostile = "</script><script>x('\"&\u2028"
    html = document(page_of([handmade(tmp_path / "run.h5", 2, 64, prefix=hostile)]))
    assert "<script>x(" not in html
    assert "&lt;/script&gt;&lt;script&gt;x(" in html
    data = re.search(r'id="data-json">(.*?)</script>', html, re.S)
    assert data
    assert json.loads(data[1])["runs"][0]["layers"][0] == f"{hostile}0.weight".replace("\u2028", " ")
    assert html.count("<script") == 5
    assert "http://" not in re.sub(r"<script>.*?</script>", "", html, flags=re.S)


@pytest.mark.parametrize("theme", list(THEMES))
def test_contrast_is_sufficient(theme: str) -> None:
    """WCAG 2.2: 4.5 for text (1.4.3), 3 for lines and controls (1.4.11)."""
    colours = THEMES[theme]
    for background in (colours["page"], colours["card"]):
        for name in ("text", "quiet", "link", "failed", "healthy", "undecided"):
            assert contrast(colours[name], background) >= 4.5, name
        for colour in (*RUNS[theme], *layer_palette(theme), colours["edge"]):
            assert contrast(colour, background) >= 3, colour
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


# -- the command ------------------------------------------------------------------------------------


def test_report(collapsed_run: Path, healthy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert run(["report", str(collapsed_run), str(healthy_run), "-o", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == out.stat().st_size
    assert [r["verdict"] for r in told["runs"]] == ["collapsed", "healthy"]
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_report_refuses_what_it_cannot_do(
    collapsed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert run(["report", *words]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert len(told.err.splitlines()) == 1
        return told.err

    assert "ends in .html" in refused(str(collapsed_run), "-o", str(tmp_path / "page.pdf"))
    assert "there is no folder" in refused(str(collapsed_run), "-o", str(tmp_path / "no" / "page.html"))
    assert "there is no file" in refused(str(tmp_path / "no.h5"), "-o", str(tmp_path / "page.html"))
    assert "no training step was recorded" in refused(
        str(handmade(tmp_path / "e.h5", 2, 0)), "-o", str(tmp_path / "page.html")
    )
    (tmp_path / "folder.html").mkdir()
    assert "cannot write" in refused(str(collapsed_run), "-o", str(tmp_path / "folder.html"))
    with pytest.raises(InputError, match="no record was given"):
        page_of([])
