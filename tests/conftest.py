"""What the tests share: tiny random models of every family, never downloaded; one temporary Prefect server."""

import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from tests.support.finished_run import FinishedRun

torch.set_num_threads(1)

# A machine that is busy with something else makes no example wrong, so hypothesis does not watch the clock; fifty
# examples each keep the suite within its minutes.
hypothesis.settings.register_profile("beft", deadline=None, max_examples=50)
hypothesis.settings.load_profile("beft")

LAYERS = 2
HIDDEN = 32
HEADS = 4
INTERMEDIATE = 48
VOCABULARY = 128
LABELS = 3
PAD = 1
END = 2

FAMILIES = (
    "bert",
    "roberta",
    "electra",
    "mpnet",
    "distilbert",
    "deberta-v2",
    "albert",
    "opt",
    "gpt2",
    "gptj",
    "gpt_neox",
    "bloom",
    "qwen2",
    "qwen3",
    "llama",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi",
    "phi3",
    "bart",
    "t5",
)
"""The families that every part is tested with."""

GROUPED = ("qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2", "gemma3_text", "phi3")
"""Those whose queries share keys and values in groups of two heads."""

BIAS_FREE = ("qwen3", "llama", "mistral", "gemma", "gemma2", "gemma3_text", "phi3", "t5")
"""Those without any bias, to which biases are added."""

ENCODER_DECODER = ("bart", "t5")

# What a family calls the sizes that the others call by the names of BERT.
_NAMES: dict[str, dict[str, str]] = {
    "distilbert": {
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
    },
    "opt": {"intermediate_size": "ffn_dim"},
    "gpt2": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
    },
    "gptj": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
    },
    "bloom": {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    "bart": {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "intermediate_size": "encoder_ffn_dim",
    },
    "t5": {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff",
    },
}

# What a family needs besides. Half of each head is rotated where a part is.
_BESIDES: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 16},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "position_buckets": 4,
        "position_biased_input": False,
    },
    "albert": {"embedding_size": 16},
    "gptj": {"rotary_dim": 4},
    "gpt_neox": {"rotary_pct": 0.5},
    "bart": {"decoder_layers": LAYERS, "decoder_attention_heads": HEADS, "decoder_ffn_dim": INTERMEDIATE},
    "t5": {"d_kv": HIDDEN // HEADS, "decoder_start_token_id": PAD},
}


def build_tiny(
    family: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    causal: bool = False,
    of_words: bool = False,
    **overrides: Any,
) -> Any:
    """A tiny random sequence-classification model of a family, in eval mode, its biases not zero.

    Args:
        family: One of FAMILIES.
        seed: Seed of the weights; the global generator is left as it was.
        dtype: Type of the parameters.
        causal: Whether it is a language model, without a head (one from sequence to sequence, if it has an encoder).
        of_words: Whether its head is one on every token.
        overrides: Entries of the family's configuration, under the names of BERT's or its own.
    """
    import transformers

    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 64,
        "num_labels": LABELS,
        "pad_token_id": PAD,
        "bos_token_id": 2,
        "eos_token_id": END,
        **_BESIDES.get(family, {}),
    }
    if family == "opt":
        values["word_embed_proj_dim"] = overrides.get("hidden_size", HIDDEN)
    if family in GROUPED:
        values["num_key_value_heads"] = 2
        values["head_dim"] = HIDDEN // HEADS
    values.update(overrides)
    names = _NAMES.get(family, {})
    config = transformers.AutoConfig.for_model(family, **{names.get(name, name): v for name, v in values.items()})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = ("Seq2SeqLM" if family in ENCODER_DECODER else "CausalLM") if causal else "SequenceClassification"
        head = "TokenClassification" if of_words else head
        model = getattr(transformers, f"AutoModelFor{head}").from_config(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith(".bias"):
                    parameter.normal_(std=0.3)
                elif parameter.dim() > 1:
                    parameter.normal_(std=0.2)
                else:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.to(dtype).eval()


def from_config(family: str, **values: Any) -> Any:
    """A tiny random model of a family that the shared fixture does not build, in fp64."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {
        "vocab_size": 128,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 16,
        "num_labels": 3,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **{**sizes, **values}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
    return model.double().eval()


@pytest.fixture(autouse=True)
def process_stays() -> Iterator[None]:
    """A test that left its own MLflow address behind would send later tests of its process to its registry.

    One that left the code of a registered model on the path would have them import what that model brought along.
    """
    before, path = os.environ.get("MLFLOW_TRACKING_URI"), list(sys.path)
    yield
    if sys.path != path:
        added = [one for one in sys.path if one not in path]
        sys.path[:] = path
        pytest.fail(f"the test left {', '.join(added) or 'another order'} on sys.path: load models in another process")
    after = os.environ.get("MLFLOW_TRACKING_URI")
    if after != before:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        pytest.fail(f"the test left MLFLOW_TRACKING_URI at {after}: open it with tasks.tracking.connection.as_default")


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """``tiny(family, seed=0, dtype=torch.float32, **configuration)``: see ``build_tiny``."""
    return build_tiny


@pytest.fixture(scope="session")
def tiny_batch() -> Callable[..., dict[str, Tensor]]:
    """``tiny_batch(rows=3, length=7, seed=0)``: random token ids, END and padding on the right, and their mask."""

    def build(rows: int = 3, length: int = 7, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
        lengths = torch.randint(max(2, length // 2), length + 1, (rows, 1), generator=generator)
        lengths[0] = length
        mask = (torch.arange(length) < lengths).long()
        ids.scatter_(1, lengths - 1, END)
        return {"input_ids": ids.where(mask.bool(), PAD), "attention_mask": mask}

    return build


@pytest.fixture(scope="session")
def bare() -> Callable[[Any], nn.Module]:
    """``bare(model)``: the base model under the classification head."""

    def base_model(model: Any) -> nn.Module:
        base: nn.Module = model.base_model
        return base

    return base_model


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server with a database of its own, gone at the end of the session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> "FinishedRun":
    """A run over two datasets on a tiny base; its folders are read, never written."""
    from tests.support.finished_run import make_finished_run

    merge = {"methods": ["mean", "task_arithmetic", "ties", "dare", "searched_weights"], "search_budget": 12}
    return make_finished_run(tmp_path_factory.mktemp("finished_run"), {"films": 0, "plays": 1}, merge=merge)
