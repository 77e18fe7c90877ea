"""A frozen causal language model without a head: from a batch of tokens to the log-likelihood of its answers."""

from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from beft.errors import InputError
from beft.models.classifier import Classifier
from beft.models.reference import BaseReference
from beft.problems.problem_type import ProblemType
from beft.sites.batch_axis import Batch
from beft.sites.offloading import input_device

_WANTED: ContextVar[tuple[Tensor, Tensor] | None] = ContextVar("rows and positions with logits", default=None)
"""Where the forward pass of this thread makes logits; None: everywhere."""


def _where_wanted(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Keep of the last hidden states what logits are wanted of: the vocabulary is large.

    One hook for all calls, with a context variable for each: threads that share a model would meet each other's hooks.
    """
    wanted = _WANTED.get()
    if wanted is None:
        return None
    rows, positions = (index.to(args[0].device) for index in wanted)
    return args[0][rows, positions].unsqueeze(0), *args[1:]


class LanguageModel(Classifier):
    """A ``…ForCausalLM`` model in the place of a classifier: its output is a score of each sequence.

    The score is the mean log-likelihood of the answer's tokens, given all before them: length-normalised, as in
    "Language Models are Few-Shot Learners" (arXiv 2005.14165, section 2.4).

    Args:
        model: The transformers model; all of it is frozen here.
        tokenizer: Its tokenizer.
        reference: Where the base came from; None for a model made in memory.
        labels: Names of the classes; none for rows with choices or answers of their own.
        problem_type: ``candidates`` or ``language_model``.

    Raises:
        InputError: The model has no output embeddings.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        reference: "BaseReference | None",
        labels: tuple[str, ...],
        problem_type: ProblemType,
    ) -> None:
        nn.Module.__init__(self)
        output = model.get_output_embeddings()
        if output is None:
            raise InputError(f"{type(model).__name__} is no language model: it has no output embeddings")
        if _where_wanted not in output._forward_pre_hooks.values():  # a copy of a model brings it along
            output.register_forward_pre_hook(_where_wanted)
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.reference = reference
        self.labels = labels
        self.pooling = "model"
        self.newly_initialized = ()
        self.problem_type = problem_type

    def with_model(self, model: Any) -> "LanguageModel":
        """The same over another copy of its model."""
        return LanguageModel(model, self.tokenizer, self.reference, self.labels, self.problem_type)

    @property
    def device(self) -> torch.device:
        """Where a batch goes, and where the scores come back."""
        return input_device(self.model)

    def forward(self, batch: Batch) -> Tensor:
        """The mean log-likelihood of each sequence's answer, in fp32 or wider, [sequences, 1].

        Args:
            batch: With ``answer_mask``, 1 at the tokens of the answers, which never start a sequence.
        """
        inputs = dict(batch)
        rows, positions = inputs.pop("answer_mask").nonzero(as_tuple=True)
        expected = batch["input_ids"][rows, positions]
        wanted = _WANTED.set((rows, positions - 1))
        try:
            logits: Tensor = self.model(**inputs, use_cache=False).logits[0].to(self.device)
        finally:
            _WANTED.reset(wanted)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        each = torch.log_softmax(wide, -1).gather(1, expected[:, None])[:, 0]
        sums = each.new_zeros(len(batch["input_ids"])).index_add(0, rows, each)
        means: Tensor = sums / torch.bincount(rows, minlength=len(sums)).to(sums)
        return means[:, None]

    def head_features(self, batch: Batch) -> Tensor:
        """What there is in the place of a head's features: the scores."""
        return self.forward(batch)

    def head_parameters(self, train: str = "output") -> tuple[str, ...]:
        """None: there is no head."""
        return ()
