"""Inertness: which components of a bias change no logit, whatever value they take.

Without rotary positions a key bias adds the same number to every score of a query, which the softmax takes out again:
its gradient is rounding noise, which Adam scales up until the bias looks busy. So inertness is never read from the
family's name nor from a low-precision gradient. It is measured: gradients in fp64 find the components that could be
inert, and random shifts of them, with the logits watched, decide.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from beft.bank.bank import Bank
from beft.errors import BeftError, InputError
from beft.models.classifier import HEADS
from beft.models.frozen_linear import WidenedLinear, become
from beft.sites.offloading import attached_forward, input_device, load_outside_of_modes, shared_by_hooks
from beft.sites.site import BiasSite, find_sites

SCALES = (0.0, 0.02, 0.1, 0.5)
"""Least sizes of the random shifts at which the gradients are taken that find the components that could be inert: none,
where a trained base is most sensitive, to large ones. All biases shifted by 0.5 saturate every softmax of some bases,
whose query biases then look inert as well."""

WAKING_ROUNDS = 8
"""How often, at most, what could be inert is shifted by the largest of ``SHIFTS``, to find units that were only off."""

Logits = Callable[[Any, Mapping[str, Tensor]], Tensor]

FP64_PARAMETERS = 400_000_000
"""Up to so many parameters a model is measured in an fp64 copy (8 bytes each). Of a larger one the copy is fp32, and
shares the weights of the linear layers, which are widened one at a time; quantised weights are always shared."""

FLAT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
"""A component is a candidate when its gradient is at most this share of the largest one of a value bias. Rounding
alone gives an inert component about 1e-16 in fp64 and up to 5e-7 in fp32."""

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""A component is inert when shifting it moves the logits by at most this share of what the value biases, shifted
by as much, move them. Rounding alone moves them by about 1e-14 in fp64 and 1e-6 in fp32."""

SHIFTS = (0.5, 8.0)
"""Least sizes of the random shifts that decide: an ordinary one, and one that wakes a unit that is off. Behind a ReLU
a unit so far off that no shift of the second size wakes it counts as inert."""


def measure_inertness(
    model: nn.Module,
    sites: Iterable[BiasSite],
    *,
    batch: Mapping[str, Tensor],
    seed: int = 0,
    logits: Logits | None = None,
) -> dict[BiasSite, Tensor]:
    """Measure which components of bias sites change no logit of a batch.

    Args:
        model: The model that the sites belong to, with a head whose logits depend on it. A copy is measured.
        sites: The sites to measure.
        batch: Tokens of a few rows of two tokens or more, as the model takes them.
        seed: Seed of the random shifts.
        logits: From a model (the copy) and the batch to its logits; None: ``model(**batch).logits``.

    Returns:
        For each site a bool tensor [width]: True for an inert component.

    Raises:
        InputError: A site does not fit the model, or a bank is attached to it.
        BeftError: The logits do not depend on the value biases, so that nothing can be measured (a head of zeros).
    """
    wanted = tuple(sites)
    if not wanted:
        return {}
    size = sum(parameter.numel() for parameter in model.parameters())
    dtype = torch.float64 if size <= FP64_PARAMETERS else torch.float32
    return _Measurement(model, batch, dtype, seed, logits or _own_logits).inert(wanted)


def inert_terms(inert: Mapping[BiasSite, Tensor]) -> dict[str, bool]:
    """For each bias term measured, whether every component of every one of its sites is inert."""
    terms: dict[str, bool] = {}
    for site, components in inert.items():
        terms[site.term] = terms.get(site.term, True) and bool(components.all())
    return terms


