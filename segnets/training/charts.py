"""Inline SVG charts for the report: lines, bars and a heat map. They need neither scripts nor external files.

Colours and text sizes come from the page's style sheet (`segnets.training.report`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from segnets.card import Colour

_WIDTH, _HEIGHT = 400, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 10, 38
_MOST_POINTS = 400


@dataclass(frozen=True)
class Series:
    """Line of a chart.

    Attributes:
        name: Name in the legend.
        points: Pairs of x and y, with increasing x.
        style: CSS class of the line: "first" or "second".
        dots: Whether each point has a dot, with its value as a tooltip.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "first"
    dots: bool = False


def line_chart(series: Sequence[Series], x_name: str, *, from_zero: bool = False) -> str:
    """Draw lines over a common x axis.

    Args:
        series: Lines to draw. Non-finite values are left out, and long lines are averaged to at most 400 points.
        x_name: Name of the x axis.
        from_zero: Whether the y axis begins at 0.

    Returns:
        SVG element, or a sentence if there are no points.
    """
    lines = [(each, _thinned([point for point in each.points if math.isfinite(point[1])])) for each in series]
    points = [point for _, line in lines for point in line]
    if not points:
        return '<p class="faint">nothing recorded yet</p>'
    xs = ticks(min(0.0, *(x for x, _ in points)), max(x for x, _ in points))
    lowest, highest = min(y for _, y in points), max(y for _, y in points)
    ys = ticks(0.0 if from_zero else lowest, highest)
    right = max(xs[-1], max(x for x, _ in points))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (right - xs[0])
        up = (y - ys[0]) / (ys[-1] - ys[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">']
    for y in ys:
        left, height = place(xs[0], y)
        parts.append(f'<path class="grid" d="M{left:.1f} {height:.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="y" x="{left - 8:.1f}" y="{height + 4:.1f}">{number(y)}</text>')
    for x in xs:
        left, height = place(x, ys[0])
        parts.append(f'<text class="x" x="{left:.1f}" y="{height + 17:.1f}">{number(x)}</text>')
    parts.append(f'<text class="axis" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}">{escape(x_name)}</text>')
    for each, line in lines:
        placed = [place(x, y) for x, y in line]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        parts.append(f'<path class="line {each.style}" d="M{path}"/>')
        if each.dots or len(placed) == 1:
            for (x, y), (at, value) in zip(placed, line, strict=True):
                title = f"{escape(x_name)} {number(at)}: {escape(each.name)} {number(value)}"
                parts.append(
                    f'<circle class="{each.style}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{title}</title></circle>'
                )
    parts.append("</svg>")
    if len(series) > 1:
        parts.append('<p class="names">')
        parts += [f'<span class="key {each.style}"></span>{escape(each.name)} ' for each in series]
        parts.append("</p>")
    return "".join(parts)


def bars(names: Sequence[str], values: Sequence[float], colours: Sequence[Colour], notes: Sequence[str]) -> str:
    """Draw a horizontal bar for each class, as a table.

    Args:
        names: Names of the classes.
        values: One value per class, 0..1; nan for an absent class.
        colours: RGB colours, 0..255.
        notes: Text to the right of each bar.
    """
    rows = []
    for name, value, colour, note in zip(names, values, colours, notes, strict=True):
        known = not math.isnan(value)
        width = 100 * value if known else 0
        rows.append(
            f'<tr><th><span class="swatch" style="background:{_css(colour)}"></span>{escape(name)}</th>'
            f'<td class="bar"><div style="width:{width:.2f}%"></div></td>'
            f"<td>{f'{value:.3f}' if known else 'absent'}</td><td>{escape(note)}</td></tr>"
        )
    return f'<table class="bars">{"".join(rows)}</table>'


def heat_map(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw a confusion matrix: each cell is shaded by its share of the row's pixels.

    Args:
        names: Names of the classes.
        counts: Number of pixels per true class (row) and predicted class (column), C x C.
    """
    cell = 40 if len(names) <= 14 else 26 if len(names) <= 30 else 12
    label = min(150, 10 + 7 * max(map(len, names), default=0)) if cell > 12 else 10
    size = label + cell * len(names)
    parts = [f'<svg class="matrix" viewBox="0 0 {size + 4} {size + 4}" style="max-width:{size + 4}px" role="img">']
    for number_, name in enumerate(names):
        middle = label + cell * (number_ + 0.5)
        if cell > 12:
            parts.append(f'<text class="y" x="{label - 6}" y="{middle + 4:.1f}">{escape(name)}</text>')
            turned = f"translate({middle + 4:.1f} {label - 6}) rotate(-60)"
            parts.append(f'<text transform="{turned}">{escape(name)}</text>')
    for row, (name, cells) in enumerate(zip(names, counts, strict=True)):
        total = sum(cells)
        for column, count in enumerate(cells):
            share = count / total if total else 0.0
            x, y = label + cell * column, label + cell * row
            kind = "hit" if row == column else "miss"
            pixels = "1 pixel" if count == 1 else f"{count:,} pixels"
            title = f"{escape(name)} predicted as {escape(names[column])}: {100 * share:.2f} % ({pixels})"
            parts.append(
                f'<rect class="{kind}" x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" '
                f'style="fill-opacity:{_opacity(share):.3f}"><title>{title}</title></rect>'
            )
            if cell == 40 and share >= 0.005:
                ink = "over" if share > 0.5 else "value"
                parts.append(
                    f'<text class="{ink}" x="{x + cell / 2 - 0.5}" y="{y + cell / 2 + 4}">{100 * share:.0f}</text>'
                )
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at least two evenly spaced round numbers that enclose a range."""
    if not high > low:
        low, high = (low - 0.5 * abs(low), high + 0.5 * abs(high)) if low else (0.0, 1.0)
    rough = (high - low) / (most - 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [each * step for each in range(first, last + 1)]


def number(value: float) -> str:
    """Format a number compactly, for example 0.25, 12,500 or 2.5e-5."""
    if value and abs(value) < 0.01:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average neighbouring points if there are too many to draw."""
    size = -(-len(points) // _MOST_POINTS)
    if size <= 1:
        return points
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _opacity(share: float) -> float:
    """Return the opacity of a cell. Small shares stay visible."""
    return share**0.6 if share > 0 else 0.03


def _css(colour: Colour) -> str:
    return f"rgb({colour[0]},{colour[1]},{colour[2]})"
