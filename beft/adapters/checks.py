"""What is checked of an adapter: that it is whole before it is saved, and that it fits before it is attached."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from beft.adapters.peft_format import pack
from beft.encoding.tokenizer_facts import tokenizer_facts
from beft.errors import InputError
from beft.models.classifier import Classifier
from beft.models.quantized import quantization_of, stored_quantization
from beft.models.reference import BaseReference
from beft.problems.multi_label import MultiLabel
from beft.problems.token_classification import TokenClassification
from beft.settings import Quantization
from beft.sites.site import BiasSite, find_sites

if TYPE_CHECKING:
    from beft.adapters.adapter import Adapter

_ONCE = ("embedding_norm", "final_norm")
_DTYPES = (torch.float32, torch.float64)


def check_complete(adapter: "Adapter") -> None:
    """Check that what would be saved is what was trained.

    Raises:
        InputError: A site of the terms or a part of the head is missing or too much, or a tensor has the wrong shape
            or type or holds a value that is no finite number.
    """
    terms = {site.term for site in adapter.deltas}
    missing = [f"every site of {term}" for term in adapter.terms if term not in terms] or _missing_sites(adapter)
    if missing or not adapter.deltas:
        raise InputError(f"the adapter is incomplete: it has no delta for {listed(missing) or 'any bias site'}")
    if extra := sorted(terms - set(adapter.terms)):
        raise InputError(f"the adapter has deltas of {', '.join(extra)}, which are not among its terms")
    expected = adapter.facts.head if adapter.facts else frozenset(adapter.head)
    if lacking := sorted(expected - set(adapter.head)):
        raise InputError(f"the adapter is incomplete: its head lacks {listed(lacking)}")
    if extra := sorted(set(adapter.head) - expected):
        raise InputError(
            f"the adapter's head holds {listed(extra)}, which head.train {adapter.head_train!r} never trains"
        )
    if adapter.problem_type.outputs(len(adapter.labels)) < 1:
        raise InputError("the adapter is incomplete: it names no labels")
    if isinstance(adapter.problem_type, MultiLabel) and adapter.problem_type.labels != len(adapter.labels):
        raise InputError(
            f"the adapter has thresholds for {adapter.problem_type.labels} labels, but {len(adapter.labels)} labels"
        )
    if isinstance(adapter.problem_type, TokenClassification) and adapter.problem_type.labels != len(adapter.labels):
        raise InputError(
            f"the adapter has tags for {adapter.problem_type.labels} labels, but {len(adapter.labels)} labels"
        )
    if adapter.problem_type.has_head and not any(value.dim() == 2 for value in adapter.head.values()):
        raise InputError("the adapter is incomplete: it has no head")
    for site, delta in adapter.deltas.items():
        if delta.shape != (site.width,) or delta.dtype not in _DTYPES:
            raise InputError(f"the delta of {site.name} must be fp32 or fp64 of shape [{site.width}]")
    if len({delta.dtype for delta in adapter.deltas.values()}) > 1:
        raise InputError("the adapter's deltas must all have one type, fp32 or fp64")
    for name, value in {**{site.name: delta for site, delta in adapter.deltas.items()}, **adapter.head}.items():
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise InputError(f"{name} holds a value that is no finite number; such an adapter predicts nothing")


def _missing_sites(adapter: "Adapter") -> list[str]:
    names = {site.name for site in adapter.deltas}
    if adapter.facts is not None:
        return sorted(adapter.facts.sites - names)
    # Without the model, a layer is missed when another one above it, or another term, has it.
    layers = {term: {site.layer for site in adapter.deltas if site.term == term} for term in adapter.terms}
    layers = {term: found for term, found in layers.items() if term not in _ONCE}
    every = range(1 + max((layer for found in layers.values() for layer in found), default=-1))
    return [f"{term} in layer {layer}" for term, found in layers.items() for layer in every if layer not in found]


def check_tensors(adapter: "Adapter", tensors: Mapping[str, Tensor]) -> None:
    """Check that a file holds the tensors that the adapter would write, and none that PEFT alone would read.

    Raises:
        InputError: A tensor is missing, too much, or another one.
    """
    for site in adapter.deltas:
        if adapter.peft.opens != "no" and site.stop > adapter.modules[site.module].width:
            raise InputError(f"the site {site.name} is wider than its module")
    own = pack(adapter.deltas, adapter.head, adapter.modules, adapter.peft)
    different = {name for name in own.keys() & tensors.keys() if not _same(own[name], tensors[name])}
    if different := different | (own.keys() ^ tensors.keys()):
        raise InputError(f"the tensors {listed(sorted(different))} are not those that its record describes")


def check_fits(adapter: "Adapter", classifier: Classifier) -> None:
    """Check that an adapter belongs to a classifier.

    Raises:
        InputError: The base, its quantisation, the labels, the pooling, the tokenizer, a site or the problem type
            differs; the message says which, and what to do.
    """
    check_base(adapter, classifier)
    for what, own, other in (
        ("shape is", adapter.problem_type.name, classifier.problem_type.name),
        ("labels are", ", ".join(adapter.labels), ", ".join(classifier.labels)),
        ("pooling is", adapter.pooling, classifier.pooling),
    ):
        if own != other:
            raise InputError(f"the adapter's {what} {own}, the classifier's {other}; load the classifier with {own}")
    _check_head(adapter, classifier)
    added = any(site.added for site in adapter.deltas)
    check_sites(adapter, find_sites(classifier.model, adapter.terms, add=added), type(classifier.model).__name__)
    if classifier.tokenizer is not None:
        check_tokenizer(adapter, tokenizer_facts(classifier.tokenizer, adapter.max_length))


def check_labels(adapter: "Adapter", labels: Sequence[str], data: str) -> None:
    """Check that rows have the labels that an adapter was trained on, where both have some.

    Args:
        data: What the rows are called in the message.

    Raises:
        InputError: The labels are others, or in another order.
    """
    if adapter.labels and labels and tuple(labels) != adapter.labels:
        raise InputError(
            f"{data} is not what this adapter was trained for: its labels are {', '.join(labels)}; those of the "
            f"adapter, from {adapter.dataset}, are {', '.join(adapter.labels)}"
        )


def check_base(adapter: "Adapter", classifier: Classifier) -> None:
    """Check that an adapter was trained over the base of a classifier, quantised in the same way.

    Raises:
        InputError: It was not.
    """
    reference = classifier.reference
    if adapter.base_sha256 != (reference.sha256 if reference else ""):
        here = f"{reference.portable_id} (sha256 {reference.sha256[:12]})" if reference else "a model in memory"
        trained = f"{adapter.base_id} (sha256 {adapter.base_sha256[:12]})" if adapter.base_id else "a model in memory"
        raise InputError(
            f"the adapter was trained over the base {trained}, not over {here}; load the one that it names"
        )
    if reference is not None:
        check_contents(adapter, reference)
    _check_quantization(adapter, classifier)


def check_sites(adapter: "Adapter", found: Iterable[BiasSite], model: str) -> None:
    """Check that an adapter's bias sites are those of a model.

    Args:
        found: The sites that the model has for the adapter's terms.
        model: The name of its class, for the message.

    Raises:
        InputError: They are not.
    """
    if different := set(found) ^ set(adapter.deltas):
        raise InputError(
            f"the bias sites of the adapter and of {model} differ "
            f"({listed(sorted(site.name for site in different))}); {_ANOTHER_MODEL}"
        )


def check_tokenizer(adapter: "Adapter", now: Mapping[str, int | str]) -> None:
    """Check that a tokenizer does what the one did that the adapter was trained with.

    Args:
        now: ``tokenizer_facts`` of the tokenizer.

    Raises:
        InputError: It does not.
    """
    known = adapter.facts.tokenizer if adapter.facts else {}
    if changed := sorted(key for key, value in known.items() if now.get(key) != value):
        raise InputError(
            f"the base's tokenizer is not the one that the adapter was trained with ({', '.join(changed)} differ), so "
            "its answers would be wrong; use the base that the adapter names, and the versions of transformers and "
            "tokenizers that it was trained with"
        )


def check_contents(adapter: "Adapter", reference: BaseReference) -> None:
    """Check the files of a base that its first hash leaves out; an adapter that does not record them is not checked.

    Raises:
        InputError: They are others than when the adapter was trained.
    """
    trained, here = adapter.base_contents, reference.contents
    if trained is None or trained.partition(":")[0] != here.partition(":")[0] or trained == here:
        return
    raise InputError(
        f"the weights in {reference.folder} are those that the adapter was trained over, but another file of the base "
        "was changed since, and answers may be others: tokenizer_config.json, special_tokens_map.json, "
        "added_tokens.json, modules.json, or the config.json of its pooling. Bring back the files as they were, or "
        "train again"
    )


def _check_quantization(adapter: "Adapter", classifier: Classifier) -> None:
    trained, here = adapter.quantization, quantization_of(classifier.model)
    reference = classifier.reference
    if trained is None or trained == here:
        return
    if trained == "none" and reference is not None and stored_quantization(reference.folder) is not None:
        return  # format 1 noted what was asked for; files that are quantised already load in one way only
    raise InputError(
        f"the adapter was trained over {as_quantized(trained)} base, and this base is loaded as {as_quantized(here)} "
        f"one, with which its answers would be wrong; load it with base.quantization: {trained}"
    )


def as_quantized(quantization: Quantization | None) -> str:
    """What a base is called that is quantised so."""
    return "a plain" if quantization in (None, "none") else f"an {quantization} quantised"


class OverBase(Protocol):
    """What is known of the base of something that was trained."""

    @property
    def base_id(self) -> str:
        """The base's portable id."""

    @property
    def base_sha256(self) -> str:
        """The hash of the base's files."""

    @property
    def base_contents(self) -> str | None:
        """The second hash of the base's files; None: not recorded."""

    @property
    def quantization(self) -> Quantization | None:
        """How the base was quantised; None: not recorded."""


