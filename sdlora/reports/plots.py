"""Style of the page's bokeh plots, and their JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    from bokeh.plotting import figure

HEIGHT_PX = 260
LEGEND_LINE_PX = 20
MAX_POINTS = 1000
"""Most points of a curve; longer ones are averaged in blocks."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        name: Id of its element on the page.
        title: Content and better direction.
        item: Argument of ``Bokeh.embed.embed_item``.
        height_px: Height of its element.
        is_minor: Whether it shows a score without a better direction.
    """

    name: str
    title: str
    item: dict[str, Any]
    height_px: int = HEIGHT_PX
    is_minor: bool = False


def library_script() -> str:
    """The chart library's JavaScript, to be inlined."""
    from bokeh.resources import Resources

    resources = Resources(mode="inline", components=["bokeh"])
    return resources.js_raw[0]  # what follows sets a log level, which it writes to the console


def hover(plot: "figure", drawn: list[Any], tips: list[tuple[str, str]]) -> None:
    """Show ``tips``, (label, value), when the pointer is over ``drawn`` glyphs."""
    from bokeh.models import HoverTool

    plot.add_tools(HoverTool(tooltips=tips, mode="mouse", renderers=drawn))


def new_figure(x_label: str, y_label: str, joined: bool = True) -> "figure":
    """An empty plot; one whose points are not ``joined`` has a grid and wider margins."""
    from bokeh.models import DataRange1d
    from bokeh.plotting import figure

    padding = 0.1 if joined else 0.2  # room for whole marks
    plot = figure(
        height=HEIGHT_PX,
        sizing_mode="stretch_width",
        tools="",
        x_range=DataRange1d(range_padding=padding),
        y_range=DataRange1d(range_padding=padding),
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


def finished(
    plot: "figure", name: str, title: str, *, is_minor: bool = False, is_listed: bool = False
) -> Chart:
    """The chart of a plot that has a legend.

    Args:
        plot: Made by :func:`new_figure`.
        name: Id of its element on the page.
        title: Title of the chart.
        is_minor: See :class:`Chart`.
        is_listed: Whether the legend is a list below the plot instead of a line above it.
    """
    from bokeh.core.types import ID
    from bokeh.embed import json_item

    legend = plot.legend[0]
    plot.add_layout(legend, "below" if is_listed else "above")
    legend.orientation = "vertical" if is_listed else "horizontal"
    legend.location = "left"
    legend.background_fill_alpha = legend.border_line_alpha = 0.0
    legend.label_text_font_size = "12px"
    legend.update(padding=2, margin=4, spacing=0 if is_listed else 12)
    height_px = HEIGHT_PX + (LEGEND_LINE_PX * len(legend.items) if is_listed else 0)
    plot.height = height_px
    item = dict(json_item(plot, ID(f"chart-{name}")))
    return Chart(name, title, item, height_px, is_minor)


def source_of(data: Mapping[str, list[Any]]) -> Any:
    """A bokeh data source of columns of one length."""
    from bokeh.models import ColumnDataSource

    return ColumnDataSource(dict(data))


def averaged(points: Sequence[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """Steps and values of a curve, at most :data:`MAX_POINTS`; more are averaged in blocks."""
    size = -(-len(points) // MAX_POINTS)
    blocks = [numpy.mean(points[at : at + size], axis=0) for at in range(0, len(points), size)]
    return [float(block[0]) for block in blocks], [float(block[1]) for block in blocks]
