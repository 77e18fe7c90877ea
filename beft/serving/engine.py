"""One frozen base with the vectors of all its adapters, and one forward pass for rows of any mix of them."""

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from beft.adapters.adapter import Adapter
from beft.adapters.checks import check_base, check_sites, check_tokenizer, listed
from beft.bank.forwards import upcast_bias
from beft.bank.frozen_forwards import ONE_VECTOR, rows_forward
from beft.encoding.tokenization import Encoded
from beft.encoding.tokenizer_facts import tokenizer_facts
from beft.errors import InputError
from beft.inference.batching import tokens_at_once
from beft.inference.questions import Questions, check_questions
from beft.models.base import load_classifier
from beft.models.classifier import Classifier
from beft.models.device import Compute
from beft.models.heads.mask_head import load_mask_head
from beft.models.reference import BaseReference
from beft.models.tokenizer_loading import check_end_tokens, check_token_ids
from beft.problems.classification import Classification
from beft.process_state import cpu_threads
from beft.serving.forwards import ServedBatch, ServedBias, ServedForward, ServedHeadForward, narrow_input
from beft.serving.served_adapter import EncodedRow, HeadRows, ServedAdapter
from beft.serving.vector_table import VectorTable
from beft.serving.word_heads import word_head, word_outputs
from beft.sites.batch_axis import measure_row_axes, one_axis
from beft.sites.layout import submodule
from beft.sites.offloading import attach_forward, attached_forward, detach_forward, module_device
from beft.sites.site import BiasSite, find_sites, site_module

_TWO_TEXTS = ("a fine film", "not good, and much too long")
"""Two rows tell which axis of a module's output is that of the rows."""
_ON_CPU = 512
"""Tokens of a batch on CPUs: larger ones answer no more rows a second, are padded more, and take longer."""
_PLACEHOLDER = ("0", "1")
"""Labels of the output layer that the model itself has, whose outputs nobody reads."""


