"""Learning curves: loss and dev metric by epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from beft.studies.style import picture

_COLOURS = ("#1f5fa8", "#c8553d", "#3a7d44", "#7a4b9d", "#8a6d1d")


def draw_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *, metric: str, best: Mapping[str, int]
) -> None:
    """Draw the histories of one or more runs in one picture: losses on the left, the dev metric on the right.

    Args:
        histories: Run name -> one record an epoch, as ``fit`` gives them.
        path: The picture; its ending is its format. The same histories give the same bytes.
        best: Run name -> the epoch that was kept; it is marked.
    """
    from matplotlib.ticker import MaxNLocator

    with picture(path, 9, 3.4) as figure:
        losses, quality = figure.subplots(1, 2)
        for (name, history), colour in zip(histories.items(), _COLOURS * len(histories), strict=False):
            epochs = [record["epoch"] for record in history]
            losses.plot(epochs, [record["train_loss"] for record in history], color=colour, label=f"{name}: train")
            if "dev_loss" in history[0]:
                dev = [record["dev_loss"] for record in history]
                losses.plot(epochs, dev, color=colour, linestyle="--", label=f"{name}: dev")
                values = [record["dev_metric"] for record in history]
                quality.plot(epochs, values, color=colour, marker="o", markersize=3, label=name)
                kept = epochs.index(best[name])
                label = f"kept: epoch {best[name]}"
                quality.plot(
                    [best[name]], [values[kept]], "o", color=colour, markersize=9, fillstyle="none", label=label
                )
        for axes, title in ((losses, "Loss"), (quality, f"{metric} on dev")):
            axes.set_title(title, loc="left", fontsize=11)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", alpha=0.25)
            if axes.has_data():
                axes.legend(frameon=False, fontsize=8)
