"""Where the transformer families keep their bias terms: one entry a family, matched on the model's module structure.

A layout names the layer list and, within a layer, the module of each bias term. It matches when the layer list is
there, each of its layers has every one of those modules, and no layer has a projection that the layout does not know
(a cross-attention, for example). Neither the model's type nor its class is looked at, so that every model built the
same way works, with or without a head on top.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn
from transformers.pytorch_utils import Conv1D

from beft.errors import InputError


@dataclass(frozen=True)
class Place:
    """The module that holds a bias term, and which of its output's equal parts is the term's.

    Args:
        module: Path of the module, relative to its layer (or to the base model, for terms outside of the layers).
        part: Index of the part, counted from 0, where several projections are fused into one module.
        parts: Number of equal parts that the module's output has.
    """

    module: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Layout:
    """The structure of a family.

    Args:
        name: The family's name, for messages.
        layers: Path of the layer list, relative to the base model.
        terms: The place of each bias term, relative to the layer.
        outside: The place of each bias term that the model has once, relative to the base model; a model may lack it.
        other: Projections of a layer that hold no bias term of ours, relative to the layer.
        post_norm: Whether a layer's attention norm stands behind its attention, so that from there on each token is
            computed by itself.
    """

    name: str
    layers: str
    terms: Mapping[str, Place]
    outside: Mapping[str, Place] = field(default_factory=dict)
    other: tuple[str, ...] = ()
    post_norm: bool = False


@dataclass(frozen=True)
class Match:
    """A layout found in a model: ``base`` is the path of the base model in it ("" when it is the model itself)."""

    layout: Layout
    base: str
    layers: int

    def module(self, place: Place, layer: int | None) -> str:
        """The path of a place's module in the model; ``layer`` is none for a place outside of the layers."""
        if layer is None:
            return join(self.base, place.module)
        return join(self.base, self.layout.layers, str(layer), place.module)


BERT = Layout(
    name="BERT or RoBERTa",
    layers="encoder.layer",
    terms={
        "query": Place("attention.self.query"),
        "key": Place("attention.self.key"),
        "value": Place("attention.self.value"),
        "attention_output": Place("attention.output.dense"),
        "intermediate": Place("intermediate.dense"),
        "output": Place("output.dense"),
        "attention_norm": Place("attention.output.LayerNorm"),
        "output_norm": Place("output.LayerNorm"),
    },
    outside={"embedding_norm": Place("embeddings.LayerNorm")},
    post_norm=True,
)

MPNET = Layout(
    name="MPNet",
    layers="encoder.layer",
    terms={
        "query": Place("attention.attn.q"),
        "key": Place("attention.attn.k"),
        "value": Place("attention.attn.v"),
        "attention_output": Place("attention.attn.o"),
        "intermediate": Place("intermediate.dense"),
        "output": Place("output.dense"),
        "attention_norm": Place("attention.LayerNorm"),
        "output_norm": Place("output.LayerNorm"),
    },
    outside={"embedding_norm": Place("embeddings.LayerNorm")},
    post_norm=True,
)

DISTILBERT = Layout(
    name="DistilBERT",
    layers="transformer.layer",
    terms={
        "query": Place("attention.q_lin"),
        "key": Place("attention.k_lin"),
        "value": Place("attention.v_lin"),
        "attention_output": Place("attention.out_lin"),
        "intermediate": Place("ffn.lin1"),
        "output": Place("ffn.lin2"),
        "attention_norm": Place("sa_layer_norm"),
        "output_norm": Place("output_layer_norm"),
    },
    outside={"embedding_norm": Place("embeddings.LayerNorm")},
    post_norm=True,
)

OPT = Layout(
    name="OPT",
    layers="decoder.layers",
    terms={
        "query": Place("self_attn.q_proj"),
        "key": Place("self_attn.k_proj"),
        "value": Place("self_attn.v_proj"),
        "attention_output": Place("self_attn.out_proj"),
        "intermediate": Place("fc1"),
        "output": Place("fc2"),
        "attention_norm": Place("self_attn_layer_norm"),
        "output_norm": Place("final_layer_norm"),
    },
    outside={"final_norm": Place("decoder.final_layer_norm")},
)

GPT2 = Layout(
    name="GPT-2",
    layers="h",
    terms={
        "query": Place("attn.c_attn", part=0, parts=3),
        "key": Place("attn.c_attn", part=1, parts=3),
        "value": Place("attn.c_attn", part=2, parts=3),
        "attention_output": Place("attn.c_proj"),
        "intermediate": Place("mlp.c_fc"),
        "output": Place("mlp.c_proj"),
        "attention_norm": Place("ln_1"),
        "output_norm": Place("ln_2"),
    },
    outside={"final_norm": Place("ln_f")},
)

