"""Where the time of a training step or a prediction goes, by kind of operation."""

from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

_KINDS = {
    "matrix products": ("aten::addmm", "aten::mm", "aten::linear", "aten::mkldnn"),
    "attention": (
        "aten::_scaled_dot_product",
        "aten::_softmax",
        "aten::_flash_attention",
        "aten::bmm",  # where it is computed by batched products
        "aten::baddbmm",
    ),
    "GELU": ("aten::gelu",),
    "layer norm": ("aten::native_layer_norm", "aten::layer_norm"),
    "dropout": ("aten::native_dropout", "aten::bernoulli", "aten::dropout"),
    "additions, sums and copies": ("aten::add", "aten::sum", "aten::copy_", "aten::mul", "aten::where", "aten::fill_"),
}
OTHER = "all else, Python included"


def shares(work: Callable[[], Any]) -> dict[str, float]:
    """The share of the CPU time that each kind of operation takes in ``work``, largest first; they add up to 1."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    seconds = dict.fromkeys([*_KINDS, OTHER], 0.0)
    for event in found.key_averages():
        seconds[_kind(event.key)] += event.self_cpu_time_total / 1e6
    whole = sum(seconds.values())
    return {kind: taken / whole for kind, taken in sorted(seconds.items(), key=lambda item: -item[1])}


def _kind(operation: str) -> str:
    return next((kind for kind, names in _KINDS.items() if operation.startswith(names)), OTHER)
