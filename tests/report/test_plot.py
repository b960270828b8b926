"""Figures: what their summaries hold, that they are drawn, and what is said where a record does not hold enough."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from gradscope_cli.main import run as command

import gradscope
from gradscope.report.figure_kinds import FIGURES, KINDS, Wanted, panels_of
from gradscope.report.figures import draw_curves, figure_of, save
from gradscope.report.layers import LayerChoice, by_layer
from gradscope.report.style import COLOURS, STYLES, style
from gradscope.report.summary import RunSeries, load_run
from gradscope.store.record import Record
from gradscope.types import InputError
from tests.helpers.handmade import handmade
from tests.helpers.loops import mlp, train


def record(path: Path, strength: float = 0.005, preset: str = "full", **metrics: float) -> Path:
    """Six epochs of ten steps; the penalty of L2 on weights comes on after two epochs."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gradscope.regularize(optimizer, gradscope.L2(), gradscope.Delayed(strength, epochs=2))
    options: dict[str, Any] = {"preset": preset, "steps_per_epoch": 10, "on_failure": "ignore"}
    with gradscope.record(model, optimizer, path, **options) as run:
        for epoch in range(6):
            run.epoch(epoch, **{name: value * (epoch + 1) for name, value in metrics.items()})
            train(model, optimizer, 10, run)
    return path


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunSeries:
    folder = tmp_path_factory.mktemp("plot")
    return load_run(record(folder / "full.h5", accuracy=0.1, train_accuracy=0.11, val_loss=1.0))


@pytest.fixture(scope="module")
def cheap(tmp_path_factory: pytest.TempPathFactory) -> RunSeries:
    """No epochs' metrics, no zeros, no histograms."""
    return load_run(record(tmp_path_factory.mktemp("plot") / "cheap.h5", 0.01, "cheap"))


# -- from records -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_every_figure_is_drawn_in_every_style(full: RunSeries, name: str) -> None:
    panels = panels_of([full], name, Wanted())
    for chosen in (style("paper"), style("screen", dark=True)):
        figure = figure_of(panels, chosen)
        assert len(figure.axes) == len(panels) + (name == "layers-map")  # and its colour bar
        assert figure.get_facecolor()[:3] == pytest.approx(matplotlib.colors.to_rgb(chosen.paper))
        assert all(axes.get_title(loc="left") for axes in figure.axes[: len(panels)])
        assert figure.get_size_inches()[0] <= STYLES[chosen.name].widest


def test_a_strength_trace_has_its_corners(cheap: RunSeries) -> None:
    (panel,) = panels_of([cheap], "strength", Wanted())
    (curve,) = panel.curves
    np.testing.assert_array_equal(curve.x, [0, 20, 59])
    np.testing.assert_allclose(curve.y, [0, 0.01, 0.01], rtol=1e-6)
    assert panel.stairs
    (by_epoch,) = panels_of([cheap], "strength", Wanted(against="epoch"))[0].curves
    np.testing.assert_allclose(by_epoch.x, [0, 2, 5.9])


def test_learning_curves_show_training_and_validation(full: RunSeries) -> None:
    loss, accuracy = panels_of([full], "learning-curves", Wanted())
    assert [c.label for c in loss.curves] == ["training", "validation"]
    np.testing.assert_allclose(loss.curves[0].y[0], full.series.loss[:10].mean(), rtol=1e-6)
    np.testing.assert_allclose(loss.curves[1].y, [1, 2, 3, 4, 5, 6])
    np.testing.assert_allclose(accuracy.curves[1].y, np.arange(1, 7) / 10)
    assert accuracy.curves[0].y[-1] == pytest.approx(0.66)


def test_histograms_are_shares_of_the_penalised_weights(full: RunSeries) -> None:
    (panel,) = panels_of([full], "histogram", Wanted())
    assert [c.label for c in panel.curves] == ["step 0", "step 50"]
    for curve in panel.curves:
        assert curve.y.sum() == pytest.approx(1)
    with pytest.raises(InputError, match=r"no parameter '9\.bias'; expected one of 0\.weight"):
        panels_of([full], "histogram", Wanted(choice=LayerChoice("9.bias")))


