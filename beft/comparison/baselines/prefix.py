"""Prefix tuning, as PEFT provides it: trained keys and values before those of the text, in every layer (Li and Liang,
2021, arXiv 2101.00190).

The prefix starts from real activations, as in BEFT's decoder experiments (arXiv 2509.15974): the keys and values that
the base itself computes for tokens drawn at random.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from beft.errors import InputError
from beft.inference.runs import WeightsState
from beft.models.classifier import Batch, Classifier
from beft.process_state import seeded
from beft.sites.batch_axis import evaluating
from beft.sites.offloading import input_device
from beft.training.engine.weight_method import TrainedWeights, WeightMethod, wide

_NAME = "prefix"


class Prefix(WeightMethod):
    """PEFT's prefix tuning without a projection; its encoder and its cache, put before the base's own.

    Encoders work where they take ``past_key_values`` (BERT, RoBERTa, ELECTRA); each token sees the whole prefix.

    Args:
        tokens: Length of the prefix.

    Raises:
        InputError: A length below 1.
    """

    name = "prefix"
    learning_rate = 1e-2
    """A usual one, not tuned here."""
    recomputable = False

    def __init__(self, tokens: int = 5) -> None:
        if tokens < 1:
            raise InputError(f"prefix tuning: a prefix of {tokens} tokens; it must have 1 or more")
        self.tokens = tokens

    def start(self, classifier: Classifier, head: Sequence[str], batch: Batch, seed: int) -> WeightsState:
        """The base's own keys and values of tokens that are drawn uniformly from its vocabulary.

        Raises:
            InputError: The base takes no keys and values from outside.
        """
        from peft import initialize_kv_prefix_from_past_key_values
        from transformers import DynamicCache

        base = _base(classifier.model)
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(base.config.vocab_size, (1, self.tokens), generator=generator).to(classifier.device)
        cache = DynamicCache()
        with torch.no_grad(), evaluating(classifier):
            base(input_ids=tokens, attention_mask=torch.ones_like(tokens), past_key_values=cache)
        if cache.get_seq_length() != self.tokens:
            raise InputError(_unavailable(base))
        wrapped = self._wrapped(base)
        initialize_kv_prefix_from_past_key_values(wrapped, past_key_values=cache)
        return WeightsState({_NAME: _encoded(wrapped).detach().clone()})

    def attached(self, classifier: Classifier, state: WeightsState) -> AbstractContextManager[list[TrainedWeights]]:
        """Within the context every text is read behind the prefix."""
        return self._attached(classifier, state)

    @contextmanager
    def _attached(self, classifier: Classifier, state: WeightsState) -> Iterator[list[TrainedWeights]]:
        base = _base(classifier.model)
        wrapped = self._wrapped(base)
        parameter, value = _encoded(wrapped), state.values.get(_NAME)
        if value is None or value.shape != parameter.shape:
            raise InputError("prefix tuning: the trained prefix belongs to another base; attach it to its own")
        trained = TrainedWeights(_NAME, parameter, value.to(parameter.device))
        longest = min(
            getattr(base.config, "max_position_embeddings", None) or 2**31,
            getattr(classifier.tokenizer, "model_max_length", None) or 2**31,
        )

        def put_before(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
            mask: Tensor = named["attention_mask"]
            rows, width = mask.shape
            if width + self.tokens > longest:
                raise InputError(
                    f"prefix tuning: {width} tokens behind a prefix of {self.tokens} are more than the base's "
                    f"{longest}; use a max_length of {longest - self.tokens}"
                )
            changed = {"attention_mask": torch.cat([mask.new_ones(rows, self.tokens), mask], dim=1)}
            cache = named.get("past_key_values")
            if cache is None or not cache.get_seq_length():  # while text is generated, later steps have it already
                changed["past_key_values"] = wrapped.get_prompt(rows)
            if named.get("position_ids") is not None:
                changed["position_ids"] = named["position_ids"] + self.tokens
            return inputs, {**named, **changed}

        handle = base.register_forward_pre_hook(put_before, with_kwargs=True)
        try:
            yield [trained]
        finally:
            handle.remove()
            trained.release()

    def _wrapped(self, base: Any) -> Any:
        """PEFT's model around the base, which itself stays as it is."""
        from peft import PrefixTuningConfig, TaskType, get_peft_model

        config = PrefixTuningConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=self.tokens)
        with seeded(0, input_device(base)):  # what is drawn is replaced
            wrapped = get_peft_model(base, config)
        parameter = _encoded(wrapped)
        parameter.data = parameter.data.to(wide(next(base.parameters())))
        return wrapped


def _encoded(wrapped: Any) -> nn.Parameter:
    """The prefix itself, [tokens, layers x 2 x key-value width]: keys and values of each layer in turn."""
    parameter: nn.Parameter = wrapped.prompt_encoder[wrapped.active_adapter].embedding.weight
    return parameter


def _base(model: Any) -> Any:
    """The stack of layers under the head.

    Raises:
        InputError: It takes no keys and values from outside.
    """
    base = model.base_model
    # OPT's language model calls the decoder inside its base past the base itself.
    base = base.decoder if base.config.model_type == "opt" else base
    takes = "past_key_values" in inspect.signature(base.forward).parameters
    if not takes or base.config.is_encoder_decoder:
        raise InputError(_unavailable(base))
    return base


def _unavailable(base: Any) -> str:
    why = (
        "has an encoder beside its decoder"
        if base.config.is_encoder_decoder
        else "takes no past_key_values, through which PEFT puts the prefix before its own keys and values"
    )
    return f"prefix tuning is not available for this base: {type(base).__name__} {why}"
