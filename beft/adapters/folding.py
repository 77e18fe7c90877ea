"""Folding: a plain transformers model with the biases and the head of an adapter written into it."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from beft.adapters.checks import check_fits
from beft.adapters.materialise import Materialised, difference, materialise
from beft.bank.bank import Bank
from beft.bank.forwards import outputs_of, upcast_sum
from beft.errors import BeftError, InputError
from beft.files import atomic_directory, write_json
from beft.models.classifier import Classifier
from beft.models.quantized import quantized_layers
from beft.sites.offloading import is_spread
from beft.sites.site import BiasSite, read_bias, site_module

if TYPE_CHECKING:
    from beft.adapters.adapter import Adapter

FOLD_FILE = "beft_fold.json"

_OF_ANOTHER_TASK = (
    "finetuning_task",
    "task_specific_params",
    "custom_pipelines",
    "function_to_apply",
    "sentence_transformers",
    "sbert_ce_default_activation_function",
)
"""Entries of a configuration that belong to a head which is replaced, or to how answers were made with it."""


@dataclass(frozen=True)
class FoldReport:
    """What folding wrote, and how far the written values are from the exact sums.

    Args:
        dtype: The type in which each site's bias was written, by site name.
        rounding: The greatest absolute error of each site's bias, by site name.
        added: Paths of the modules that had no bias and now have one.
        place: Where a plain model keeps the added ones, in words.
    """

    dtype: dict[str, str]
    rounding: dict[str, float]
    added: tuple[str, ...]
    place: str = ""

    @property
    def largest(self) -> float:
        """The greatest absolute error of all."""
        return max(self.rounding.values(), default=0.0)


def fold(model: nn.Module, deltas: Mapping[BiasSite, Tensor], head: Mapping[str, Tensor] | None = None) -> FoldReport:
    """Write the deltas (and the head) into the model's own parameters, for export; the model keeps its types.

    Args:
        model: The model, changed in place. Nothing is changed when an error is raised.
        deltas: The change of each bias site, as for ``Bank``.
        head: Parameters that replace the model's own, as for ``Bank``.

    Raises:
        InputError: As ``Bank``; or a bank is attached, whose deltas would then count twice; or the base is quantised or
            spread over several devices.
        BeftError: A sum is too large for the type of the model.
    """
    _check_plain(model)
    Bank(model, deltas, head).attach().detach()
    sums: dict[BiasSite, Tensor] = {}
    written: dict[BiasSite, Tensor] = {}
    for site, delta in deltas.items():
        module = site_module(model, site)
        target: Tensor = module.weight if site.added else module.bias  # type: ignore[assignment]
        sums[site] = upcast_sum(read_bias(model, site), delta.detach())
        written[site] = sums[site].to(target.dtype)
        if not torch.isfinite(written[site]).all():
            raise BeftError(f"{site.name}: the folded bias is not finite in {target.dtype}; fold into a wider type.")
    added: dict[str, None] = {}
    with torch.no_grad():
        for site, values in written.items():
            module = model.get_submodule(site.module)
            if module.bias is None:
                module.bias = nn.Parameter(values.new_zeros(outputs_of(module)), requires_grad=False)
                added[site.module] = None
            site.put(module.bias, values)  # type: ignore[arg-type]
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, tensor in (head or {}).items():
            parameters[name].copy_(tensor.detach())
    return FoldReport(
        dtype={site.name: str(values.dtype).removeprefix("torch.") for site, values in written.items()},
        rounding={
            site.name: float((sums[site] - values.to(sums[site].dtype)).abs().max()) for site, values in written.items()
        },
        added=tuple(added),
    )


def _check_plain(model: nn.Module) -> None:
    """Refuse a model that is not all there, in a type that biases can be written in."""
    if quantized_layers(model):
        raise InputError(
            "a quantised base cannot be folded: its biases belong to rounded weights, which a plain model does not "
            "have. Use the adapter as it is, or train one over the base with base.quantization: none"
        )
    if is_spread(model):
        raise InputError(
            "a base that is spread over devices cannot be folded; load it with base.device_map: none and "
            "base.device: cpu"
        )


def fold_adapter(adapter: "Adapter", classifier: Classifier, folder: Path) -> FoldReport:
    """Write a folder that transformers alone loads, with the adapter's logits: ``AutoModelForSequenceClassification``.

    An adapter of a language model, which has no head, is loaded with ``AutoModelForCausalLM``.

    The model keeps the classifier's precision; each bias is its own plus the delta, rounded once. The greatest
    rounding error is returned, and written to ``beft_fold.json`` in the folder. That file also holds the adapter's
    problem type (``shape``), since a configuration has no place for thresholds. The classifier stays as it was.

    Raises:
        InputError: The adapter does not fit or was trained over a quantised base, its head sees another pooling than
            the model's own, a plain model has no place for an added bias, or the folder is there already.
        BeftError: The folder cannot be written, or what was written does not give the adapter's logits.
    """
    if adapter.pooling != "model":
        raise InputError(
            f"an adapter whose head sees pooling {adapter.pooling!r} cannot be folded: a plain model's head sees the "
            "model's own. Train with head.pooling: model, or use the adapter as it is"
        )
    if adapter.quantization not in (None, "none"):
        raise InputError(
            f"an adapter that was trained over an {adapter.quantization} quantised base cannot be folded: its biases "
            "belong to rounded weights, which a plain model does not have. Use the adapter as it is, or train one with "
            "base.quantization: none"
        )
    folder = Path(folder)
    if folder.exists():
        raise InputError(f"{folder} is there already; name a new folder for the folded model")
    check_fits(adapter, classifier)
    _check_plain(classifier.model)
    device = classifier.device
    model: Any = copy.deepcopy(classifier.model)
    deltas = {site: delta.to(device) for site, delta in adapter.deltas.items()}
    head = {name: value.to(device) for name, value in adapter.head.items()}
    report = fold(model, deltas, head)
    materialised = materialise(model, report.added) if report.added else Materialised(model)
    exact, model = model, materialised.model
    _describe_task(model, adapter, classifier.tokenizer)
    written = dict(model.named_parameters())
    record = {
        "adapter_sha256": adapter.sha256,
        "base": {"id": adapter.base_id, "sha256": adapter.base_sha256},
        "shape": adapter.problem_type.to_json(),
        "terms": list(adapter.terms),
        "max_length": adapter.max_length,
        "precision": str(model.dtype).removeprefix("torch."),
        "largest_rounding_of_biases": report.largest,
        "largest_rounding_of_head": max((_rounding(value, written[name]) for name, value in head.items()), default=0.0),
        "materialised": materialised.to_json(),
    }
    try:
        with atomic_directory(folder) as temporary:
            model.save_pretrained(temporary)
            if classifier.tokenizer is not None:
                _as_encoded(classifier).save_pretrained(temporary)
            write_json(temporary / FOLD_FILE, record)
            if report.added:
                _check_same(exact, type(model).from_pretrained(temporary, dtype=model.dtype).to(device).eval())
    except OSError as error:
        raise BeftError(f"the folded model cannot be written to {folder}: {error.strerror or error}") from None
    return replace(report, place=materialised.described if report.added else "")


def _describe_task(model: Any, adapter: "Adapter", tokenizer: Any) -> None:
    """Make a model's configuration say what the adapter answers, and nothing of what the base was tuned for before.

    transformers' pipelines read from there which function makes probabilities of logits, names of labels, and how text
    is generated.
    """
    config, problem_type = model.config, adapter.problem_type
    for name in _OF_ANOTHER_TASK:
        if getattr(config, name, None) is not None:
            delattr(config, name)
    if problem_type.has_head:
        names = tuple(problem_type.output_names(adapter.labels)) or (
            "value" if problem_type.name == "regression" else "score",
        )
        config.id2label = dict(enumerate(names))
        config.label2id = {label: number for number, label in enumerate(names)}
    kinds = {
        "classification": "single_label_classification",
        "multi_label": "multi_label_classification",
        "regression": "regression",
    }
    config.problem_type = kinds.get(problem_type.name)
    if problem_type.generates:
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig(
            max_new_tokens=problem_type.new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )


def _as_encoded(classifier: Classifier) -> Any:
    """The tokenizer of an exported model: under a head it pads on the right, as it does in training."""
    tokenizer: Any = classifier.tokenizer
    if classifier.problem_type.has_head and tokenizer.padding_side != "right":
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.padding_side = "right"
    return tokenizer


def _check_same(exact: Any, written: Any) -> None:
    """Check that a model that was read again gives the logits that it was written for.

    Raises:
        BeftError: It does not.
    """
    found, allowed = difference(exact, written)
    if not found <= allowed:
        raise BeftError(
            f"the plain {type(written).__name__} that was written gives other logits (by {found:.2g}) than the base "
            "with its added biases, so it is not kept; use the adapter as it is"
        )


def _rounding(exact: Tensor, written: Tensor) -> float:
    wide = torch.promote_types(exact.dtype, written.dtype)
    return float((exact.to(wide) - written.detach().to(wide)).abs().max())
