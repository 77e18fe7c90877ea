"""Small pictures as inline SVG: intervals beside each other, and curves by epoch.

Colours are CSS variables of the page that they stand in, so that they fit its light and its dark face.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

Number = float | None


@dataclass(frozen=True)
class Interval:
    """One row of an interval picture: a dot with its interval.

    Attributes:
        colour: The name of the page's variable for its colour.
    """

    name: str
    value: float
    low: float
    high: float
    text: str
    colour: str = "other"


@dataclass(frozen=True)
class Curve:
    """One line of a curve picture; ``marked`` is the x of the point that gets a ring."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    marked: float | None = None
    dashed: bool = False


def intervals(rows: Sequence[Interval], *, title: str, zero: bool = False, unit: str = "") -> Markup:
    """Draw dots with intervals over one axis.

    Args:
        title: Read out by screen readers.
        zero: Whether the axis has a line at zero, which it then contains.
    """
    line, top, width = 34, 8, 760
    left, right = 24 + _wide(row.name for row in rows), 24 + _wide(row.text for row in rows)
    ends = [end for row in rows for end in (row.low, row.high, row.value)] + ([0.0] if zero else [])
    ticks = ticks_over(min(ends), max(ends))
    low, high = min(ticks[0], min(ends)), max(ticks[-1], max(ends))
    height = top + line * len(rows) + 26

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    parts = [_open(width, height, title)]
    bottom = top + line * len(rows)
    for tick in ticks:
        strong = " strong" if zero and tick == 0 else ""
        parts.append(f'<line class="grid{strong}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">'
            f"{tick_text(tick)}{unit}</text>"
        )
    for number, row in enumerate(rows):
        y = top + line * number + line / 2
        colour = f"var(--{row.colour})"
        parts.append(f'<text class="name" x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(row.name)}</text>')
        parts.append(
            f'<line x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" '
            f'stroke-width="4" stroke-linecap="round" opacity=".45"/>'
        )
        parts.append(f'<circle cx="{x(row.value):.1f}" cy="{y:.1f}" r="6" fill="{colour}"/>')
        parts.append(f'<text class="value" x="{width - right + 12}" y="{y + 4:.1f}">{escape(row.text)}</text>')
    parts.append("</svg>")
    return Markup("".join(parts))


def curves(lines: Sequence[Curve], *, title: str, x_title: str = "epoch") -> Markup:
    """Draw lines over one axis, each with its name at its end."""
    left, top, bottom, width, height = 52, 14, 38, 480, 250
    right = 16 + _wide(line.name for line in lines)
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    ticks = ticks_over(min(ys), max(ys))
    low, high = min(ticks[0], min(ys)), max(ticks[-1], max(ys))
    first, last = min(xs), max(xs)

    def x(value: float) -> float:
        share = (value - first) / (last - first) if last > first else 0.5
        return left + share * (width - left - right)

    def y(value: float) -> float:
        return height - bottom - (value - low) / (high - low) * (height - top - bottom)

    parts = [_open(width, height, title)]
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick_text(tick)}</text>'
        )
    every = max(1, round((last - first) / 7))
    for tick in range(int(first), int(last) + 1, every):
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 20}" text-anchor="middle">{tick}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text class="tick" x="{middle:.0f}" y="{height - 4}" text-anchor="middle">{escape(x_title)}</text>')
    for line, label in zip(lines, _apart([y(line.points[-1][1]) for line in lines], 15), strict=True):
        colour = f"var(--{line.colour})"
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
        dashes = ' stroke-dasharray="5 4"' if line.dashed else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.2"{dashes}/>')
        for a, b in line.points:
            if a == line.marked:
                parts.append(
                    f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="5.5" fill="var(--paper)" stroke="{colour}" '
                    'stroke-width="2.4"/>'
                )
        parts.append(
            f'<text class="name" x="{width - right + 10}" y="{label + 4:.1f}" style="fill:{colour}">'
            f"{escape(line.name)}</text>"
        )
    parts.append("</svg>")
    return Markup("".join(parts))


def ticks_over(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that span an interval, about as many as asked for."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / about
    power = 10.0
    while power > rough:
        power /= 10
    while power * 10 <= rough:
        power *= 10
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = int(low // step)
    found = [step * first]
    while found[-1] < high - 1e-9 * step:
        found.append(step * (first + len(found)))
    return [round(value, 10) for value in found]


def tick_text(value: float) -> str:
    """A tick's number, without needless zeros."""
    return f"{value:.4g}"


def _wide(texts: Iterable[str]) -> float:
    """The width of the longest text, in the units of the picture: letters of 13 are 7 wide on the average."""
    return 7.2 * max(map(len, texts))


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Places moved down just so far that labels do not cover each other."""
    moved = list(places)
    order = sorted(range(len(places)), key=lambda number: places[number])
    for above, below in pairwise(order):
        moved[below] = max(moved[below], moved[above] + gap)
    return moved


def _open(width: float, height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg"><title>{escape(title)}</title>'
    )