def check_one_base(adapters: Mapping[str, OverBase]) -> None:
    """Check that all adapters were trained over the same base, quantised in the same way.

    Raises:
        InputError: There is no adapter, or two of them were not; the message names both.
    """
    if not adapters:
        raise InputError("there is no adapter to merge")
    (first, reference), *others = adapters.items()
    for name, adapter in others:
        if adapter.base_sha256 != reference.base_sha256:
            raise InputError(
                f"adapters of different bases do not fit together: {first} has {_base(reference)}, "
                f"{name} has {_base(adapter)}"
            )
    contents = {adapter.base_contents for adapter in adapters.values() if adapter.base_contents is not None}
    if len(contents) > len({one.partition(":")[0] for one in contents}):
        raise InputError(
            "adapters of one base whose tokenizer or pooling was set up in another way in between do not fit together: "
            f"{', '.join(adapters)}; train them over the same files"
        )
    known = [
        (name, adapter.quantization)
        for name, adapter in adapters.items()
        # Format 1, which holds no contents, noted what was asked for: "none" may be a base whose files are quantised.
        if adapter.quantization is not None and (adapter.quantization, adapter.base_contents) != ("none", None)
    ]
    for name, quantization in known[1:]:
        if quantization != known[0][1]:
            raise InputError(
                f"adapters of differently quantised bases do not fit together: {known[0][0]} was trained over "
                f"{as_quantized(known[0][1])} base, {name} over {as_quantized(quantization)} one; train them over "
                "the same"
            )


