"""Added biases in a plain model: a place for them that transformers alone knows.

A base without a bias at a projection has no place for one in its files. Three ways are tried, in this order:

1. the configuration: settings that give the model's class biases (``attention_bias``, ``mlp_bias``, ``use_bias`` …);
   those that are not needed are zero;
2. a class that computes the same and has such biases: Mistral is Llama, or Qwen2 where it has a sliding window;
3. another bias: attention weights add up to one, so a value bias equals W_o·b_v behind the attention's output
   projection; that goes into its bias, or, where attention and feed-forward are added up side by side (GPT-J), into the
   feed-forward's. Whether that is exact is measured, not looked up.
"""

import copy
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from beft.adapters.checks import listed
from beft.bank.forwards import outputs_of
from beft.errors import InputError
from beft.sites.matching import is_projection
from beft.sites.site import BiasSite, find_sites

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF_TOLERANCE = 0.05
"""How far logits may be from each other, relative to the largest; sums are taken in another order, and rounded."""

_SHARE = {torch.float64: 1e-6, torch.float32: 1e-3}
_HALF_SHARE = 0.1
"""Up to which share of a bias's own effect on the logits a move may change them and still be exact but for rounding."""

_ROWS, _TOKENS = 2, 12

# Entries of a configuration that another class has of its own.
_OF_THE_CLASS = ("model_type", "architectures", "transformers_version", "layer_types", "use_sliding_window")


@dataclass(frozen=True)
class Materialised:
    """A model whose configuration has a place for every one of its biases.

    Attributes:
        model: The model; the one that was given, or one of another class over the same parameters.
        settings: What was changed in the configuration.
        moved: Path of a module whose bias is now part of that of another, to the other's path.
    """

    model: Any
    settings: Mapping[str, Any] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)

    @property
    def described(self) -> str:
        """Where the biases are, in words."""
        settings = ", ".join(f"{name}: true" for name in self.settings)
        told = f"a {type(self.model).__name__}" + (f" with {settings}" if settings else "")
        if not self.moved:
            return told
        first, other = next(iter(self.moved.items()))
        more = f" and {len(self.moved) - 1} more" if len(self.moved) > 1 else ""
        return f"{told}, the bias of {first} in that of {other}{more}"

    def to_json(self) -> dict[str, Any]:
        """What was done, as JSON values."""
        return {"class": type(self.model).__name__, "settings": dict(self.settings), "moved": dict(self.moved)}


def materialise(model: Any, added: Sequence[str]) -> Materialised:
    """Find a place for biases that were added to a transformers model.

    Args:
        model: The model with the biases; it is changed.
        added: Paths of the modules that have a bias which the configuration does not know.

    Raises:
        InputError: There is no place for one of them; the message says where.
    """
    best: tuple[Any, dict[str, Any], list[str]] | None = None
    for kind, config, settings in _configurations(model):
        biased = _biased(kind, config)
        without = [path for path in added if path not in biased]
        if not without:
            return Materialised(_with_room(model, kind, config, biased), settings)
        if kind is type(model) and (best is None or len(without) < len(best[2])):
            best = (config, settings, without)
    assert best is not None  # the first configuration is the model's own
    config, settings, without = best
    moved = _move(model, without)
    left = [path for path in without if path not in moved]
    if left:
        raise InputError(
            f"{type(model).__name__} has no configuration with a bias at {listed(sorted(left))}, and no other bias "
            "could stand for it with the same logits, so a plain model cannot hold it; use the adapter as it is"
        )
    return Materialised(_with_room(model, type(model), config, _biased(type(model), config)), settings, moved)


def difference(first: Any, second: Any) -> tuple[float, float]:
    """The greatest difference of two models' logits on random tokens, and how large it may be for their types."""
    one, other = _logits(first), _logits(second)
    allowed = max(_TOLERANCE.get(model.dtype, _HALF_TOLERANCE) for model in (first, second))
    return float((one - other).abs().max()), allowed * max(1.0, float(one.abs().max()))


def _configurations(model: Any) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Class, configuration and changed settings: the model's own with ever more biases, then those of its siblings."""
    siblings = [(type(model), model.config), *_siblings(model)]
    for kind, config in siblings:
        names = [name for name, value in config.to_dict().items() if "bias" in name and value is False]
        for number in range(len(names) + 1):
            for chosen in itertools.combinations(names, number):
                roomy = copy.deepcopy(config)
                for name in chosen:
                    setattr(roomy, name, True)
                yield kind, roomy, dict.fromkeys(chosen, True)


def _siblings(model: Any) -> Iterator[tuple[Any, Any]]:
    """Classes that compute what the model's does, and their configurations."""
    import transformers

    config = model.config
    if config.model_type != "mistral":
        return
    window = config.sliding_window
    name = type(model).__name__.replace("Mistral", "Llama" if window is None else "Qwen2")
    kind = getattr(transformers, name, None)
    if kind is None:
        return
    known = kind.config_class().to_dict()
    values = {name: value for name, value in config.to_dict().items() if name in known and name not in _OF_THE_CLASS}
    values["head_dim"] = config.head_dim or config.hidden_size // config.num_attention_heads
    if window is not None:
        layers = ["sliding_attention"] * config.num_hidden_layers
        values |= {"use_sliding_window": True, "sliding_window": window, "layer_types": layers}
    yield kind, kind.config_class(**values)