def _own_logits(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    logits: Tensor = model(**batch).logits
    return logits


class _Measurement:
    def __init__(
        self, model: nn.Module, batch: Mapping[str, Tensor], dtype: torch.dtype, seed: int, logits: Logits
    ) -> None:
        self.twin = _copy_as(model, dtype)
        self.batch = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in batch.items()
        }
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)
        self.function = logits
        self.device = input_device(self.twin)
        self.control = find_sites(self.twin, ["value"], add=True)
        self.tolerance = TOLERANCE[dtype]

    def inert(self, sites: Sequence[BiasSite]) -> dict[BiasSite, Tensor]:
        candidates = {site: found for site, found in self._candidates(sites).items() if len(found)}
        result = {site: torch.zeros(site.width, dtype=torch.bool) for site in sites}
        with torch.no_grad():
            self.still = self._logits({})
            self.moved = [self._change({site: self._draw(site, scale) for site in self.control}) for scale in SHIFTS]
            for site, components in self._confirmed(candidates):
                result[site][components.cpu()] = True
        return result

    def _candidates(self, sites: Sequence[BiasSite]) -> dict[BiasSite, Tensor]:
        """Indices of the components of each site that have no gradient at any point that is tried."""
        every = tuple(dict.fromkeys((*sites, *self.control)))
        flat = {site: torch.ones(site.width, dtype=torch.bool, device=self.device) for site in every}
        comparable = [self._drop_active(flat, {site: self._draw(site, scale) for site in every}) for scale in SCALES]
        if not any(comparable):
            raise BeftError(
                "inertness cannot be measured: the logits do not depend on the value biases. "
                "Is the head all zeros, or does it see something else than this model?"
            )
        for _ in range(WAKING_ROUNDS):
            before = sum(int(flat[site].sum()) for site in sites)
            shifts = {site: self._draw(site, SHIFTS[1]) * flat[site] for site in every}
            self._drop_active(flat, shifts)
            self._drop_active(flat, {site: -shift for site, shift in shifts.items()})
            if sum(int(flat[site].sum()) for site in sites) == before:
                break
        return {site: flat[site].nonzero().flatten() for site in sites}

    def _drop_active(self, flat: Mapping[BiasSite, Tensor], shifts: Mapping[BiasSite, Tensor]) -> bool:
        """Drop the components from ``flat`` that have a gradient at these shifts.

        Returns:
            Whether the value biases have one, without which there is nothing to compare with.
        """
        points = {site: shift.detach().requires_grad_() for site, shift in shifts.items()}
        logits = self._logits(points)
        functional = torch.randn(logits.shape, generator=self.generator, dtype=self.dtype).to(self.device)
        if not logits.requires_grad:
            return False
        found = torch.autograd.grad((logits * functional).sum(), list(points.values()), allow_unused=True)
        slopes = {site: slope.abs() for site, slope in zip(points, found, strict=True) if slope is not None}
        largest = max((float(slopes[site].max()) for site in self.control if site in slopes), default=0.0)
        if not largest > 0:
            return False
        for site, slope in slopes.items():
            flat[site].logical_and_(slope <= FLAT_TOLERANCE[self.dtype] * largest)
        return True

    def _confirmed(self, candidates: Mapping[BiasSite, Tensor]) -> list[tuple[BiasSite, Tensor]]:
        """Those of the candidates that change no logit: all at once if so, else each half by itself."""
        if not candidates or self._stands_still(candidates):
            return list(candidates.items())
        items = list(candidates.items())
        if len(items) > 1:
            middle = len(items) // 2
            return self._confirmed(dict(items[:middle])) + self._confirmed(dict(items[middle:]))
        site, components = items[0]
        if len(components) == 1:
            return []
        return [found for half in components.chunk(2) for found in self._confirmed({site: half})]

    def _stands_still(self, candidates: Mapping[BiasSite, Tensor]) -> bool:
        """Whether shifting all of the components by random amounts, and by the opposite ones, changes no logit."""
        for scale, moved in zip(SHIFTS, self.moved, strict=True):
            shifts = {site: torch.zeros(site.width, dtype=self.dtype, device=self.device) for site in candidates}
            for site, components in candidates.items():
                shifts[site][components] = self._draw(site, scale)[components]
            opposite = {site: -shift for site, shift in shifts.items()}
            if not max(self._change(shifts), self._change(opposite)) <= self.tolerance * moved:
                return False
        return True

    def _change(self, shifts: Mapping[BiasSite, Tensor]) -> float:
        return float((self._logits(shifts) - self.still).abs().max())

    def _logits(self, shifts: Mapping[BiasSite, Tensor]) -> Tensor:
        with Bank(self.twin, shifts), _Wide(self.dtype):
            return self.function(self.twin, self.batch)

    def _draw(self, site: BiasSite, scale: float) -> Tensor:
        """Random shifts of either sign, none of them smaller than ``scale``."""
        normal = torch.randn(site.width, generator=self.generator, dtype=self.dtype)
        return (scale * (normal + torch.where(normal < 0, -1.0, 1.0))).to(self.device)


class _Wide(TorchFunctionMode):
    """Inside the block, a model's own casts to fp32 (norms, softmax, rotary angles) go to ``dtype`` instead."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.float:
            return args[0].to(self.dtype)
        named = {name: self._wide(value) for name, value in (kwargs or {}).items()}
        return function(*(self._wide(value) for value in args), **named)

    def _wide(self, value: Any) -> Any:
        return self.dtype if value is torch.float32 else value


def _copy_as(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy in eval mode that computes in ``dtype``: its floating-point parameters and buffers are widened.

    Shared with the model are quantised weights, weights that accelerate keeps elsewhere, and in fp32 those of linear
    layers, of which a copy might not fit.
    """
    attached = [path for path, module in model.named_modules() if attached_forward(module) is not None]
    if attached:
        raise InputError(f"{attached[0]}: a bank is attached; detach it before inertness is measured.")
    memo: dict[int, Any] = {id(shared): shared for shared in shared_by_hooks(model)}
    widened = [] if dtype == torch.float64 else _narrow_linear_layers(model)
    for path in widened:
        weight = model.get_submodule(path).weight
        memo[id(weight)] = weight
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            memo[id(parameter)] = parameter
        elif id(parameter) not in memo:
            memo[id(parameter)] = nn.Parameter(parameter.detach().to(dtype, copy=True), requires_grad=False)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            memo[id(buffer)] = buffer.detach().to(dtype, copy=True)
    twin = copy.deepcopy(model, memo).eval()
    for path in widened:
        become(twin.get_submodule(path), WidenedLinear)
    load_outside_of_modes(twin)
    return twin


def _narrow_linear_layers(model: nn.Module) -> list[str]:
    """The linear layers below the head, whose weights are many and narrower than fp32.

    The output layer of a language model is none of them: its weight may be that of the embeddings as well.
    """
    narrow = (torch.bfloat16, torch.float16)
    output = getattr(model, "get_output_embeddings", lambda: None)()
    return [
        path
        for path, module in model.named_modules()
        if type(module) is nn.Linear
        and module is not output
        and module.weight.dtype in narrow
        and path.split(".", 1)[0] not in HEADS
    ]
