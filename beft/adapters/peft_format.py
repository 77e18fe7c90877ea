"""The tensors of an adapter on disk, named so that PEFT's ``BEFT`` tuner reads them wherever it can.

PEFT's tuner adds a full-width vector to the output of an ``nn.Linear``, and replaces whole modules
(``modules_to_save``). So a slice of a fused ``nn.Linear`` is written as a full-width vector that is zero outside the
slice; a bias of a ``Conv1D`` or a layer norm, part of a module, and a head that sees another pooling than the model's
own cannot be said in its format. A tensor that PEFT must not touch has a name that it ignores. No PEFT is needed here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from beft.errors import InputError
from beft.sites.site import BiasSite

Opens = Literal["whole", "bias", "no"]

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class ModuleFacts:
    """What a module of the base is, as far as PEFT's format depends on it.

    Attributes:
        kind: ``Linear`` for every ``nn.Linear``, else the name of the class.
        width: Components of its bias, or of what it would be.
        parameters: Names of all its parameters.
        alike: Other modules that PEFT takes for this one, since their paths end with this one's path.
    """

    kind: str
    width: int
    parameters: tuple[str, ...]
    alike: tuple[str, ...]


@dataclass(frozen=True)
class PeftPlan:
    """How an adapter is laid out for PEFT.

    Attributes:
        opens: ``whole``: PEFT gives the adapter's logits; ``bias``: PEFT opens the biases, the head does not follow;
            ``no``: PEFT cannot open it.
        reasons: Why not ``whole``, one sentence each.
        targets: Modules that get a bias.
        modules_to_save: Modules of the head that PEFT replaces.
    """

    opens: Opens
    reasons: tuple[str, ...]
    targets: tuple[str, ...]
    modules_to_save: tuple[str, ...]


def describe_modules(model: nn.Module, sites: Iterable[BiasSite], head: Iterable[str]) -> dict[str, ModuleFacts]:
    """The facts of every module that an adapter touches.

    Args:
        head: Names of parameters of the model.

    Raises:
        InputError: The model has no such module.
    """
    modules = dict(model.named_modules())
    facts = {}
    for path in sorted({site.module for site in sites} | {_module_of(name) for name in head}):
        module = modules.get(path)
        if module is None:
            raise InputError(f"{type(model).__name__} has no module {path!r}")
        facts[path] = ModuleFacts(
            kind="Linear" if isinstance(module, nn.Linear) else type(module).__name__,
            width=_width(module),
            parameters=tuple(sorted(name for name, _ in module.named_parameters())),
            alike=tuple(sorted(other for other in modules if other != path and other.endswith(path))),
        )
    return facts


def plan_peft(
    sites: Iterable[BiasSite], head: Iterable[str], modules: Mapping[str, ModuleFacts], *, pooling: str
) -> PeftPlan:
    """Decide what PEFT can open.

    Args:
        head: Names of the head's saved parameters.
        modules: The facts of the touched modules; one without facts is not opened by PEFT.
        pooling: What the head sees; PEFT knows only the model's own pooling (``model``).
    """
    targets = tuple(sorted({site.module for site in sites}))
    reasons = [reason for path in targets if (reason := _no_target(path, modules.get(path)))]
    if reasons:
        return PeftPlan("no", tuple(reasons), (), ())
    saved = {path: {name for name in head if _module_of(name) == path} for path in map(_module_of, head)}
    reasons = []
    if pooling != "model":
        reasons.append(
            f"the head sees the pooling {pooling!r}, which is no module of the model: the head does "
            "not follow, PEFT opens the biases alone"
        )
    else:
        for path, names in sorted(saved.items()):
            reasons += _no_module_to_save(path, names, saved, modules)
    if reasons:
        return PeftPlan("bias", tuple(reasons), targets, ())
    return PeftPlan("whole", (), targets, tuple(sorted(saved)))


def _no_target(path: str, facts: ModuleFacts | None) -> str | None:
    if facts is None:
        return f"what kind of module {path} is was not recorded"
    if facts.kind != "Linear":
        return f"{path} is a {facts.kind}; PEFT's BEFT tuner adds biases to nn.Linear alone"
    return None


def _no_module_to_save(
    path: str, names: set[str], saved: Mapping[str, set[str]], modules: Mapping[str, ModuleFacts]
) -> list[str]:
    facts = modules.get(path)
    if facts is None:
        return [f"what parameters {path} has was not recorded, and PEFT saves whole modules"]
    missing = sorted({f"{path}.{name}" for name in facts.parameters} - names)
    if missing:
        return [
            f"{', '.join(missing)} is not part of the adapter, and PEFT saves whole modules: the head does not follow"
        ]
    taken = [other for other in facts.alike if other not in saved]
    if taken:
        return [f"PEFT takes {', '.join(taken)} for {path}, since the names end alike: the head does not follow"]
    return []


def site_tensor_name(site: BiasSite, plan: PeftPlan) -> str:
    """The name of the tensor that holds a site's delta."""
    return site.name if plan.opens == "no" else f"{_PREFIX}{site.module}.beft_bias"


