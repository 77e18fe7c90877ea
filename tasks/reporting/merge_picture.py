"""The merge matrix as a picture: sets of biases by datasets."""

from io import BytesIO
from pathlib import Path
from typing import Any

from beft.files import write_bytes
from tasks.reporting.formatting import percent


def draw_matrix(found: dict[str, Any], path: Path) -> None:
    """Draw what ``merge.json`` holds; a cell's colour is its distance to the dataset's own adapter.

    Args:
        path: A PNG file; the same numbers give the same bytes.
    """
    from matplotlib.figure import Figure

    rows, columns, metrics = found["rows"], found["datasets"], found["metrics"]
    values = [[found["matrix"][name]["scores"][row][metrics[name]] for name in columns] for row in rows]
    own = {name: found["matrix"][name]["scores"][name][metrics[name]]["value"] for name in columns}
    gaps = [[cell["value"] - own[name] for cell, name in zip(line, columns, strict=True)] for line in values]
    limit = max(0.02, *(abs(gap) for line in gaps for gap in line))

    figure = Figure(figsize=(2.6 + 1.9 * len(columns), 1.2 + 0.55 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(gaps, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(len(columns)), [f"{name}\n{metrics[name].replace('_', ' ')}" for name in columns])
    axes.set_yticks(range(len(rows)), [row if row in columns else row.replace("_", " ") for row in rows])
    axes.set_ylabel("biases")
    # No biases, the datasets' own, and the merged ones stand apart.
    for edge in (0.5, 0.5 + len(columns)):
        axes.axhline(edge, color="white", linewidth=4)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for y, line in enumerate(values):
        for x, cell in enumerate(line):
            strong = abs(gaps[y][x]) > 0.55 * limit
            value, low, high = (percent(cell[key]) for key in ("value", "low", "high"))
            text = f"{value}\n[{low}, {high}]"
            weight = "bold" if rows[y] == columns[x] else "normal"
            colour = "white" if strong else "black"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=colour, fontweight=weight)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
