"""What all figures share: colours, marks and symbols of the bias terms, axes, and how a picture is written."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from beft.errors import InputError
from beft.files import write_bytes
from beft.metrics.registry import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SYMBOLS = {
    "query": "$b_q$",
    "key": "$b_k$",
    "value": "$b_v$",
    "attention_output": "$b_{m1}$",
    "intermediate": "$b_{m2}$",
    "output": "$b_{m3}$",
    "attention_norm": "$b_{LN1}$",
    "output_norm": "$b_{LN2}$",
}
"""The symbols that the paper gives the bias terms."""

METHOD_NAMES = {
    "projection_ratio": "Projection ratio",
    "magnitude": "Magnitude",
    "magnitude_l2": r"Magnitude $\ell_2$",
    "fisher": "Fisher",
}
"""The names of the importance methods in pictures; another method is drawn under its own name."""

INK, GREY, FAINT, BLANK, ACCENT = "#1d2433", "#6b7280", "#c3c8d1", "#f1f2f5", "#c2410c"

# Told apart by people with any colour vision, and by their marks in grey; the value bias has the accent.
_LOOKS = {"query": ("#0a6cb0", "s"), "key": ("#5b6472", "^"), "value": (ACCENT, "o")}
_OTHERS = (("#008a66", "D"), ("#a35c8f", "v"), ("#8a6d00", "P"), ("#3f9fd0", "X"), ("#1d2433", "*"))
METHOD_COLOURS = {"projection_ratio": ACCENT, "magnitude": "#0a6cb0", "magnitude_l2": "#3f9fd0", "fisher": "#008a66"}
"""A colour for each importance method."""

_FORMATS = {".png": "png", ".svg": "svg", ".pdf": "pdf"}
# No date, no random identifier, and no setting of the user's decides a byte.
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None},
}


def look(term: str, others: list[str] | None = None) -> tuple[str, str]:
    """Colour and mark of a term; of a term beside query, key and value by its place in ``others``."""
    if term in _LOOKS:
        return _LOOKS[term]
    at = (others or []).index(term) if term in (others or []) else 0
    return _OTHERS[at % len(_OTHERS)]


def method_name(method: str) -> str:
    """The name of an importance method, or of another way of choosing, as a picture shows it."""
    return METHOD_NAMES.get(method, method.replace("_", " ").capitalize())


def symbol(term: str) -> str:
    """The paper's symbol of a term; its name where the paper has none."""
    return SYMBOLS.get(term, term.replace("_", " "))


def metric_label(metric: str) -> str:
    """The label of an axis of a metric in points."""
    kind = METRICS.get(metric)
    if kind is None:
        return f"{metric.replace('_', ' ')} \N{MULTIPLICATION SIGN} 100"
    return f"{kind.title} \N{MULTIPLICATION SIGN} 100" if kind.lowest < 0 else f"{kind.title}, %"


def in_methods_order(methods: Iterable[str]) -> list[str]:
    """Importance methods as the pictures show them, the paper's own first; others follow in their order."""
    known = list(METHOD_NAMES)
    return sorted(methods, key=lambda method: known.index(method) if method in known else len(known))


def plain(axes: "Axes", *, grid: str | None = None) -> None:
    """Axes with few lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(color=FAINT, labelcolor=GREY, labelsize=8, length=3)
    axes.set_axisbelow(True)
    if grid is not None:
        axes.grid(axis="x" if grid == "x" else "y", color=BLANK, linewidth=1.0)


@contextmanager
def picture(path: Path, width: float, height: float, title: str | None = None) -> Iterator["Figure"]:
    """Give an empty figure of so many inches, with more above for its title, and write it when the block ends well.

    Raises:
        InputError: The suffix of ``path`` is none of .png, .svg and .pdf.
    """
    import matplotlib
    from matplotlib import style
    from matplotlib.figure import Figure

    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"a figure is written as {', '.join(_FORMATS)}, not as {path.name!r}")
    buffer = BytesIO()
    with style.context("default"), matplotlib.rc_context({"svg.hashsalt": "beft", "mathtext.fontset": "dejavusans"}):
        figure = Figure(figsize=(width, height + (0.35 if title else 0)), facecolor="white")
        figure.set_layout_engine("constrained", w_pad=0.06, h_pad=0.07)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=13, weight="bold", color=INK)
        yield figure
        figure.savefig(buffer, format=kind, dpi=160, metadata=_METADATA[kind])
    write_bytes(path, buffer.getvalue())