def _biased(kind: Any, config: Any) -> set[str]:
    """Paths of the modules that have a bias in a model of the class and the configuration."""
    with torch.device("meta"):
        built = kind(copy.deepcopy(config))
    return {path for path, module in built.named_modules() if isinstance(getattr(module, "bias", None), Tensor)}


def _with_room(model: Any, kind: Any, config: Any, biased: Collection[str]) -> Any:
    """The model with the configuration, every bias that it builds there, and in the class."""
    for path, module in model.named_modules():
        if path in biased and is_projection(module) and module.bias is None:
            weight = module.weight
            assert isinstance(weight, Tensor)
            module.bias = nn.Parameter(weight.new_zeros(outputs_of(module)), requires_grad=False)
    if kind is type(model):
        model.config = config
        return model
    with torch.device("meta"):
        other = kind(config)
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


def _move(model: Any, paths: Sequence[str]) -> dict[str, str]:
    """Move biases of modules into others that give the same logits; those for which there are none stay.

    Returns:
        Path of the module to that of the other.
    """
    sites = find_sites(model)
    by_term: dict[str, list[BiasSite]] = {}
    for site in sites:
        by_term.setdefault(site.term, []).append(site)
    moved: dict[str, str] = {}
    for term in ("value", "attention_output"):
        here = [site for site in by_term.get(term, ()) if site.module in paths]
        if not here or any(not _is_whole(model, site) for site in here):
            continue
        for target in ("attention_output", "output"):
            others = {site.layer: site for site in by_term.get(target, ()) if site.module not in paths}
            if len(others) == len(here) == len({site.layer for site in here}) and _moved(model, here, others):
                moved |= {site.module: others[site.layer].module for site in here}
                break
    return moved


def _is_whole(model: nn.Module, site: BiasSite) -> bool:
    return site.width == outputs_of(model.get_submodule(site.module))


def _moved(model: Any, sites: Sequence[BiasSite], others: Mapping[int, BiasSite]) -> bool:
    """Move the biases of sites of one term, if that changes no logit whatever the biases are."""
    outputs = {site.layer: site.module for site in find_sites(model, ("attention_output",), add=True)}
    pairs = [
        (model.get_submodule(site.module), model.get_submodule(others[site.layer].module), outputs[site.layer])
        for site in sites
    ]
    is_value = sites[0].term == "value"
    kept = [(module, module.bias, other, other.bias) for module, other, _ in pairs]
    # Measured with large random biases: what was trained may be too small to tell.
    generator = torch.Generator().manual_seed(0)
    for module, bias, *_ in kept:
        drawn = torch.randn(bias.shape, generator=generator)
        module.bias = nn.Parameter(drawn.to(bias.device, bias.dtype), requires_grad=False)
    with_them = _logits(model)
    _shift(model, pairs, is_value)
    moved = _logits(model)
    for _, _, other, other_bias in kept:
        other.bias = other_bias
    without = _logits(model)
    for module, bias, *_ in kept:
        module.bias = bias
    effect = float((with_them - without).abs().max())
    exact = float((with_them - moved).abs().max()) <= _SHARE.get(model.dtype, _HALF_SHARE) * effect
    if effect and exact:
        _shift(model, pairs, is_value)
    return bool(effect) and exact


def _shift(model: Any, pairs: Sequence[tuple[Any, Any, str]], is_value: bool) -> None:
    """Add the bias of each pair's first module to that of the second, and take it away from the first."""
    for module, other, output in pairs:
        bias = module.bias.detach().double()
        behind = _behind_attention(model, model.get_submodule(output), bias) if is_value else bias
        total = (other.bias.detach().double() + behind).to(other.bias.dtype)
        other.bias = nn.Parameter(total, requires_grad=False)
        module.bias = None


def _behind_attention(model: Any, output: nn.Module, bias: Tensor) -> Tensor:
    """What a value bias is behind the attention's output projection: W_o·b_v."""
    weight = output.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().double()
    weight = weight if isinstance(output, nn.Linear) else weight.T
    groups = weight.shape[1] // len(bias)
    if groups > 1:  # the queries of a group share a value head
        config = model.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        bias = bias.view(-1, head).repeat_interleave(groups, 0).flatten()
    return weight @ bias


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """Logits of random tokens, fp32 or wider, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (_ROWS, _TOKENS), generator=generator)
    if (pad := model.config.pad_token_id) is not None:
        ids[ids == pad] = (pad + 1) % model.config.vocab_size
    device = model.get_input_embeddings().weight.device
    logits: Tensor = model(input_ids=ids.to(device), attention_mask=torch.ones_like(ids, device=device)).logits.cpu()
    return logits if logits.dtype == torch.float64 else logits.float()