class Engine:
    """A base in memory, and the adapters over it. ``load`` may be called while another thread computes ``outputs``.

    Args:
        reference: The base.
        compute: Device, precision, threads and quantisation, resolved.

    Attributes:
        forwards: How many forward passes of the base there were.
    """

    def __init__(self, reference: BaseReference, compute: Compute) -> None:
        self.reference, self.compute = reference, compute
        self.classifier: Classifier = load_classifier(reference, _PLACEHOLDER, compute=compute, pooling="model")
        self._narrowing = self.classifier.output_layer.register_forward_pre_hook(narrow_input)
        self.forwards = 0
        wide = torch.promote_types(compute.dtype, torch.float32)
        self._dtype = wide
        self._batch = ServedBatch()
        self._tables: dict[BiasSite, VectorTable] = {}
        self._weights: dict[tuple[int, int], VectorTable] = {}
        self._biases: dict[int, VectorTable] = {}
        self._served: dict[str, nn.Module] = {}
        self._sites: dict[tuple[tuple[str, ...], bool], tuple[BiasSite, ...]] = {}
        self._facts: dict[int, dict[str, int | str]] = {}
        self._shapes = {name: tuple(value.shape) for name, value in self.classifier.model.named_parameters()}
        self._lock = threading.RLock()

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch that suit the device, padding counted."""
        return _ON_CPU if self.classifier.device.type == "cpu" else tokens_at_once(self.classifier, None)

    @property
    def table_bytes(self) -> int:
        """Memory of all tables, spare rows included."""
        return sum(table.bytes for table in (*self._tables.values(), *self._weights.values(), *self._biases.values()))

    def reserve(self, like: Sequence[Adapter]) -> None:
        """Make room for adapters that will be loaded, so that no table grows for each of them."""
        sites: dict[BiasSite, int] = {}
        heads: dict[torch.Size, int] = {}
        with self._lock:
            for adapter in like:
                if not adapter.problem_type.has_head:
                    continue
                try:
                    weight, bias = self._output_head(adapter)
                except InputError:  # load says why it is refused
                    continue
                for site in adapter.deltas:
                    sites[site] = sites.get(site, 0) + 1
                heads[weight.shape] = heads.get(weight.shape, 0) + 1
                if bias is not None:
                    heads[bias.shape] = heads.get(bias.shape, 0) + 1
            for site, count in sites.items():
                self._table(site).reserve(count)
            for shape, count in heads.items():
                table = self._weight_table(*shape) if len(shape) == 2 else self._bias_table(*shape)
                table.reserve(count)

    def load(self, adapter: Adapter) -> ServedAdapter:
        """Put an adapter into the tables.

        Raises:
            InputError: It does not fit the base as it is loaded here, or it cannot be answered in a mixed batch.
        """
        if not adapter.problem_type.has_head:
            raise InputError(
                f"adapters of the problem type {adapter.problem_type.name!r} are not served: they have no head, and "
                "answer by a language model's own tokens; use 'beft predict'"
            )
        if self.compute.precision == "fp32" and any(value.dtype == torch.float64 for value in adapter.head.values()):
            raise InputError("the adapter was trained in fp64; serve it with --precision fp64")
        with self._lock:
            self._check(adapter)
            if adapter.pooling == "mask" and self.classifier.mask_head is None:
                self.classifier.mask_head = load_mask_head(self.reference.folder, self.compute)
            weight, bias = self._output_head(adapter)
            inner = {} if adapter.problem_type.reads_words else self._inner_head(adapter)
            self._touch(adapter, inner)
            taken: list[tuple[VectorTable, int]] = []
            try:
                rows = {site: self._row(self._table(site), delta, taken) for site, delta in adapter.deltas.items()}
                weights = self._weight_table(*weight.shape)
                biases = None if bias is None else self._bias_table(len(bias))
                of_weight = self._row(weights, weight, taken)
                of_bias = 0 if biases is None or bias is None else self._row(biases, bias, taken)
            except BaseException:
                _release(taken)
                raise
        bytes_here = sum(table.rows[0].numel() * table.rows.element_size() for table, _ in taken)
        served = ServedAdapter(
            sha256=adapter.sha256,
            labels=adapter.labels,
            problem_type=adapter.problem_type,
            pooling=adapter.pooling,
            max_length=adapter.max_length,
            pairs=adapter.pairs,
            takes_choices=adapter.takes_choices,
            rows=rows,
            head=HeadRows(weights, biases, of_weight, of_bias),
            inner_head=inner,
            bytes=bytes_here + sum(value.numel() * value.element_size() for value in inner.values()),
        )
        weakref.finalize(served, _release, taken)
        return served

    def features(self) -> ServedAdapter:
        """What answers a row with the base's own features, pooled by their mean, beside the rows of any adapter."""
        return ServedAdapter("", (), Classification(), "mean", 1, None, False, {}, None, {}, 0)

    def encode(
        self,
        adapter: ServedAdapter,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        choices: Sequence[Sequence[str]] | None = None,
        *,
        max_length: int | None = None,
    ) -> list[EncodedRow]:
        """The rows of one adapter's questions, in their order.

        Args:
            max_length: Tokens that texts are cut to, where it is less than the adapter's.

        Raises:
            InputError: Something among the texts is no text, or the adapter does not take such rows.
        """
        questions: Questions = check_questions(adapter, texts, pairs, choices)
        if not texts:
            return []
        tokenizer, model = self.classifier.tokenizer, self.classifier.model
        length = min(max_length or adapter.max_length, adapter.max_length)
        rows = self.classifier.encoded(adapter.problem_type, questions, length, adapter.pooling)
        encoded = rows.encoded
        check_token_ids(tokenizer, model, encoded, rows.sizes)
        if adapter.uses_own_head and model.config.is_encoder_decoder:
            check_end_tokens(tokenizer, model, encoded, rows.sizes)
        sizes = rows.sizes_of(np.arange(len(rows))).tolist()
        found: list[EncodedRow] = []
        start = 0
        for size in sizes:
            span = slice(start, start + size)
            types = None if encoded.type_ids is None else encoded.type_ids[span]
            cut = encoded.cut is not None and bool(encoded.cut[span].any())
            positions = None if encoded.positions is None else encoded.positions[span]
            words = () if rows.words is None else rows.words[len(found)]
            found.append(EncodedRow(adapter, encoded.input_ids[span], types, cut, positions, words))
            start += size
        return found

    @torch.inference_mode()
    def outputs(self, rows: Sequence[EncodedRow]) -> list[Tensor]:
        """The outputs of each row's sequences (or words), fp64, [sequences, outputs of its adapter]: one forward pass.

        Rows whose adapters let the model's own head pool need a forward pass of their own (``uses_own_head``).
        """
        found: list[Tensor | None] = [None] * len(rows)
        for own_head in (False, True):
            numbers = [number for number, row in enumerate(rows) if row.adapter.uses_own_head == own_head]
            if numbers:
                outputs = self._forward([rows[number] for number in numbers], own_head=own_head)
                for number, of_row in zip(numbers, outputs, strict=True):
                    found[number] = of_row
        return [of_row for of_row in found if of_row is not None]

    def close(self) -> None:
        """Give the base back bit for bit."""
        with self._lock:
            for module in self._served.values():
                detach_forward(module)
            self._served = {}
            self._narrowing.remove()

    def _forward(self, rows: Sequence[EncodedRow], *, own_head: bool) -> list[Tensor]:
        sequences = [(row.adapter, ids) for row in rows for ids in row.input_ids]
        adapters = [adapter for adapter, _ in sequences]
        types: list[list[int]] = []
        for row in rows:
            types += row.type_ids or []
        ids = [tokens for _, tokens in sequences]
        lengths = np.array([len(tokens) for tokens in ids], dtype=np.int64)
        encoded = Encoded(ids, types or None, lengths, 0, self.classifier.tokenizer.pad_token_id)
        batch = encoded.batch(range(len(ids)), self.classifier.device)
        with self._lock, cpu_threads(self.classifier.threads):
            self._batch.set(adapters, self._tables)
            try:
                self.forwards += 1
                if own_head:
                    features, words = {"model": self.classifier.head_features(batch)}, {}
                else:
                    hidden = self.classifier.last_hidden(batch)
                    features = {
                        pooling: self.classifier.pool(hidden, batch, pooling)
                        for pooling in {one.pooling for one in adapters if not one.problem_type.reads_words}
                    }
                    words = word_outputs(rows, hidden, self._dtype)
                outputs = self._heads(adapters, features, words)
            finally:
                self._batch.clear()
        found, start = [], 0
        for row in rows:
            stop = start + len(row.input_ids)
            of_words = row.adapter.problem_type.reads_words
            found.append((torch.cat if of_words else torch.stack)(outputs[start:stop]))
            start = stop
        return found

    def _heads(
        self, adapters: Sequence[ServedAdapter], features: dict[str, Tensor], words: dict[int, Tensor]
    ) -> list[Tensor]:
        """The outputs of each sequence: one gather and one product for all heads of one shape; but ``words``."""
        groups: dict[tuple[VectorTable, VectorTable | None, str], list[int]] = {}
        found = dict(words)
        for number, adapter in enumerate(adapters):
            if number in words:
                continue
            if adapter.head is None:
                found[number] = features[adapter.pooling][number].double().cpu()
                continue
            groups.setdefault((adapter.head.weights, adapter.head.biases, adapter.pooling), []).append(number)
        for (weights, biases, pooling), numbers in groups.items():
            device = weights.rows.device
            seen = features[pooling][torch.tensor(numbers, device=features[pooling].device)].to(device, self._dtype)
            heads = [head for number in numbers if (head := adapters[number].head) is not None]
            weight = weights.rows[torch.tensor([head.weight for head in heads], device=device)]
            outputs = torch.bmm(weight, seen.unsqueeze(-1)).squeeze(-1)
            if biases is not None:
                outputs = outputs + biases.rows[torch.tensor([head.bias for head in heads], device=device)]
            found |= dict(zip(numbers, outputs.double().cpu().unbind(), strict=True))
        return [found[number] for number in range(len(adapters))]

    def _check(self, adapter: Adapter) -> None:
        classifier = self.classifier
        check_base(adapter, classifier)
        key = (adapter.terms, any(site.added for site in adapter.deltas))
        if key not in self._sites:
            self._sites[key] = find_sites(classifier.model, key[0], add=key[1])
        check_sites(adapter, self._sites[key], type(classifier.model).__name__)
        if adapter.max_length not in self._facts:
            self._facts[adapter.max_length] = tokenizer_facts(classifier.tokenizer, adapter.max_length)
        check_tokenizer(adapter, self._facts[adapter.max_length])

    def _output_head(self, adapter: Adapter) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of an adapter's output layer."""
        if adapter.problem_type.reads_words:
            return word_head(adapter, self.classifier.model)
        name, layer = self.classifier.output_name, self.classifier.output_layer
        weight, bias = adapter.head.get(f"{name}.weight"), adapter.head.get(f"{name}.bias")
        outputs = adapter.problem_type.outputs(len(adapter.labels))
        if weight is None or tuple(weight.shape) != (outputs, layer.in_features):
            shape = "none" if weight is None else list(weight.shape)
            raise InputError(
                f"the output layer of the adapter's head ({name}.weight) has the shape {shape}; over this base it must "
                f"be [{outputs}, {layer.in_features}]"
            )
        return weight, bias

    def _inner_head(self, adapter: Adapter) -> dict[str, Tensor]:
        """The parameters of an adapter's head below its output layer, on the device."""
        name, parameters = self.classifier.output_name, dict(self.classifier.model.named_parameters())
        inner = {key: value for key, value in adapter.head.items() if not key.startswith(f"{name}.")}
        wrong = [key for key, value in inner.items() if self._shapes.get(key) != tuple(value.shape)]
        if wrong or (inner and not adapter.pooling == "model"):
            raise InputError(f"the head's {listed(wrong or sorted(inner))} does not fit this base's model")
        if adapter.pooling == "model":
            drawn = {key for key in self.classifier.newly_initialized if not key.startswith(f"{name}.")}
            if missing := sorted(drawn - set(inner)):
                raise InputError(
                    f"the adapter's head lacks {listed(missing)}, which the base's files do not hold either"
                )
        return {
            key: value.to(parameters[key].device, torch.promote_types(value.dtype, parameters[key].dtype))
            for key, value in inner.items()
        }

    def _touch(self, adapter: Adapter, inner: dict[str, Tensor]) -> None:
        """Stand behind the modules of an adapter that no adapter before it touched."""
        model = self.classifier.model
        sites = {site.module: site for site in adapter.deltas if site.module not in self._served}
        heads = {key.rpartition(".")[0] for key in inner} - set(self._served)
        if clash := {site.module for site in adapter.deltas} & {key.rpartition(".")[0] for key in inner}:
            raise InputError(f"the adapter has a bias site and a part of its head in {listed(sorted(clash))}")
        modules = {path: site_module(model, site) for path, site in sites.items()}
        for path in heads:
            found = submodule(model, path)
            assert found is not None  # the shapes of its parameters were checked
            modules[path] = found
        if not modules:
            return
        # The own head of an encoder and decoder reads at an end token, which its tokenizer need not put behind a text.
        classifier = self.classifier if adapter.pooling == "model" else self.classifier.with_pooling("mean")
        axes = self._axes(classifier, modules)
        forwards: dict[str, ServedForward | ServedHeadForward] = {}
        for path, module in modules.items():
            if attached_forward(module) is not None:
                raise InputError(f"{path}: another tool's forward is attached already")
            if path in heads:
                forwards[path] = ServedHeadForward(path, module, self._batch, axes[path])
                continue
            if type(module) not in ONE_VECTOR:
                raise InputError(f"{path} is a {type(module).__name__}, behind which no biases can be served")
            axis = axes[path]
            if axis is None:
                raise InputError(f"{path} does not keep the rows of a batch apart, so it cannot be served")
            bias = ServedBias(path, upcast_bias(module), self._batch)
            rows = rows_forward(module)(path, module, bias, self._batch, axis)
            forwards[path] = ServedForward(path, module, rows, self._batch)
        for path, forward in forwards.items():
            attach_forward(modules[path], forward)
            self._served[path] = modules[path]

    def _axes(self, classifier: Classifier, modules: dict[str, nn.Module]) -> dict[str, int | None]:
        """Where each module keeps the rows of a batch: measured on two texts."""
        tokens = self.classifier.tokenizer(list(_TWO_TEXTS))["input_ids"]
        encoded = Encoded(
            tokens, None, np.array([len(row) for row in tokens]), 0, self.classifier.tokenizer.pad_token_id
        )
        with torch.inference_mode(), self._without_adapters():
            batch = encoded.batch(range(2), self.classifier.device)
            measured = measure_row_axes(classifier, modules, batch)
        return {path: one_axis(measured[path]) if measured else None for path in modules}

    @contextmanager
    def _without_adapters(self) -> Iterator[None]:
        """Within the context, every module computes as the base does."""
        attached = {path: attached_forward(module) for path, module in self._served.items()}
        for module in self._served.values():
            detach_forward(module)
        try:
            yield
        finally:
            for path, forward in attached.items():
                assert forward is not None
                attach_forward(self._served[path], forward)

    def _row(self, table: VectorTable, value: Tensor, taken: list[tuple[VectorTable, int]]) -> int:
        row = table.add(value)
        taken.append((table, row))
        return row

    def _table(self, site: BiasSite) -> VectorTable:
        if site not in self._tables:
            device = module_device(site_module(self.classifier.model, site))
            self._tables[site] = VectorTable((site.width,), self._dtype, device)
        return self._tables[site]

    def _weight_table(self, outputs: int, features: int) -> VectorTable:
        make = partial(VectorTable, (outputs, features), self._dtype, module_device(self.classifier.output_layer))
        return self._weights.get((outputs, features)) or self._weights.setdefault((outputs, features), make())

    def _bias_table(self, outputs: int) -> VectorTable:
        make = partial(VectorTable, (outputs,), self._dtype, module_device(self.classifier.output_layer))
        return self._biases.get(outputs) or self._biases.setdefault(outputs, make())


def _release(taken: list[tuple[VectorTable, int]]) -> None:
    for table, row in taken:
        table.release(row)