def _base(adapter: OverBase) -> str:
    return f"{adapter.base_id or 'a base without an id'} (sha256 {adapter.base_sha256[:12] or 'unknown'})"


class Answering(Protocol):
    """What is known of an adapter that answers."""

    @property
    def pairs(self) -> bool | None:
        """Whether it reads pairs of texts; None: not recorded."""

    @property
    def takes_choices(self) -> bool:
        """Whether it chooses among choices that each row brings."""


def check_inputs(adapter: Answering, *, pairs: bool, choices: bool) -> None:
    """Check that an adapter is given the kind of rows that it was trained on.

    Args:
        pairs: Whether the rows have a second text.
        choices: Whether they have choices of their own.

    Raises:
        InputError: It is not; the message says what to give.
    """
    if adapter.pairs and not pairs:
        raise InputError(
            "this adapter was trained on pairs of texts and got single texts: give the second text of each "
            "(pairs=…; in a table a column text_pair; on the command line --pairs, with a tab between the two)"
        )
    if adapter.pairs is False and pairs:
        raise InputError("this adapter was trained on single texts and got pairs: give one text a row, without pairs")
    if adapter.takes_choices and not choices:
        raise InputError(
            "this adapter chooses among the choices of each text, and got none: give them (choices=…; in a table a "
            "column choices; on the command line --choice, once for each)"
        )
    if choices and not adapter.takes_choices:
        raise InputError("this adapter was not trained to choose among a row's own choices; give the texts alone")


_ANOTHER_MODEL = "the adapter belongs to another model, or to another version of transformers"


def _check_head(adapter: "Adapter", classifier: Classifier) -> None:
    shapes = {name: tuple(value.shape) for name, value in classifier.model.named_parameters()}
    for name, value in adapter.head.items():
        if shapes.get(name) != tuple(value.shape):
            there = list(shapes[name]) if name in shapes else "no such parameter"
            raise InputError(
                f"the head's {name} has shape {list(value.shape)}, {type(classifier.model).__name__} has {there}; "
                f"{_ANOTHER_MODEL}"
            )
    needed = set(classifier.head_parameters(adapter.head_train))
    needed |= set(classifier.newly_initialized) if classifier.pooling == "model" else set()
    if missing := sorted(needed - set(adapter.head)):
        raise InputError(f"the adapter's head lacks {listed(missing)}, which the base's files do not hold either")


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
