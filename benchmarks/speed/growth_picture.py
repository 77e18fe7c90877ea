"""The picture of how cost grows: seconds above, memory below; runs, tokens and layers side by side."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from beft.files import write_bytes
from benchmarks.speed.growth_point import Cost, Point

_COLOURS = ("#1f5fa8", "#3a7d44", "#c8553d", "#7a4b9d")
_PANELS = (("runs", "runs in one pass"), ("tokens", "tokens of a row"), ("layers", "layers of the model"))


def draw_growth(points: Mapping[str, Sequence[Point]], costs: Mapping[Point, Cost], path: Path) -> None:
    """Draw both costs over all series: measured as a line with dots, estimated as a dashed one.

    Args:
        points: The points of each series: runs, tokens, layers; of the last, a line for each width.
        costs: What each point took.
        path: The picture, a PNG; the same costs give the same bytes.
    """
    import matplotlib
    from matplotlib import style
    from matplotlib.figure import Figure

    rows: tuple[tuple[str, Callable[[Cost], float], Callable[[Cost], float]], ...] = (
        ("seconds a step", lambda cost: cost.seconds, lambda cost: cost.estimated_seconds),
        ("memory, MB", lambda cost: cost.bytes / 1e6, lambda cost: cost.estimated_bytes / 1e6),
    )
    buffer = BytesIO()
    with style.context("default"), matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 5.6), layout="constrained")
        grid = figure.subplots(2, 3)
        for (label, measured, estimated), of_row in zip(rows, grid, strict=True):
            for (series, title), axes in zip(_PANELS, of_row, strict=True):
                by_width: dict[int, list[Point]] = {}
                for point in points[series]:
                    by_width.setdefault(point.width, []).append(point)
                for (width, line), colour in zip(by_width.items(), _COLOURS * len(by_width), strict=False):
                    at = [getattr(point, series) for point in line]
                    name = f"width {width}" if len(by_width) > 1 else "measured"
                    axes.plot(at, [measured(costs[point]) for point in line], "o-", color=colour, ms=3.5, label=name)
                    last = width == list(by_width)[-1]
                    axes.plot(
                        at,
                        [estimated(costs[point]) for point in line],
                        "--",
                        color=colour,
                        linewidth=1,
                        label="estimate" if last else None,
                    )
                _finish(axes, title, label)
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _finish(axes: Any, title: str, label: str) -> None:
    axes.set_xlabel(title)
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