def test_many_runs_are_shaded_and_then_set_against_the_strength(full: RunSeries) -> None:
    from dataclasses import replace

    runs = [replace(full, strength=s) for s in np.repeat([0.01, 0.1, 1.0], 5)]
    (panel,) = panels_of(runs[::2], "loss", Wanted())
    assert panel.scale == ("strength λ (weight_decay is 2λ)", 0.01, 1.0)
    assert sorted({round(curve.shade, 6) for curve in panel.curves}) == [0, 0.5, 1]
    assert len(figure_of([panel]).axes) == 2  # and its colour bar
    (ends,) = panels_of(runs, "loss", Wanted())
    assert ends.log_x
    np.testing.assert_allclose(ends.curves[0].y, full.series.loss[-3:].mean(), rtol=1e-6)
    (steps,) = panels_of(runs, "loss", Wanted(against="step"))
    assert len(steps.curves) == 15


def test_runs_are_labelled_by_what_tells_them_apart(full: RunSeries, cheap: RunSeries) -> None:
    (panel,) = panels_of([full, cheap], "loss", Wanted())
    assert [c.label for c in panel.curves] == ["weight_decay 0.01", "weight_decay 0.02"]  # both are delayed
    assert panel.legend == "L2: λ is half of it"


def test_a_failed_run_ends_in_a_cross(full: RunSeries) -> None:
    from dataclasses import replace

    figure = figure_of(panels_of([replace(full, failed=True)], "weight", Wanted()))
    assert "x" in {line.get_marker() for line in figure.axes[0].lines}


def test_lines_differ_without_colour() -> None:
    """In print: each line has a dash of its own; on a screen: colours keep their distance from the ground."""
    from gradscope.report.style import DASHES, MARKERS, ON_BLACK

    assert len({str(dash) for dash in DASHES}) == len(MARKERS) == len(COLOURS) == len(ON_BLACK)
    for chosen in (style("screen"), style("screen", dark=True)):
        for colour in chosen.colours:
            assert _contrast(colour, chosen.paper) > 2


