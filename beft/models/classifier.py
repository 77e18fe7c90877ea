"""A frozen base with a classification head: from a batch of tokens to logits."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from beft.encoding.examples import AnyRows, LabelledRows
from beft.encoding.masked import with_mask
from beft.encoding.tokenization import token_limit
from beft.errors import InputError
from beft.models.pooling import pool
from beft.models.reference import BaseReference
from beft.models.tokenizer_loading import check_end_tokens, check_token_ids
from beft.problems.classification import Classification
from beft.problems.problem_type import ProblemType
from beft.sites.batch_axis import Batch as Batch
from beft.sites.offloading import attached_forward, input_device

# The head of a ForSequenceClassification model, and its last layer, under every name that transformers gives them.
HEADS = ("classifier", "pre_classifier", "score", "classification_head")


_SEEN: ContextVar[list[Tensor] | None] = ContextVar("what an output layer sees", default=None)
"""Where the forward pass of this thread keeps what the output layer sees; None: nowhere."""


def _keep_seen(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    """One hook for all calls, with a context variable for each: threads that share a model would meet each other's."""
    seen = _SEEN.get()
    if seen is not None:
        seen.append(args[0])


@contextmanager
def seen_by_output_layer() -> Iterator[list[Tensor]]:
    """Within the context, a list that gets what the output layer sees in each forward pass of this thread."""
    seen: list[Tensor] = []
    kept = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(kept)


