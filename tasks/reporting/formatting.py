"""How numbers and names are written where people read them."""

TITLES = {
    "untouched": "untouched base",
    "head_only": "head only",
    "logistic_regression": "logistic regression",
    "ridge_regression": "ridge regression",
    "conditional_logit": "conditional logit",
    "all_biases": "all bias terms",
}
"""Methods and their titles, in the order of the table at the end of a run."""


def title(method: str) -> str:
    """A method's name, or that of a bias term."""
    return TITLES.get(method, method.replace("_", " "))


def percent(value: float) -> str:
    """A metric as people read it, times 100 with one decimal; ``MetricKind.sign`` says whether it is in percent."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of a metric, times 100, with its sign."""
    return f"{100 * value:+.1f}"


def quantity(size: float | None) -> str:
    """Bytes with a unit; a dash where they are not known."""
    if size is None:
        return "—"
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def duration(seconds: float) -> str:
    """Seconds, in minutes too where they are many."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def small(value: float | None) -> str:
    """An importance score; methods differ in size by orders of magnitude."""
    if value is None:
        return "no direction"
    if value == 0:
        return "0"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.0e}".replace("e-0", "e-")
