"""Fisher information equals a per-example autograd loop through the parameters themselves, for every family."""

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from beft.errors import BeftError, InputError
from beft.importance.methods.fisher import fisher_information
from beft.importance.registry import score
from beft.sites.site import BiasSite, find_sites
from tests.conftest import BIAS_FREE, END, FAMILIES, from_config
from tests.support.components import components

torch.set_num_threads(1)

LENGTHS = (7, 3, 5, 2, 7)
LABELS = (0, 2, 1, 1, 0)


@dataclass
class Plain:
    """The least that a classifier is: a model, and a call from a batch to logits."""

    model: Any

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = self.model(**batch).logits
        return logits


def padded(rows: Sequence[Tensor], pad: int = 1) -> dict[str, Tensor]:
    """A batch padded on the right."""
    ids = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=pad)
    lengths = torch.tensor([[len(row)] for row in rows])
    return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths).long()}


def texts(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 128, (length,), generator=generator) for length in lengths]


def loop(
    model: Any, rows: Sequence[Tensor], labels: Sequence[int], sites: Sequence[BiasSite]
) -> dict[BiasSite, Tensor]:
    """The definition: one example at a time, unpadded, the gradient of the parameter, squared, averaged."""
    model = copy.deepcopy(model).requires_grad_(False).eval()
    parameters = {}
    for site in sites:
        module = model.get_submodule(site.module)
        if site.added and module.bias is None:
            outputs = module.weight.shape[0]
            module.bias = nn.Parameter(torch.zeros(outputs, dtype=module.weight.dtype))
        module.bias.requires_grad_()
        parameters[site] = module.bias
    sums = {site: torch.zeros(site.width, dtype=torch.float64) for site in sites}
    for row, label in zip(rows, labels, strict=True):
        model.zero_grad()
        logits = model(input_ids=row[None], attention_mask=torch.ones_like(row)[None]).logits
        functional.cross_entropy(logits, torch.tensor([label])).backward()
        for site, parameter in parameters.items():
            if parameter.grad is not None:
                sums[site] += parameter.grad[components(site)].double().square()
    return {site: total / len(rows) for site, total in sums.items()}


def assert_same(
    measured: Mapping[BiasSite, Tensor], expected: Mapping[BiasSite, Tensor], *, rtol: float = 1e-9, atol: float = 1e-20
) -> None:
    assert set(measured) == set(expected)
    for site, vector in expected.items():
        # The absolute tolerance is far below every gradient that is not zero in exact arithmetic.
        torch.testing.assert_close(measured[site], vector, rtol=rtol, atol=atol, msg=lambda m, s=site: f"{s.name}: {m}")


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_per_example_loop(tiny: Callable[..., Any], family: str) -> None:
    model = tiny(family, dtype=torch.float64)
    sites = find_sites(model, add=True)
    rows = texts()
    for row in rows:
        row[-1] = END
    batches = [(padded(rows[:3]), torch.tensor(LABELS[:3])), (padded(rows[3:]), list(LABELS[3:]))]
    expected = loop(model, rows, LABELS, sites)

    measured = fisher_information(Plain(model), batches, sites)

    # GPT-J casts queries and keys to fp32.
    assert_same(measured, expected, **({"rtol": 1e-5, "atol": 1e-12} if family == "gptj" else {}))
    assert all(site.added for site in sites) == (family in BIAS_FREE)
    value = [vector for site, vector in measured.items() if site.term == "value"]
    assert all((vector > 0).all() and vector.dtype == torch.float64 for vector in value)


