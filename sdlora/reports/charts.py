"""Bokeh charts of a run's page: curves, and the trade-off of identity and prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdlora.config.score_kinds import MAIN_SCORES, kind
from sdlora.reports.plots import Chart, averaged, finished, hover, new_figure, source_of
from sdlora.reports.score_tables import State, scored_names
from sdlora.runs.partial_files import is_number

if TYPE_CHECKING:
    from bokeh.plotting import figure

Lines = Sequence[Mapping[str, Any]]
Ends = tuple[float, float]

LORA, BASE, HELD_OUT = "#2f7fd3", "#8b93a0", "#d9822b"  # distinguishable on white and on black
COLORS = (
    *("#2f7fd3", "#d9822b", "#2f9e77", "#b5549c", "#c2a01e"),
    *("#c9483f", "#7a68c8", "#3ba3b8", "#8a6a4f", "#7c9a3a"),
)

_MAX_DOTS = 60
_MAX_ACROSS = 3
_DOT: Mapping[str, Any] = {"size": 9}
_SQUARE: Mapping[str, Any] = {"size": 10, "marker": "square"}
_RING: Mapping[str, Any] = {"size": 19, "fill_alpha": 0.0, "line_width": 3}
FACE, CLIP = MAIN_SCORES


@dataclass(frozen=True, slots=True)
class _Curve:
    """A line with a band of ``(step, low, high)`` around it."""

    label: str
    color: str
    points: Sequence[tuple[int, float]]
    band: Sequence[tuple[int, float, float]] = ()
    is_flat: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """A state of the model in the trade-off."""

    label: str
    face: float
    clip: float
    face_ends: Ends | None = None
    clip_ends: Ends | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    """Places with one entry in the legend."""

    label: str
    color: str
    places: Sequence[_Place]
    mark: Mapping[str, Any] = field(default_factory=lambda: _DOT)


def live_charts(lines: Lines, trained: str = "LoRA") -> list[Chart]:
    """The few charts of a run that still trains: bokeh takes long for all, at every writing."""
    names = [name for name in MAIN_SCORES if name in scored_names(lines)]
    made = [_loss(lines), *(_score(lines, name, trained) for name in names)]
    return [chart for chart in made if chart is not None]


def charts(lines: Lines, best_step: int | None, trained: str = "LoRA") -> list[Chart]:
    """The charts of these numbers, without empty ones.

    Args:
        lines: Lines of ``metrics.jsonl``, with ``step``.
        best_step: The best step, marked in the trade-off.
        trained: Name of the trained model in legends.
    """
    names = scored_names(lines)
    first = [name for name in MAIN_SCORES if name in names]
    made = [
        *(_score(lines, name, trained) for name in first),
        _step_trade_off(lines, best_step),
        *_losses(lines),
        *(_score(lines, name, trained) for name in names if name not in first),
    ]
    found = [chart for chart in made if chart is not None]
    return sorted(found, key=lambda chart: chart.is_minor)


def state_charts(states: Sequence[State]) -> list[Chart]:
    """The trade-off chart of the rows of a report, with their intervals.

    Args:
        states: Rows of ``report.json``, the base first.
    """
    places = [
        _Place(
            state.name,
            state.values[FACE],
            state.values[CLIP],
            state.intervals.get(FACE),
            state.intervals.get(CLIP),
        )
        for state in states
        if not state.is_real and {*MAIN_SCORES} <= state.values.keys()
    ]
    if not places:
        return []
    base = [place for place in places if place.label == states[0].name]
    others = [place for place in places if place.label != states[0].name]
    groups = [_Group(place.label, BASE, [place], _SQUARE) for place in base]
    if len(others) <= len(COLORS):
        groups += [
            _Group(place.label, color, [place])
            for place, color in zip(others, COLORS, strict=False)
        ]
    else:
        groups.append(_Group("LoRA", LORA, others))
    return [_trade_off(groups)]


def _loss(lines: Lines) -> Chart | None:
    training = _Curve("training", LORA, _points(lines, "train/loss"))
    held_out = _Curve("held out", HELD_OUT, _points(lines, "val/loss"))
    return _curves("loss", "Loss ↓", "Loss", [training, held_out])


def _losses(lines: Lines) -> list[Chart | None]:
    held_out = _Curve("held out", HELD_OUT, _points(lines, "val/loss"))
    quarters = [
        _Curve(label, color, _points(lines, f"val/loss_q{number}"))
        for number, (label, color) in enumerate(
            zip(("least noise", "2nd", "3rd", "most noise"), COLORS[:4], strict=True), start=1
        )
    ]
    gap = _Curve("training minus held out", HELD_OUT, _points(lines, "val/gap"))
    return [
        _loss(lines),
        _curves("val_loss", "Loss on held-out pictures ↓", "Loss", [held_out]),
        _curves(
            "val_quarters",
            "Loss on held-out pictures, by quarter of the timesteps ↓",
            "Loss",
            quarters,
        ),
        _curves("val_gap", "Loss gap: the further below 0, the more overfitting", "", [gap]),
    ]


def _score(lines: Lines, name: str, trained: str) -> Chart | None:
    shown = kind(name)
    curve = _Curve(trained, LORA, _points(lines, f"eval/{name}"), _band(lines, f"eval/{name}"))
    curves = [curve]
    base = _points(lines, f"base/{name}")[-1:]
    if base:
        steps = [step for step, _ in curve.points]
        flat = (min(0, *steps), max(1, *steps))
        band = _band(lines, f"base/{name}")[-1:]
        points = [(step, base[0][1]) for step in flat]
        ribbon = [(step, low, high) for step in flat for _, low, high in band]
        curves.append(_Curve("base", BASE, points, ribbon, is_flat=True))
    title = shown.title[0].upper() + shown.title[1:]
    is_constant = len({value for curve in curves for _, value in curve.points}) == 1
    is_minor = not shown.arrow or (is_constant and name not in MAIN_SCORES)
    return _curves(name, f"{title} {shown.arrow}".strip(), title, curves, is_minor)


def _points(lines: Lines, name: str) -> list[tuple[int, float]]:
    found = {line["step"]: float(line[name]) for line in lines if is_number(line.get(name))}
    return sorted(found.items())


def _band(lines: Lines, name: str) -> list[tuple[int, float, float]]:
    """Ends of the intervals, by step."""
    low, high = (dict(_points(lines, f"{name}_{end}")) for end in ("low", "high"))
    return [(step, low[step], high[step]) for step in sorted(low.keys() & high.keys())]


def _curves(
    name: str, title: str, unit: str, curves: Sequence[_Curve], is_minor: bool = False
) -> Chart | None:
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    plot = new_figure("Step", unit)
    for curve in curves:
        shape: dict[str, Any] = {"color": curve.color, "legend_label": curve.label}
        steps, low, high = [list(part) for part in zip(*curve.band, strict=True)] or ([], [], [])
        if len(steps) > 1:
            plot.varea(steps, low, high, fill_alpha=0.15, **shape)
        elif steps:
            plot.segment(steps, low, steps, high, line_width=2, line_alpha=0.5, **shape)
        x, y = averaged(curve.points)
        dash = "dashed" if curve.is_flat else "solid"
        hovered: list[Any] = [plot.line(x, y, line_width=2, line_dash=dash, **shape)]
        if len(x) <= _MAX_DOTS and not curve.is_flat:
            hovered.append(plot.scatter(x, y, size=5, **shape))
        hover(plot, hovered, [(curve.label, ""), ("step", "@x"), (unit or "gap", "@y{0.0000}")])
    return finished(plot, name, title, is_minor=is_minor)


def _step_trade_off(lines: Lines, best_step: int | None) -> Chart | None:
    face, clip = (dict(_points(lines, f"eval/{name}")) for name in MAIN_SCORES)
    places = [
        _Place(f"step {step}", face[step], clip[step]) for step in sorted(face.keys() & clip.keys())
    ]
    groups = [_Group("a step", LORA, places)]
    chosen = [place for place in places if place.label == f"step {best_step}"]
    groups.append(_Group("chosen", HELD_OUT, chosen, _RING))
    bases = [_points(lines, f"base/{name}")[-1:] for name in MAIN_SCORES]
    if all(bases):
        base = _Place("base", bases[0][0][1], bases[1][0][1])
        groups.insert(0, _Group("base", BASE, [base], _SQUARE))
    return _trade_off(groups) if places else None


def _trade_off(groups: Sequence[_Group]) -> Chart:
    plot = new_figure(kind(FACE).title.capitalize(), kind(CLIP).title, joined=False)
    groups = [group for group in groups if group.places]
    for group in groups:
        for place in group.places:
            _error_bars(plot, place, group.color)
        source: dict[str, list[Any]] = {
            "x": [place.face for place in group.places],
            "y": [place.clip for place in group.places],
            "label": [place.label for place in group.places],
        }
        drawn = plot.scatter(
            "x",
            "y",
            source=source_of(source),
            line_color=group.color,
            fill_color=group.color,
            legend_label=group.label,
            **group.mark,
        )
        hover(plot, [drawn], [("", "@label"), ("", "@x{0.000}, @y{0.00}")])
    title = "Likeness against prompt: the upper left is best"
    return finished(plot, "trade_off", title, is_listed=len(groups) > _MAX_ACROSS)


def _error_bars(plot: "figure", place: _Place, color: str) -> None:
    shape: dict[str, Any] = {"color": color, "line_alpha": 0.5, "line_width": 1.5}
    if place.face_ends is not None:
        low, high = place.face_ends
        plot.segment([low], [place.clip], [high], [place.clip], **shape)
    if place.clip_ends is not None:
        low, high = place.clip_ends
        plot.segment([place.face], [low], [place.face], [high], **shape)
