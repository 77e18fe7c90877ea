"""The adapter: the trained change of the bias terms, the head, and where both came from."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors.torch import save
from torch import Tensor, nn

from beft.adapters.checks import check_complete, check_fits, check_one_base, check_tensors, listed
from beft.adapters.model_facts import ModelFacts
from beft.adapters.peft_format import (
    ModuleFacts,
    PeftPlan,
    adapter_config,
    describe_modules,
    head_tensor_name,
    pack,
    plan_peft,
    site_tensor_name,
    unpack_delta,
)
from beft.adapters.record import (
    FORMAT,
    FORMAT_VERSION,
    PEFT_FILE,
    RECORD_FILE,
    TENSOR_FILE,
    AdapterRecord,
    BasePart,
    FilePart,
    HeadPart,
    InputPart,
    ModulePart,
    PeftPart,
    SitePart,
)
from beft.encoding.tokenizer_facts import tokenizer_facts
from beft.errors import BeftError, InputError
from beft.files import atomic_directory, recover_folder, write_bytes, write_json
from beft.models.classifier import Classifier
from beft.models.quantized import quantization_of
from beft.problems.classification import Classification
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.problem_type import ProblemType
from beft.problems.registry import read_problem_type
from beft.settings import TERMS, Quantization
from beft.sites.site import BiasSite, find_sites

if TYPE_CHECKING:  # both import transformers, which takes half a second; to read an adapter needs neither
    from beft.adapters.folding import FoldReport
    from beft.bank.bank import Bank


@dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """A trained adapter. ``Adapter.trained`` makes one, ``Adapter.load`` reads one.

    Attributes:
        deltas: Trained minus original bias, fp32 or fp64, [width] a site.
        head: The parameters of the head, by their names in the model: the trained ones, and with the model's own
            pooling every other one that the base's files do not hold.
        terms: The bias terms that were trained.
        base_id: The base's portable id.
        base_sha256: The first hash of the base's files, see ``beft.models.reference.base_sha256``.
        labels: Names of the classes, in the order of the logits; none for a problem type without classes.
        pooling: What the head sees, as ``head.pooling`` names it.
        max_length: Tokens that a text is cut to.
        head_train: What of the head was trained: ``output``, ``full`` or ``paper``.
        dataset: The name of the dataset.
        provenance: JSON of the caller's: where the adapter came from. It must hold neither a time nor anything of the
            machine, since it is part of the adapter's bytes.
        problem_type: What the outputs mean, with the prompt where there is one.
        quantization: How the base's linear layers were quantised in the training; None: not recorded.
        base_contents: The second hash of the base's files, see ``beft.models.reference.base_contents``; None: not
            recorded.
        pairs: Whether it reads pairs of texts; None: not recorded.
        facts: What is known of the model; None for an adapter made without it, which PEFT then cannot open.
    """

    deltas: Mapping[BiasSite, Tensor]
    head: Mapping[str, Tensor]
    terms: tuple[str, ...]
    base_id: str
    base_sha256: str
    labels: tuple[str, ...]
    pooling: str
    max_length: int
    head_train: str
    dataset: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    problem_type: ProblemType = field(default_factory=Classification)
    quantization: Quantization | None = None
    base_contents: str | None = None
    pairs: bool | None = None
    facts: ModelFacts | None = None

    @classmethod
    def trained(
        cls,
        classifier: Classifier,
        *,
        terms: Sequence[str],
        deltas: Mapping[BiasSite, Tensor],
        head: Mapping[str, Tensor],
        max_length: int,
        head_train: str,
        dataset: str,
        pairs: bool | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Self:
        """The adapter of what was trained over a classifier.

        Args:
            terms: The bias terms that were trained; every one of their sites must be in ``deltas``.
            head: The head's trained parameters.
            pairs: Whether it was trained on pairs of texts; predicting then takes nothing else. None: it takes both.

        Raises:
            InputError: The deltas or the head do not fit the model, or one is missing.
        """
        model = classifier.model
        expected_head = set(classifier.head_parameters(head_train))
        # A trained parameter that is missing must not be replaced by what was drawn before the training.
        if lacking := sorted(expected_head - set(head)):
            raise InputError(f"the adapter is incomplete: its head lacks {listed(lacking)}")
        head = {name: value.detach().cpu().clone() for name, value in head.items()}
        if classifier.pooling == "model":
            expected_head |= set(classifier.newly_initialized)
            named = dict(model.named_parameters())
            head |= {
                name: named[name].detach().cpu().clone() for name in classifier.newly_initialized if name not in head
            }
        sites = find_sites(model, terms, add=any(site.added for site in deltas))
        adapter = cls(
            deltas={site: delta.detach().cpu().clone() for site, delta in sorted(deltas.items(), key=_site_order)},
            head=head,
            terms=tuple(sorted(terms, key=TERMS.index)),
            base_id=classifier.reference.portable_id if classifier.reference else "",
            base_sha256=classifier.reference.sha256 if classifier.reference else "",
            labels=tuple(classifier.labels),
            pooling=classifier.pooling,
            max_length=max_length,
            head_train=head_train,
            dataset=dataset,
            provenance=dict(provenance or {}),
            problem_type=classifier.problem_type,
            quantization=quantization_of(model),
            base_contents=(classifier.reference.contents if classifier.reference else "") or None,
            pairs=pairs,
            facts=ModelFacts(
                model=type(model).__name__,
                modules=describe_modules(model, deltas, head),
                sites=frozenset(site.name for site in sites),
                head=frozenset(expected_head),
                tokenizer=tokenizer_facts(classifier.tokenizer, max_length) if classifier.tokenizer is not None else {},
            ),
        )
        check_complete(adapter)
        check_fits(adapter, classifier)
        return adapter

    def with_deltas(
        self,
        deltas: Mapping[BiasSite, Tensor],
        *,
        others: Sequence["Adapter"] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> "Adapter":
        """This adapter's head and labels with other deltas, as a merge makes them.

        Args:
            deltas: The new deltas, over the sites of this adapter and those beside it.
            others: Adapters whose terms are part of ``deltas`` as well.

        Raises:
            InputError: An adapter beside this one has another base, or one that was quantised in another way.
        """
        adapters = [self, *others]
        check_one_base({f"adapter {number}": adapter for number, adapter in enumerate(adapters, 1)})
        facts = None
        known = [adapter.facts for adapter in adapters]
        if self.facts is not None and all(known):
            modules: dict[str, ModuleFacts] = {}
            for each in known:
                modules |= each.modules if each else {}
            touched = {site.module for site in deltas} | {name.rpartition(".")[0] for name in self.head}
            facts = replace(
                self.facts,
                modules={path: module for path, module in sorted(modules.items()) if path in touched},
                sites=frozenset().union(*(each.sites for each in known if each)),
            )
        return replace(
            self,
            deltas={site: delta.detach().cpu().clone() for site, delta in sorted(deltas.items(), key=_site_order)},
            terms=tuple(sorted({term for adapter in adapters for term in adapter.terms}, key=TERMS.index)),
            provenance=dict(self.provenance if provenance is None else provenance),
            facts=facts,
        )

    @cached_property
    def sha256(self) -> str:
        """The hash of the tensor file: of what was trained, without where it came from."""
        return hashlib.sha256(self._tensor_bytes).hexdigest()

    @cached_property
    def peft(self) -> PeftPlan:
        """What PEFT can open of this adapter, and why not the whole."""
        return plan_peft(self.deltas, self.head, self.modules, pooling=self.pooling)

    @property
    def bias_parameters(self) -> int:
        """Number of components of all deltas."""
        return sum(delta.numel() for delta in self.deltas.values())

    @property
    def head_parameters(self) -> int:
        """Number of components of the head."""
        return sum(value.numel() for value in self.head.values())

    @property
    def takes_choices(self) -> bool:
        """Whether it chooses among choices that each row brings."""
        return isinstance(self.problem_type, MultipleChoice) and not self.labels and not self.problem_type.generates

    @property
    def modules(self) -> Mapping[str, ModuleFacts]:
        """The facts of the touched modules; none without ``facts``."""
        return self.facts.modules if self.facts else {}

    @cached_property
    def _tensor_bytes(self) -> bytes:
        tensors = pack(self.deltas, self.head, self.modules, self.peft)
        return save(tensors, metadata={"format": "pt"})

    def __repr__(self) -> str:
        parameters = f"{self.bias_parameters:,} bias and {self.head_parameters:,} head parameters"
        return f"{'+'.join(self.terms)} on {self.dataset}: {parameters} over {self.base_id or 'a base in memory'}"

    def save(self, folder: Path | str) -> str:
        """Write the adapter's folder, whole or not at all; an adapter that is there already is replaced.

        Returns:
            The sha256 of the tensor file.

        Raises:
            InputError: The adapter is incomplete, its base has no portable id, or the folder holds other files.
            BeftError: The folder cannot be written.

        Example:
            >>> sha256 = result.adapter.save("adapters/reviews")
        """
        folder = Path(folder)
        check_complete(self)
        if not self.base_id or not self.base_sha256:
            raise InputError(
                "the base was made in memory and has no portable id; save it to a folder and load it there"
            )
        try:
            others = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
            if others := [name for name in others if name not in (RECORD_FILE, TENSOR_FILE, PEFT_FILE)]:
                raise InputError(f"{folder} holds other files ({listed(others)}); name a folder of the adapter's own")
            record = self._record().to_json()
            config = adapter_config(self.peft, self.base_id, "TOKEN_CLS" if self.problem_type.reads_words else None)
            with atomic_directory(folder) as temporary:
                write_bytes(temporary / TENSOR_FILE, self._tensor_bytes)
                write_json(temporary / RECORD_FILE, record)
                if config is not None:
                    write_json(temporary / PEFT_FILE, config)
        except OSError as error:
            raise BeftError(f"the adapter cannot be written to {folder}: {error.strerror or error}") from None
        return self.sha256

    def _record(self) -> AdapterRecord:
        return AdapterRecord(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            base=BasePart(
                id=self.base_id,
                sha256=self.base_sha256,
                model=self.facts.model if self.facts else "",
                quantization=self.quantization,
                contents=self.base_contents,
            ),
            dataset=self.dataset,
            labels=self.labels,
            shape=self.problem_type.to_json(),
            inputs=InputPart(pairs=self.pairs, choices=self.takes_choices),
            pooling=self.pooling,
            max_length=self.max_length,
            terms=self.terms,
            sites=tuple(
                SitePart(site=site.to_json(), tensor=site_tensor_name(site, self.peft))
                for site in sorted(self.deltas, key=_site_key)
            ),
            head=HeadPart(
                train=self.head_train,
                tensors={name: head_tensor_name(name, self.peft) for name in sorted(self.head)},
            ),
            modules={
                path: ModulePart(kind=m.kind, width=m.width, parameters=m.parameters, alike=m.alike)
                for path, m in sorted(self.modules.items())
            },
            tokenizer=dict(self.facts.tokenizer) if self.facts else {},
            peft=PeftPart(opens=self.peft.opens, reasons=(*self.peft.reasons, *self._beyond_peft())),
            provenance=dict(self.provenance),
            tensors=FilePart(file=TENSOR_FILE, bytes=len(self._tensor_bytes), sha256=self.sha256),
        )

    def _beyond_peft(self) -> tuple[str, ...]:
        """What PEFT's format has no place for, though PEFT gives the logits; one sentence each."""
        if not self.problem_type.has_thresholds or self.peft.opens == "no":
            return ()
        return ("the labels' thresholds are no part of the format: read them in shape.thresholds",)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read an adapter's folder, and believe nothing in it unchecked.

        Raises:
            InputError: The folder is no adapter, or is damaged, incomplete or of another format version.

        Example:
            >>> _ = result.adapter.save("adapters/reviews")
            >>> beft.Adapter.load("adapters/reviews").sha256 == result.adapter.sha256
            True
        """
        folder = Path(folder)
        recover_folder(folder)
        record = AdapterRecord.read(folder)
        tensors = record.read_tensors(folder)
        try:
            sites = record.bias_sites()
            named = {**{site.name: name for site, name in sites.items()}, **record.head.tensors}
            if missing := sorted(set(named.values()) - set(tensors)):
                raise InputError(f"no tensor {listed(missing)}")
            adapter = cls(
                deltas={site: unpack_delta(tensors[name], site) for site, name in sites.items()},
                head={name: tensors[tensor] for name, tensor in record.head.tensors.items()},
                terms=record.terms,
                base_id=record.base.id,
                base_sha256=record.base.sha256,
                labels=record.labels,
                pooling=record.pooling,
                max_length=record.max_length,
                head_train=record.head.train,
                dataset=record.dataset,
                provenance=record.provenance,
                problem_type=read_problem_type(record.shape),
                quantization=record.base.quantization,
                base_contents=record.base.contents,
                pairs=record.inputs.pairs,
                facts=ModelFacts(
                    model=record.base.model,
                    modules={path: part.facts() for path, part in record.modules.items()},
                    sites=frozenset(site.name for site in sites),
                    head=frozenset(record.head.tensors),
                    tokenizer=record.tokenizer,
                ),
            )
            if record.inputs.choices not in (None, adapter.takes_choices):
                raise InputError("what it says of choices does not fit its problem type")
            check_complete(adapter)
            check_tensors(adapter, tensors)
        except InputError as error:
            raise InputError(f"{folder} is no valid adapter: {error}. Save it again, or name another") from None
        return adapter

    @contextmanager
    def attached(self, classifier: Classifier) -> Iterator[Classifier]:
        """Put the adapter on a classifier for the length of a block; afterwards the base is as it was, bit for bit.

        Within it, the outputs mean what the adapter's problem type says, its thresholds among it.

        Raises:
            InputError: The adapter does not fit the classifier, or something is attached to it already.
        """
        with self.bank(classifier):
            before, classifier.problem_type = classifier.problem_type, self.problem_type
            try:
                yield classifier
            finally:
                classifier.problem_type = before

    def fold(self, classifier: Classifier, folder: Path) -> "FoldReport":
        """Write a model that plain transformers loads and that gives the adapter's logits; see ``fold_adapter``."""
        from beft.adapters.folding import fold_adapter

        return fold_adapter(self, classifier, folder)

    def bank(self, classifier: Classifier) -> "Bank":
        """The bank that holds this adapter over a classifier, not yet attached.

        Raises:
            InputError: The adapter does not fit the classifier.
        """
        from beft.bank.bank import Bank

        check_fits(self, classifier)
        device = classifier.device
        deltas = {site: delta.to(device) for site, delta in self.deltas.items()}
        return Bank(classifier.model, deltas, self._head_for(classifier.model, device))

    def _head_for(self, model: nn.Module, device: torch.device) -> dict[str, Tensor]:
        """The head, never narrower than the model: what was drawn over a bf16 base is computed in fp32 over fp32."""
        parameters = dict(model.named_parameters())
        return {
            name: value.to(device, torch.promote_types(value.dtype, parameters[name].dtype))
            for name, value in self.head.items()
        }


def _site_key(site: BiasSite) -> tuple[int, int, int, str]:
    return TERMS.index(site.term), site.layer, site.start, site.module


def _site_order(item: tuple[BiasSite, Tensor]) -> tuple[int, int, int, str]:
    return _site_key(item[0])