def head_tensor_name(parameter: str, plan: PeftPlan) -> str:
    """The name of the tensor that holds a parameter of the head."""
    return f"{_PREFIX}{parameter}" if plan.opens == "whole" else f"head.{parameter}"


def pack(
    deltas: Mapping[BiasSite, Tensor],
    head: Mapping[str, Tensor],
    modules: Mapping[str, ModuleFacts],
    plan: PeftPlan,
) -> dict[str, Tensor]:
    """The tensors of the file, in the order of their names.

    A bias for PEFT has shape [1, width of the module], zero outside the module's sites; another one [width].
    """
    tensors: dict[str, Tensor] = {}
    for site, delta in deltas.items():
        name = site_tensor_name(site, plan)
        if plan.opens == "no":
            tensors[name] = delta.detach().cpu().clone()
            continue
        if name not in tensors:
            tensors[name] = torch.zeros(1, modules[site.module].width, dtype=delta.dtype)
        site.put(tensors[name][0], delta.detach().cpu())
    for parameter, value in head.items():
        tensors[head_tensor_name(parameter, plan)] = value.detach().cpu().contiguous().clone()
    return dict(sorted(tensors.items()))


def unpack_delta(tensor: Tensor, site: BiasSite) -> Tensor:
    """A site's delta, [width], out of its tensor.

    Raises:
        InputError: The tensor is too short or has the wrong shape.
    """
    if tensor.dim() == 2 and tensor.shape[0] == 1 and tensor.shape[1] >= site.stop:
        return site.take(tensor[0]).clone()
    if tensor.shape == (site.width,):
        return tensor.clone()
    raise InputError(f"the tensor of {site.name} has shape {list(tensor.shape)}, not [{site.width}]")


def adapter_config(plan: PeftPlan, base_id: str, task_type: str | None = None) -> dict[str, Any] | None:
    """The contents of PEFT's ``adapter_config.json``; None where PEFT cannot open the adapter.

    A base on the hub is named with its revision, so that PEFT finds it; any other base the user loads.

    Args:
        task_type: One of PEFT's; None: its plain model, whatever the head is.
    """
    if plan.opens == "no":
        return None
    name, _, revision = base_id.removeprefix("hub:").partition("@")
    on_hub = base_id.startswith("hub:")
    return {
        "peft_type": "BEFT",
        "task_type": task_type,
        "base_model_name_or_path": name if on_hub else None,
        "revision": (revision or None) if on_hub else None,
        "inference_mode": True,
        "init_weights": True,
        "target_modules": list(plan.targets),
        "modules_to_save": list(plan.modules_to_save) or None,
    }


def _module_of(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _width(module: nn.Module) -> int:
    for name in ("out_features", "nf"):  # nn.Linear; transformers' Conv1D
        if isinstance(width := getattr(module, name, None), int):
            return width
    parameters = list(module.parameters(recurse=False))
    return int(parameters[0].shape[0]) if parameters else 0