@pytest.mark.parametrize("share", [False, True])
def test_relative_positions_of_deberta_have_no_batch_axis(share: bool) -> None:
    """Its position projections see one table for all rows; shared with the content's, both uses count together."""
    model = from_config(
        "deberta-v2", relative_attention=True, pos_att_type=["c2p", "p2c"], share_att_key=share, position_buckets=4
    )
    attention = "deberta.encoder.layer.{}.attention.self.{}"
    names = ["query_proj", "key_proj", "value_proj"] + ([] if share else ["pos_key_proj", "pos_query_proj"])
    sites = [
        BiasSite("key", layer, attention.format(layer, name), "bias", 0, 32, False)
        for layer in (0, 1)
        for name in names
    ]
    rows = texts()
    calls = CountedCalls(model)

    measured = fisher_information(calls, [(padded(rows, pad=0), LABELS)], sites)

    assert_same(measured, loop(model, rows, LABELS, sites))
    assert calls.rows.count(1) == len(rows)


def test_layers_shared_by_albert_sum_over_uses_before_squaring() -> None:
    model = from_config("albert", num_hidden_layers=3, num_hidden_groups=1, embedding_size=16)
    path = "albert.encoder.albert_layer_groups.0.albert_layers.0."
    sites = [
        BiasSite(term, 0, path + module, "bias", 0, width, False)
        for term, module, width in [("value", "attention.value", 32), ("intermediate", "ffn", 48)]
    ]
    rows = texts()
    calls = CountedCalls(model)

    measured = fisher_information(calls, [(padded(rows, pad=0), LABELS)], sites)

    assert_same(measured, loop(model, rows, LABELS, sites))
    assert 1 not in calls.rows, "every use has a batch axis, so no example is taken alone"