# A gated feed-forward has two projections to the wide side. The bias of the gated one (up) acts as the intermediate
# bias of the other families does; that of the gate itself is no bias term of ours.
LLAMA = Layout(
    name="Llama or Qwen2",
    layers="layers",
    terms={
        "query": Place("self_attn.q_proj"),
        "key": Place("self_attn.k_proj"),
        "value": Place("self_attn.v_proj"),
        "attention_output": Place("self_attn.o_proj"),
        "intermediate": Place("mlp.up_proj"),
        "output": Place("mlp.down_proj"),
        "attention_norm": Place("input_layernorm"),
        "output_norm": Place("post_attention_layernorm"),
    },
    outside={"final_norm": Place("norm")},
    other=("mlp.gate_proj",),
)

# Attention and feed-forward read the same normalised input, so that a layer has one norm only.
PHI = Layout(
    name="Phi",
    layers="layers",
    terms={
        "query": Place("self_attn.q_proj"),
        "key": Place("self_attn.k_proj"),
        "value": Place("self_attn.v_proj"),
        "attention_output": Place("self_attn.dense"),
        "intermediate": Place("mlp.fc1"),
        "output": Place("mlp.fc2"),
        "attention_norm": Place("input_layernorm"),
    },
    outside={"final_norm": Place("final_layernorm")},
)

LAYOUTS: tuple[Layout, ...] = (BERT, MPNET, DISTILBERT, OPT, GPT2, LLAMA, PHI)


def match_layout(model: nn.Module) -> Match:
    """Find the one layout whose structure the model has.

    Raises:
        InputError: No layout matches, one matches in part of the layers only, or more than one layer list matches
            (an encoder and a decoder); the message lists what was found.
    """
    matches: list[Match] = []
    partial: list[str] = []
    for base, module in model.named_modules():
        for layout in LAYOUTS:
            layers = submodule(module, layout.layers)
            if not isinstance(layers, nn.ModuleList) or not len(layers):
                continue
            fitting = [index for index, layer in enumerate(layers) if _fits(layout, layer)]
            if len(fitting) == len(layers):
                matches.append(Match(layout, base, len(layers)))
            elif fitting:
                path = join(base, layout.layers)
                missing = sorted(set(range(len(layers))) - set(fitting))
                partial.append(f"{path} has the structure of {layout.name} except in layer {_listed(missing)}")
    if len(matches) == 1 and not partial:
        return matches[0]
    known = ", ".join(layout.name for layout in LAYOUTS)
    kind = type(model).__name__
    if partial:
        raise InputError(f"only part of the layers of {kind} have a known structure: {'; '.join(partial)}.")
    if matches:
        found = ", ".join(join(match.base, match.layout.layers) for match in matches)
        raise InputError(f"{kind} has more than one list of layers ({found}); models with one are supported.")
    lists = ", ".join(_layer_lists(model)) or "none"
    raise InputError(
        f"the structure of {kind} is unknown, so its bias terms cannot be told apart. "
        f"Known structures: {known}. Lists of layers found: {lists}."
    )


def submodule(module: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path, or none."""
    found: nn.Module | None = module
    for part in path.split("."):
        found = found._modules.get(part) if found is not None else None
    return found


def is_projection(module: nn.Module) -> bool:
    """Whether a module is a linear map: nn.Linear, GPT-2's Conv1D, or a class made from one of them."""
    return isinstance(module, nn.Linear | Conv1D)


def width(module: nn.Module) -> int:
    """The number of outputs of a projection."""
    if isinstance(module, nn.Linear):
        return module.out_features
    assert isinstance(module, Conv1D)
    return int(module.nf)


def join(*parts: str) -> str:
    """Dotted path of the parts that are not empty."""
    return ".".join(part for part in parts if part)


def _fits(layout: Layout, layer: nn.Module) -> bool:
    known = {place.module for place in layout.terms.values()} | set(layout.other)
    if any(submodule(layer, path) is None for path in known):
        return False
    return all(path in known for path, module in layer.named_modules() if is_projection(module))


def _layer_lists(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module):
            yield f"{path} ({len(module)} of {type(module[0]).__name__})"


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:8])
    return shown if len(numbers) <= 8 else f"{shown} and {len(numbers) - 8} more"