class Classifier(nn.Module):
    """A ``…ForSequenceClassification`` model whose head may see another pooling than the model's own.

    Args:
        model: The transformers model; all of it is frozen here.
        tokenizer: Its tokenizer.
        reference: Where the base came from; None for a model made in memory.
        labels: Names of the classes, in the order of the logits.
        pooling: ``model`` (the model's own head), or what the head's output layer alone then sees of the last hidden
            states: ``mean`` over the tokens of the text, ``cls`` (the first token's), another of
            ``beft.models.pooling``, or ``mask``: what the base's masked-language-model head makes of a mask token that
            is put after the text.
        newly_initialized: Names of the parameters that the base's files do not hold: random, and so part of an adapter.
        problem_type: What its outputs mean; None: classification.
        mask_head: For the pooling ``mask``, as ``beft.models.heads.mask_head`` loads it.

    Attributes:
        threads: CPU threads that it is computed with, whatever the process uses; None: as many as the process does.
    """

    threads: int | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        reference: "BaseReference | None",
        labels: tuple[str, ...],
        pooling: str = "model",
        newly_initialized: tuple[str, ...] = (),
        problem_type: ProblemType | None = None,
        mask_head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.reference = reference
        self.labels = labels
        self.pooling = pooling
        self.newly_initialized = newly_initialized
        self.problem_type = problem_type or Classification()
        self.mask_head = mask_head
        self.output_name, self.output_layer = _output_layer(model, self.problem_type.outputs(len(labels)))
        if _keep_seen not in self.output_layer._forward_pre_hooks.values():  # a copy of a model brings it along
            self.output_layer.register_forward_pre_hook(_keep_seen)
        if pooling != "model" and self.output_layer.in_features != model.config.hidden_size:
            raise InputError(f"head.pooling {pooling!r} does not fit this base: its output layer sees another width")

    def with_model(self, model: Any) -> "Classifier":
        """The same classifier over another copy of its model, perhaps one that computes in another type."""
        mask_head = self.mask_head
        if mask_head is not None:
            mask_head = copy.deepcopy(mask_head).to(input_device(model), next(model.parameters()).dtype)
        return self._over(model, self.pooling, mask_head)

    def with_pooling(self, pooling: str, mask_head: nn.Module | None = None) -> "Classifier":
        """The same model under a head that sees another pooling."""
        return self._over(self.model, pooling, mask_head)

    def _over(self, model: Any, pooling: str, mask_head: nn.Module | None) -> "Classifier":
        of_base = (self.tokenizer, self.reference, self.labels)
        over = type(self)(model, *of_base, pooling, self.newly_initialized, self.problem_type, mask_head)
        over.threads = self.threads
        return over

    def examples(self, rows: AnyRows, max_length: int, *, training: bool = False) -> LabelledRows:
        """Encode rows in the classifier's shape, see ``ProblemType.examples``.

        Raises:
            InputError: The rows lack something that the problem type needs, or hold a token without an embedding.
        """
        found = self.encoded(self.problem_type, rows, max_length, self.pooling, training=training)
        check_token_ids(self.tokenizer, self.model, found.encoded, found.sizes)
        if found.prompts is not None:
            check_token_ids(self.tokenizer, self.model, found.prompts)
        if self.pooling == "model" and self.model.config.is_encoder_decoder:
            check_end_tokens(self.tokenizer, self.model, found.encoded, found.sizes)
        return found

    def encoded(
        self, problem_type: ProblemType, rows: AnyRows, max_length: int, pooling: str, *, training: bool = False
    ) -> LabelledRows:
        """Rows in the shape of a problem type, with the mask token that the pooling ``mask`` reads.

        Raises:
            InputError: As ``ProblemType.examples``, or the tokenizer has no mask token.
        """
        if pooling != "mask":
            return problem_type.examples(self.tokenizer, rows, max_length, training=training)
        room = token_limit(self.tokenizer, max_length) - 1
        found = problem_type.examples(self.tokenizer, rows, room, training=training)
        return replace(found, encoded=with_mask(found.encoded, self.tokenizer))

    @property
    def head_sees_pooled(self) -> bool:
        """Whether what the head's output layer sees are the pooled features that linear baselines are fitted on."""
        return self.pooling == "mean"

    @property
    def reads_at_marked_token(self) -> bool:
        """Whether the head reads a text at a token that is put behind it, which the text's first tokens alone lack."""
        return self.pooling == "mask" or (self.pooling == "model" and self.model.config.is_encoder_decoder)

    @property
    def device(self) -> torch.device:
        """Where a batch goes, and where the logits come back: that of the embeddings, where the base is on several."""
        return input_device(self.model)

    def forward(self, batch: Batch) -> Tensor:
        """The outputs of each sequence (logits, a value or a score) in fp32 or wider, [sequences, outputs]."""
        if self.pooling == "model":
            logits: Tensor = self.model(**batch).logits
        else:
            dropout = getattr(self.model, "dropout", None)
            pooled = self.pooled(batch, self.pooling)
            pooled = dropout(pooled) if isinstance(dropout, nn.Dropout) else pooled
            logits = self.output_layer(pooled.to(self._head_type(pooled))).to(self.device)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _head_type(self, pooled: Tensor) -> torch.dtype:
        """The type that the output layer takes: its weight's, or any where a bank computes it in a wider one."""
        weight = self.output_layer.weight
        own = attached_forward(self.output_layer) is None and weight.is_floating_point()
        return weight.dtype if own else pooled.dtype

    def pooled(self, batch: Batch, pooling: str = "mean") -> Tensor:
        """The last hidden states (the decoder's, where there is one) pooled over the tokens of each text.

        Returns:
            Of shape [rows, hidden].
        """
        return self.pool(self.last_hidden(batch), batch, pooling)

    def pool(self, hidden: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Last hidden states [rows, tokens, hidden] pooled over the tokens of each text, [rows, hidden]."""
        if pooling != "mask":
            return pool(hidden, batch["attention_mask"], pooling)
        assert self.mask_head is not None
        masks = (batch["input_ids"] == self.tokenizer.mask_token_id).to(hidden.device)
        last = (masks * torch.arange(masks.shape[1], device=hidden.device)).argmax(1)  # a text may hold others
        seen: Tensor = self.mask_head(hidden[torch.arange(len(hidden), device=hidden.device), last])
        return seen

    def last_hidden(self, batch: Batch) -> Tensor:
        """The last hidden states (the decoder's, where there is one), [rows, tokens, hidden]."""
        hidden: Tensor = self.model.base_model(**batch, **self._of_decoder(batch)).last_hidden_state
        return hidden

    def _of_decoder(self, batch: Batch) -> dict[str, Tensor]:
        """What a decoder on top of an encoder reads where the base model itself does not know it: the text, shifted."""
        shift = getattr(self.model.base_model, "_shift_right", None)
        return {} if shift is None else {"decoder_input_ids": shift(batch["input_ids"])}

    def head_features(self, batch: Batch) -> Tensor:
        """What the head's output layer sees, of shape [rows, features of the output layer]."""
        if self.pooling != "model":
            return self.pooled(batch, self.pooling)
        return self.outputs_and_features(batch)[1]

    def outputs_and_features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Both of one pass: those of ``forward``, and what the head's output layer sees of each sequence."""
        with seen_by_output_layer() as seen:
            outputs = self(batch)
        features = seen[-1]
        if features.dim() == 2:
            return outputs, features
        # A decoder scores every token and takes the last one that is not the padding token, though it be of the text.
        positions = torch.arange(features.shape[1], device=features.device)
        others = batch["input_ids"].to(features.device) != self.model.config.pad_token_id
        last = (others * positions).argmax(1)
        return outputs, features[torch.arange(len(features), device=features.device), last]

    def head_parameters(self, train: str = "output") -> tuple[str, ...]:
        """Names of the head's trained parameters, in the order of the model.

        Args:
            train: ``output`` (the last linear layer), ``full`` (the whole head that the pooling uses) or ``paper``
                (the output layer and, in BERT, the pooler's bias).
        """
        named = dict(self.model.named_parameters())
        output = tuple(name for name in named if name.startswith(f"{self.output_name}."))
        if train == "full" and self.pooling == "model":
            return tuple(name for name in named if name.split(".", 1)[0] in HEADS or ".pooler." in f".{name}")
        if train == "paper" and self.pooling == "model":
            return (*(name for name in named if name.endswith("pooler.dense.bias")), *output)
        return output


def _output_layer(model: nn.Module, outputs: int) -> tuple[str, nn.Linear]:
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if name.split(".", 1)[0] in HEADS and isinstance(module, nn.Linear) and module.out_features == outputs
    ]
    if not layers:
        heads = ", ".join(name for name, _ in model.named_children())
        raise InputError(f"no classification head with {outputs} outputs in {type(model).__name__} (it has: {heads})")
    return layers[-1]