def _contrast(one: str, other: str) -> float:
    """WCAG 2.1: the ratio of relative luminances."""

    def luminance(colour: str) -> float:
        rgb = np.array(matplotlib.colors.to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    lighter, darker = sorted([luminance(one), luminance(other)], reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_the_same_figure_is_the_same_file(full: RunSeries, tmp_path: Path) -> None:
    panels = panels_of([full], "loss", Wanted())
    for suffix in ("svg", "png", "pdf"):
        files = [tmp_path / f"{k}.{suffix}" for k in (1, 2)]
        for file in files:
            save(figure_of(panels), file)
        assert files[0].read_bytes() == files[1].read_bytes()
    assert matplotlib.image.imread(tmp_path / "1.png").shape[:2] == (495, 720)


def test_one_set_of_axes_can_be_drawn_into(full: RunSeries) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    draw_curves(axes, panels_of([full], "weight", Wanted())[0])
    assert axes.get_yscale() == "log"


# -- what is missing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("accuracy", "holds no epoch metric 'accuracy'; call Recording.epoch(k, accuracy=…)"),
        ("sparsity", "holds no weight_zero_fraction: record with preset='standard' or 'full'"),
        ("histogram", "holds no weight histograms: record with preset='full'"),
        ("learning-curves", "holds no validation metric 'accuracy': call Recording.epoch(k, accuracy=…, val_loss=…)"),
    ],
)
def test_what_is_missing_is_named(cheap: RunSeries, name: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        panels_of([cheap], name, Wanted())
    assert told in str(error.value)
    assert str(cheap.path) in str(error.value)


def test_a_record_without_loss_or_epochs(full: RunSeries) -> None:
    from dataclasses import replace

    nothing = np.full(len(full.series), np.nan)
    bare = replace(full, series=replace(full.series, loss=nothing), epoch=nothing)
    with pytest.raises(InputError, match=r"holds no loss: call run\.log\(loss=loss\) after each step"):
        panels_of([bare], "loss", Wanted())
    with pytest.raises(InputError, match="knows no epochs"):
        panels_of([bare], "weight", Wanted(against="epoch"))
    with pytest.raises(InputError, match="knows no epochs"):
        panels_of([bare], "learning-curves", Wanted())
    with pytest.raises(InputError, match="only train_accuracy, val_loss; choose one with --metric"):
        panels_of([replace(full, metrics={k: v for k, v in full.metrics.items() if k != "accuracy"})], "accuracy",
                  Wanted())  # fmt: skip
    with pytest.raises(InputError, match="figure accuracy has an axis of its own"):
        panels_of([full], "accuracy", Wanted(against="step"))


# -- the command --------------------------------------------------------------------------------------


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert command(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_plot_mistakes(full: RunSeries, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = ["plot", str(full.path)]
    assert "no --figure was given; expected one of accuracy" in refused(plot, capsys)
    assert "figure is 'volcano'; expected one of accuracy" in refused([*plot, "--figure", "volcano"], capsys)
    assert "no record was given" in refused(["plot", "--figure", "loss"], capsys)
    assert "--style is 'poster'" in refused([*plot, "--figure", "loss", "--style", "poster"], capsys)
    assert "--against is 'time'" in refused([*plot, "--figure", "loss", "--against", "time"], capsys)
    bmp = ["--figure", "loss", "-o", str(tmp_path / "x.bmp")]
    assert "ends in .png" in refused([*plot, *bmp], capsys)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["plot", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FIGURES)
    assert command(["plot", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"] == FIGURES


def test_penalty_shapes(cheap: RunSeries, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shapes.png"
    assert command(["plot", "--figure", "penalty-shapes", "-o", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    values = {c["label"]: np.interp([-1, 0, 0.5], c["x"], c["y"]) for c in shown["curves"]}
    np.testing.assert_allclose(values["l0"], [1, 0, 1])
    np.testing.assert_allclose(values["l1"], [1, 0, 0.5], atol=1e-12)
    np.testing.assert_allclose(values["l2"], [1, 0, 0.25], atol=1e-4)
    np.testing.assert_allclose(values["l3"], [1, 0, 0.125], atol=1e-3)
    slope, ball = shown["panels"]
    slopes = {c["label"]: c["y"] for c in slope["curves"]}
    np.testing.assert_allclose(slopes["l2"], 2 * np.linspace(-1.5, 1.5, 301), atol=1e-12)
    assert set(slopes["l0"]) == {None}
    x, y = (np.array(ball["curves"][2][axis]) for axis in "xy")
    np.testing.assert_allclose(x**2 + y**2, 1, atol=1e-9)
    assert out.stat().st_size > 10_000
    assert command(["plot", str(cheap.path), "--figure", "penalty-shapes", "-o", str(out), "--json"]) == 0
    assert [c["label"] for c in json.loads(capsys.readouterr().out)["curves"]] == ["l2"]


# -- by layer -----------------------------------------------------------------------------------------


def test_figures_by_layer_hold_what_was_recorded(full: RunSeries) -> None:
    with gradscope.open_run(full.path) as dataset:
        gradient = dataset["loss_gradient_mean_abs"].values
        names = [str(name) for name in dataset["parameter"].values]
    panels = panels_of([full], "layers", Wanted())
    assert [panel.title for panel in panels] == ["Loss gradient", "Penalty gradient", "Proportion", "Weights"]
    weights = [name for name in names if name.endswith("weight")]
    assert [curve.label for curve in panels[0].curves] == weights
    np.testing.assert_allclose(panels[0].curves[0].y, gradient[:, names.index(weights[0])], rtol=1e-6)
    biases = panels_of([full], "layers", Wanted(choice=LayerChoice("bias$")))[-1]
    assert [curve.label for curve in biases.curves] == [name for name in names if name.endswith("bias")]
    (grid,) = panels_of([full], "layers-map", Wanted())
    assert grid.rows == tuple(weights)
    np.testing.assert_allclose(grid.values[1], np.log10(gradient[:, 2] / gradient[0, 2]), atol=1e-6)
    profile = panels_of([full], "depth", Wanted(steps=(0, 30)))[0]
    assert [curve.label for curve in profile.curves] == ["step 0", "step 30"]
    np.testing.assert_allclose(profile.curves[1].y, gradient[30, [names.index(name) for name in weights]], rtol=1e-6)
    with pytest.raises(InputError, match=r"--steps has 900; .* holds steps 0 to 59"):
        panels_of([full], "depth", Wanted(steps=(900,)))
    with pytest.raises(InputError, match="2 records were given; a figure by layer is of one"):
        panels_of([full, full], "layers", Wanted())


def test_a_profile_of_many_layers_leaves_biases_out_and_says_so(tmp_path: Path) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(8)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    with gradscope.record(model, optimizer, tmp_path / "run.h5", on_failure="ignore") as run:
        for _ in range(3):
            loss = model(torch.ones(2, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.log(loss=loss)
    made = load_run(tmp_path / "run.h5")
    profile = panels_of([made], "depth", Wanted())[0]
    assert profile.names == tuple(f"{k}.weight" for k in range(8))
    assert profile.notes == ("8 weight matrices of 16 layers; --parameter chooses others",)
    assert len(panels_of([made], "depth", Wanted(choice=LayerChoice(".")))[0].names) == 16


def test_figures_of_the_network_can_be_of_chosen_layers(full: RunSeries) -> None:
    chosen = load_run(full.path, choice=LayerChoice("2.weight", group=0))
    with gradscope.open_run(full.path) as dataset:
        expected = dataset["loss_gradient_mean_abs"].sel(parameter="2.weight").values
    np.testing.assert_allclose(chosen.series.gradient, expected, rtol=1e-6)
    assert chosen.diagnosis == full.diagnosis
    panels = panels_of([chosen], "figure-2", Wanted())
    assert [panel.title for panel in panels] == [
        "Loss gradient of 2.weight, group 0", "Loss gradient, log scale of 2.weight, group 0",
        "Proportion of 2.weight, group 0",
    ]  # fmt: skip
    assert len(panels_of([chosen], "figure-5", Wanted(against="epoch"))) == 2
    with pytest.raises(InputError, match=r"has no group 7; expected one of 0\.weight"):
        load_run(full.path, choice=LayerChoice(group=7))


def test_many_layers_are_drawn_by_block(tmp_path: Path) -> None:
    with Record(handmade(tmp_path / "run.h5", 40, 100)) as record:
        panel = by_layer(record, LayerChoice())[0]
    assert [curve.label for curve in panel.curves] == [f"blocks.{i}–{i + 3}" for i in range(0, 40, 4)]
    assert panel.notes == ("40 layers as 10 blocks: a line is the mean over a block's entries",)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("look", ["screen", "paper"])
def test_nothing_stands_where_it_cannot_be_read(full: RunSeries, name: str, look: str) -> None:
    """No text beyond the figure, no title or label longer than its axes, no legend over a curve."""
    from dataclasses import replace

    long = replace(full, label="a run with a rather long name, from the start", failed=True, of="")
    runs = [full] if name.startswith(("layers", "depth")) else [long, replace(full, strength=0.05)]
    figure = figure_of(panels_of(runs, name, Wanted()), style(look))
    figure.draw_without_rendering()
    whole = figure.bbox.padded(1)
    for axes in figure.axes:
        box = axes.get_window_extent()
        low, high = axes.get_xlim()
        ticks = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
        for text in (axes._left_title, axes.xaxis.label, axes.yaxis.label, *ticks):
            extent = text.get_window_extent()
            assert not text.get_text() or whole.contains(extent.x0, extent.y0), text
            assert not text.get_text() or whole.contains(extent.x1, extent.y1), text
        assert axes._left_title.get_window_extent().width <= box.width + 1
        assert axes.yaxis.label.get_window_extent().height <= box.height + 1
        legend = axes.get_legend()
        if legend is None:
            continue
        frame = legend.get_window_extent()
        assert whole.contains(frame.x0, frame.y0)
        assert whole.contains(frame.x1, frame.y1)
        for line in axes.lines:
            points = line.get_transform().transform(line.get_xydata())
            points = points[np.isfinite(points).all(1)]
            if len(points) > 1:
                dense = np.concatenate([np.linspace(a, b, 20) for a, b in pairwise(points)])
                assert not any(frame.contains(x, y) for x, y in dense), line.get_label()
