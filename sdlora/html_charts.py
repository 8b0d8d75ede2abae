"""The curves of a run and its identity/prompt trade-off, as bokeh charts for one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from bokeh.plotting import figure

Lines = Sequence[Mapping[str, Any]]

MAX_POINTS = 1000
"""Of a curve; longer ones are averaged in blocks."""

LORA, BASE, HELD_OUT = "#2f7fd3", "#8b93a0", "#d9822b"  # told apart on white and on black
HEIGHT_PX = 260


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        name: Of its element on the page.
        title: What it shows and which direction is better.
        item: What ``Bokeh.embed.embed_item`` takes.
    """

    name: str
    title: str
    item: dict[str, Any]


def library_script() -> str:
    """The chart library's JavaScript, to be inlined."""
    from bokeh.resources import Resources

    resources = Resources(mode="inline", components=["bokeh"])
    return resources.js_raw[0]  # what follows sets a log level, which it writes to the console


def charts(lines: Lines, best_step: int | None) -> list[Chart]:
    """The charts that these numbers give; none is empty.

    Args:
        lines: Of ``metrics.jsonl``, with ``step``.
        best_step: The chosen step, marked in the trade-off.
    """
    made = [
        _curves(
            lines, "loss", "Loss ↓", {"training": "train/loss", "held out": "val/loss"}, "Loss"
        ),
        _score(lines, "face_distance", "Face distance ↓"),
        _score(lines, "clip_score", "CLIP score ↑"),
        _trade_off(lines, best_step),
    ]
    return [chart for chart in made if chart is not None]


def scored_steps(lines: Lines) -> list[tuple[int, float | None, float | None]]:
    """``(step, face distance, CLIP score)`` of each scored step; the last line of a step counts."""
    face, clip = (dict(_points(lines, f"eval/{name}")) for name in ("face_distance", "clip_score"))
    return [(step, face.get(step), clip.get(step)) for step in sorted(face.keys() | clip.keys())]


def _points(lines: Lines, name: str) -> list[tuple[int, float]]:
    found = {
        line["step"]: float(line[name])
        for line in lines
        if isinstance(line.get(name), int | float) and isinstance(line.get("step"), int)
    }
    return sorted(found.items())


def _base(lines: Lines, name: str) -> float | None:
    points = _points(lines, f"base/{name}")
    return points[-1][1] if points else None


def _score(lines: Lines, name: str, title: str) -> Chart | None:
    base = _base(lines, name)
    flat = {} if base is None else {"base": base}
    return _curves(lines, name, title, {"LoRA": f"eval/{name}"}, title[:-2], flat)


def _curves(
    lines: Lines,
    name: str,
    title: str,
    keys: Mapping[str, str],
    unit: str,
    flat: Mapping[str, float] | None = None,
) -> Chart | None:
    curves = {label: _points(lines, key) for label, key in keys.items()}
    curves = {label: points for label, points in curves.items() if points}
    if not curves:
        return None
    plot = _figure("Step", unit, [("step", "@x"), (unit, "@y{0.0000}")])
    for number, (label, points) in enumerate(curves.items()):
        x, y = _averaged(points)
        color = (LORA, HELD_OUT)[number]
        shape: dict[str, Any] = {"color": color, "legend_label": label}
        plot.line(x, y, line_width=2, **shape)
        if len(x) <= 60:
            plot.scatter(x, y, size=5, **shape)
    ends = [point[0] for points in curves.values() for point in points]
    for label, height in (flat or {}).items():
        plot.line(
            [min(0, *ends), max(ends)],
            [height, height],
            color=BASE,
            line_width=2,
            line_dash="dashed",
            legend_label=label,
        )
    return _chart(plot, name, title)


def _trade_off(lines: Lines, best_step: int | None) -> Chart | None:
    scored = [
        (step, face, clip)
        for step, face, clip in scored_steps(lines)
        if face is not None and clip is not None
    ]
    if not scored:
        return None
    plot = _figure(
        "Face distance", "CLIP score", [("", "@label"), ("", "@x{0.000}, @y{0.0}")], joined=False
    )

    def dots(rows: Sequence[tuple[str, float, float]], legend: str, **shape: Any) -> None:
        labels, x, y = zip(*rows, strict=True)
        source = {"x": list(x), "y": list(y), "label": list(labels)}
        plot.scatter("x", "y", source=_source(source), legend_label=legend, **shape)

    face, clip = _base(lines, "face_distance"), _base(lines, "clip_score")
    if face is not None and clip is not None:
        dots([("base", face, clip)], "base", size=10, color=BASE, marker="square")
    dots([(f"step {step}", x, y) for step, x, y in scored], "a step", size=9, color=LORA)
    chosen = [(f"step {step}, chosen", x, y) for step, x, y in scored if step == best_step]
    if chosen:
        ring = {"size": 19, "fill_alpha": 0.0, "line_color": HELD_OUT, "line_width": 3}
        dots(chosen, "chosen", **ring)
    return _chart(plot, "trade_off", "Likeness against prompt: the upper left is best")


def _figure(
    x_label: str, y_label: str, hover: list[tuple[str, str]], joined: bool = True
) -> "figure":
    from bokeh.models import HoverTool
    from bokeh.plotting import figure

    plot = figure(
        height=HEIGHT_PX,
        sizing_mode="stretch_width",
        tools=[HoverTool(tooltips=hover, mode="mouse")],
        toolbar_location=None,
        x_axis_label=x_label,
        y_axis_label=y_label,
        min_border_right=12,
    )
    plot.background_fill_alpha = 0.0
    plot.border_fill_alpha = 0.0
    plot.outline_line_alpha = 0.0
    plot.xgrid.visible = not joined
    for axis in plot.axis:
        axis.axis_line_alpha = 0.4
        axis.major_tick_line_alpha = 0.4
        axis.minor_tick_line_alpha = 0.0
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
    return plot


def _chart(plot: "figure", name: str, title: str) -> Chart:
    from bokeh.core.types import ID
    from bokeh.embed import json_item

    legend = plot.legend[0]
    plot.add_layout(legend, "above")
    legend.orientation = "horizontal"
    legend.location = "left"
    legend.background_fill_alpha = legend.border_line_alpha = 0.0
    legend.label_text_font_size = "12px"
    legend.update(padding=2, margin=4, spacing=12)
    return Chart(name, title, dict(json_item(plot, ID(f"chart-{name}"))))


def _source(data: Mapping[str, list[Any]]) -> Any:
    from bokeh.models import ColumnDataSource

    return ColumnDataSource(dict(data))


def _averaged(points: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    size = -(-len(points) // MAX_POINTS)
    blocks = [numpy.mean(points[at : at + size], axis=0) for at in range(0, len(points), size)]
    return [float(block[0]) for block in blocks], [float(block[1]) for block in blocks]
