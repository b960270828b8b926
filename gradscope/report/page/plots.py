"""Bokeh figures of the page: axes, glyphs and tools. They hold no numbers; the script of the page fills them.

So a page with many runs, and one that is live, have one set of figures whose sources change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bokeh.core.property.vectorization import field
from bokeh.document import Document
from bokeh.embed.util import standalone_docs_json_and_render_items
from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    BoxZoomTool,
    ColumnDataSource,
    DataRange1d,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    PanTool,
    Range1d,
    ResetTool,
    SaveTool,
    VSpan,
    WheelZoomTool,
)
from bokeh.models.annotations import ColorBar, Span
from bokeh.palettes import Viridis256
from bokeh.plotting import figure

from gradscope.quantities import BY_LAYER, BY_MODULE, COMPARED, LOSS, STRENGTH, Quantity


@dataclass(frozen=True)
class Chart:
    """Figure of lines.

    Attributes:
        of: the quantity.
        note: the text under it.
    """

    of: Quantity
    note: str

    @property
    def name(self) -> str:
        """As the script calls it."""
        return self.of.word


LAYERS = tuple(Chart(q, q.note) for q in BY_LAYER.values())
MODULES = tuple(Chart(q, q.note) for q in BY_MODULE.values())
RUNS = tuple(Chart(q, q.whole) for q in COMPARED)
LOSS_OVER_TIME = Chart(LOSS, "Vertical lines: events, told in the table below.")
METRIC = Quantity("metric", (), "", word="metric", title="Metric", axis="value")
STRENGTH_OVER_TIME = Chart(STRENGTH, STRENGTH.whole)
#: Figures for metrics of the epochs, one a kind; what is beyond shares the last one.
METRICS = 6
#: The axis of a share, and of a ratio of two small numbers, whose tails are kept out.
Y_RANGES = {"proportion": (-0.02, 1.02), "balance": (-0.5, 2.0)}


def figures(several: bool) -> dict[str, Any]:
    """Build every figure of the page, by its name; those that compare runs only where there are several."""
    time, layer_time = Range1d(start=0, end=1), Range1d(start=0, end=1)
    found = {
        "loss": _lines("loss", LOSS_OVER_TIME, time, marks=True),
        "strength": _lines("strength", STRENGTH_OVER_TIME, time),
    }
    epochs = Range1d(start=0, end=1)
    kinds = [f"metrics-{i}" for i in range(METRICS)]
    found |= {name: _lines(name, Chart(METRIC, ""), epochs, x_label="epoch") for name in kinds}
    found |= {f"layer-{c.name}": _lines(f"layer-{c.name}", c, layer_time) for c in LAYERS}
    found |= {f"module-{c.name}": _lines(f"module-{c.name}", c, layer_time) for c in MODULES}
    if several:
        runs_time = Range1d(start=0, end=1)
        found |= {f"run-{c.name}": _lines(f"run-{c.name}", c, runs_time) for c in RUNS}
    found["map"] = _map(layer_time)
    return found


def embedded(models: dict[str, Any]) -> dict[str, Any]:
    """Serialise these figures as one Bokeh document; ``roots``: by name the identifier of the element to draw in."""
    document = Document()
    for model in models.values():
        document.add_root(model)
    docs, items = standalone_docs_json_and_render_items(list(models.values()))
    item = items[0].to_json()
    return {"docs": docs, "item": item, "roots": {name: item["roots"][m.ref["id"]] for name, m in models.items()}}


def _figure(name: str, x_range: Range1d, x_label: str, **options: Any) -> Any:
    zoom = BoxZoomTool()
    tools = [PanTool(dimensions="width"), zoom, WheelZoomTool(dimensions="width"), ResetTool(), SaveTool()]
    plot = figure(
        name=name,
        x_range=x_range,
        height=options.pop("height", 280),
        min_width=200,
        sizing_mode="stretch_width",
        tools=tools,
        toolbar_location="above",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
        **options,
    )
    plot.toolbar.logo = None
    plot.toolbar.active_drag = zoom
    plot.xaxis.axis_label = x_label
    plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    plot.xaxis.ticker = BasicTicker(desired_num_ticks=5)
    for axis in plot.axis:
        axis.minor_tick_line_color = None
        axis.axis_label_text_font_style = "normal"
    return plot


def _lines(name: str, chart: Chart, x_range: Range1d, *, marks: bool = False, x_label: str = "optimizer step") -> Any:
    y: dict[str, Any] = {"y_axis_type": "log" if chart.of.log else "linear"}
    if chart.name in Y_RANGES:
        start, end = Y_RANGES[chart.name]
        y["y_range"] = Range1d(start=start, end=end)
    elif chart.of is STRENGTH:
        y["y_range"] = DataRange1d(start=0, range_padding=0.1)
    else:
        y["y_range"] = DataRange1d(range_padding=0.06, **({"default_span": 0.2} if chart.of is METRIC else {}))
    plot = _figure(name, x_range, x_label, y_axis_label=chart.of.axis, **y)
    ranges = ColumnDataSource({key: [] for key in ("xs", "ys", "colour", "alpha")}, name=f"{name}-ranges")
    plot.patches("xs", "ys", source=ranges, fill_color=field("colour"), fill_alpha=field("alpha"), line_color=None)
    source = ColumnDataSource(
        {key: [] for key in ("xs", "ys", "name", "colour", "dash", "width")}, name=f"{name}-source"
    )
    look = {"line_color": field("colour"), "line_dash": field("dash"), "line_width": field("width")}
    drawn = plot.multi_line("xs", "ys", source=source, hover_line_width=4, **look)
    value = "$snap_y{%.3g}"
    tips = [("", "@name"), (x_label.split()[-1], "$snap_x{0,0}"), (chart.of.axis, value)]
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=tips, formatters={"$snap_y": "printf"}, line_policy="nearest"))
    if marks:
        _marks(plot, name)
    if chart.of.level is not None:
        plot.add_layout(Span(location=chart.of.level, dimension="width", line_dash="dotted", name="level"))
    return plot


def _marks(plot: Any, name: str) -> None:
    source = ColumnDataSource({"x": [], "text": [], "colour": []}, name=f"{name}-marks")
    glyph = VSpan(x=field("x"), line_color=field("colour"), line_dash="dashed", line_width=1.5)
    drawn = plot.add_glyph(source, glyph)
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("step", "@x{0,0}"), ("", "@text")]))


def _map(x_range: Range1d) -> Any:
    plot = _figure("map", x_range, "optimizer step", y_range=Range1d(start=1, end=0), height=300)
    plot.yaxis.ticker = FixedTicker(ticks=[])
    keys = ("left", "right", "top", "bottom", "name", "value", "shown")
    source = ColumnDataSource({key: [] for key in keys}, name="map-source")
    mapper = LinearColorMapper(palette=Viridis256, low=-3, high=0, nan_color="#808080", name="map-colours")
    colour = field("shown", mapper)
    drawn = plot.quad(
        left="left", right="right", top="top", bottom="bottom", source=source, fill_color=colour, line_color=colour
    )
    tips = [("", "@name"), ("step", "@left{0,0} to @right{0,0}"), ("value", "@value{%.3g}")]
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=tips, formatters={"@value": "printf"}))
    plot.grid.visible = False
    bar = ColorBar(color_mapper=mapper, height=10, width="auto", padding=2, background_fill_alpha=0)
    plot.add_layout(bar, "below")
    return plot