class Awkward(nn.Module):
    """Outputs whose shapes mislead: tokens before rows, rows and tokens on one axis in both orders, and a table.

    The first axis of each can be as long as the batch without being the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, 8)
        self.tokens_first = nn.Linear(8, 8)
        self.rows_flat = nn.Linear(8, 8)
        self.tokens_flat = nn.Linear(8, 8)
        self.table = nn.Linear(8, 8)
        self.pooled = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        self.unused = nn.Linear(8, 8)
        self.positions = nn.Parameter(torch.randn(5, 8))
        self.dropout = nn.Dropout(0.5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        hidden = self.embedding(input_ids)
        rows, tokens, width = hidden.shape
        hidden = hidden + torch.tanh(self.tokens_first(hidden.transpose(0, 1))).transpose(0, 1)
        hidden = hidden + torch.tanh(self.rows_flat(hidden.reshape(-1, width))).view(rows, tokens, width)
        flat = torch.tanh(self.tokens_flat(hidden.transpose(0, 1).reshape(-1, width)))
        hidden = hidden + flat.view(tokens, rows, width).transpose(0, 1)
        table = torch.tanh(self.table(self.positions))
        hidden = self.dropout(hidden * table[torch.arange(tokens) % 5])
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        pooled = torch.tanh(self.pooled((hidden * mask).sum(1) / mask.sum(1)))
        return Output(self.head(pooled))


@dataclass
class Output:
    logits: Tensor


AWKWARD = ("tokens_first", "rows_flat", "tokens_flat", "table", "pooled")


def awkward(modules: Sequence[str] = AWKWARD) -> tuple[Awkward, list[BiasSite]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Awkward().double()
    return model, [BiasSite("output", layer, name, "bias", 0, 8, False) for layer, name in enumerate(modules)]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=7),
    cuts=st.sets(st.integers(1, 6)),
    seed=st.integers(0, 3),
)
def test_neither_the_layout_nor_the_batching_matters(lengths: list[int], cuts: set[int], seed: int) -> None:
    """As many rows as tokens, as many rows as the table is long, batches of one, all rows alike: all the same."""
    model, sites = awkward()
    rows = texts(lengths, seed)
    labels = [int(row.sum()) % 3 for row in rows]
    bounds = sorted({0, len(rows)} | {cut for cut in cuts if cut < len(rows)})
    batches = [(padded(rows[a:b]), labels[a:b]) for a, b in itertools.pairwise(bounds)]

    assert_same(fisher_information(Plain(model), batches, sites), loop(model, rows, labels, sites))


def test_rows_with_the_same_tokens_are_told_apart_by_the_loop() -> None:
    model, sites = awkward()
    row = texts((4,))[0]
    labels = (0, 1, 2)

    measured = fisher_information(Plain(model), [(padded([row] * 3), labels)], sites)

    assert_same(measured, loop(model, [row] * 3, labels, sites))


def test_the_model_is_left_as_it_was() -> None:
    model, sites = awkward()
    model.train()
    model.table.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = texts()

    first = fisher_information(Plain(model), [(padded(rows), LABELS)], sites)
    second = fisher_information(Plain(model), [(padded(rows), LABELS)], sites)

    assert all(torch.equal(first[site], second[site]) for site in sites), "dropout is off"
    assert model.training and model.dropout.training and not model.table.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_failure_gives_the_model_back_too() -> None:
    model, sites = awkward()
    model.train()
    with pytest.raises(IndexError):
        fisher_information(Plain(model), [(padded(texts()), [0, 1, 2, 1, 99])], sites)
    assert model.dropout.training
    assert not any(module._forward_hooks for module in model.modules())


def test_a_model_in_bf16_is_close_to_fp64(tiny: Callable[..., Any]) -> None:
    rows = texts()
    tables = []
    for dtype in (torch.float64, torch.bfloat16):
        model = tiny("bert", dtype=dtype)
        sites = find_sites(model, ["value", "output"])
        information = fisher_information(Plain(model), [(padded(rows), LABELS)], sites)
        tables.append(score("fisher", information=information).mean)
    exact, narrow = tables
    assert narrow == pytest.approx(exact, rel=0.2)


def test_no_examples_is_an_error() -> None:
    model, sites = awkward()
    with pytest.raises(InputError, match="at least one labelled example"):
        fisher_information(Plain(model), [], sites)


def test_a_module_that_is_never_called_is_named() -> None:
    model, sites = awkward(("pooled", "unused"))
    with pytest.raises(BeftError, match="never calls unused"):
        fisher_information(Plain(model), [(padded(texts()), LABELS)], sites)


def test_a_module_that_is_not_there_is_named() -> None:
    model, sites = awkward(("pooled", "poled"))
    with pytest.raises(InputError, match="no module 'poled'"):
        fisher_information(Plain(model), [(padded(texts()), LABELS)], sites)


def test_one_logit_has_no_cross_entropy() -> None:
    model, sites = awkward()
    model.head = nn.Linear(8, 1).double()
    with pytest.raises(InputError, match="two labels or more"):
        fisher_information(Plain(model), [(padded(texts()), [0] * 5)], sites)


def test_a_bias_that_the_loss_does_not_reach_scores_zero() -> None:
    class Idle(Awkward):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            self.unused(self.embedding(input_ids))
            return super().forward(input_ids, attention_mask)

    model = Idle().double().requires_grad_(False)
    site = BiasSite("output", 0, "unused", "bias", 2, 6, False)
    measured = fisher_information(Plain(model), [(padded(texts()), LABELS)], [site])
    assert torch.equal(measured[site], torch.zeros(4, dtype=torch.float64))


def test_the_table_is_the_mean_over_components() -> None:
    information = {
        BiasSite("key", 0, "a", "bias", 0, 2, False): torch.tensor([1.0, 3.0]),
        BiasSite("key", 1, "b", "bias", 0, 2, False): torch.tensor([0.0, 8.0]),
        BiasSite("query", 0, "c", "bias", 0, 3, False): torch.tensor([1.0, 1.0, 1.0]),
    }
    table = score("fisher", information=information)
    assert table.scores == {"query": (1.0,), "key": (2.0, 4.0)}
    assert table.mean == {"query": 1.0, "key": 3.0}


class CountedCalls(Plain):
    """Keeps the number of rows of each call."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.rows: list[int] = []

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        self.rows.append(len(batch["input_ids"]))
        return super().__call__(batch)
