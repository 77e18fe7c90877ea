"""A mixed batch gives every row what its adapter gives alone (law 4), and an engine keeps its memory."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from beft.errors import InputError
from beft.inference.questions import Questions
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.serving.served_adapter import EncodedRow
from tests.beft.models.test_base_files import entries
from tests.beft.serving.adapters import CHOICES, COMPUTE, REGRESSION, Kind, alone, draw_adapter, engine_with, tiny_base
from tests.support.tiny_bases import TEXTS

POOLED = (
    Kind(),
    Kind(("x", "y", "z"), ("query", "value"), "cls", seed=1),
    Kind(("x", "y", "z"), ("value",), "mean", seed=2),
    Kind(terms=("query",), seed=3, max_length=6),
    Kind(tuple("abcdefg"), ("attention_output", "output"), "max", seed=4),
)


def assert_alike(
    folder: Path,
    family: str,
    kinds: tuple[Kind, ...],
    *,
    forwards: int = 1,
    compute: Compute = COMPUTE,
    atol: float = 1e-5,
) -> None:
    """Every adapter answers every text, all in one batch."""
    base = tiny_base(folder, family)
    adapters = [draw_adapter(base, kind) for kind in kinds]
    engine, served = engine_with(base, adapters, compute=compute)
    rows: list[EncodedRow] = []
    expected = []
    for adapter, one in zip(adapters, served, strict=True):
        choices = [["good", "not good at all", "fine"], ["a", "b"], ["dull", "fine"], ["a", "film"], ["the", "was"]]
        questions = Questions(TEXTS, choices=choices if adapter.takes_choices else None)
        rows += engine.encode(one, questions.texts, choices=questions.choices)
        expected += alone(base, adapter, questions, compute=compute)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    before = engine.forwards
    outputs = engine.outputs([rows[at] for at in order])
    assert engine.forwards - before == forwards
    for at, found in zip(order, outputs, strict=True):
        torch.testing.assert_close(found, expected[at], rtol=0, atol=atol)
    by_adapter = [expected[start].sum().item() for start in range(0, len(rows), len(TEXTS))]
    assert len(set(by_adapter)) == len(kinds)  # the adapters do differ


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra"])
def test_encoders(family: str, tmp_path: Path) -> None:
    assert_alike(tmp_path, family, POOLED)


def test_a_module_that_rows_share(tmp_path: Path) -> None:
    # DeBERTa computes its tables of relative positions by the query's and the key's own projections.
    value = Kind(terms=("value",), seed=1)
    assert_alike(tmp_path, "deberta-v2", (Kind(terms=("output",)), value))
    base = tiny_base(tmp_path, "deberta-v2")
    with pytest.raises(InputError, match="does not keep the rows of a batch apart"):
        engine_with(base, [draw_adapter(base, Kind(terms=("query",)))])


@pytest.mark.parametrize("family", ["gpt2", "opt", "bart"])
def test_decoders(family: str, tmp_path: Path) -> None:
    kinds = (Kind(pooling="last_token"), Kind(("x", "y", "z"), ("query", "value"), "mean", seed=1))
    assert_alike(tmp_path, family, kinds)


def test_a_pooled_adapter_needs_no_end_token(tmp_path: Path) -> None:
    """The own head of an encoder and decoder reads at one; here the tokenizer puts none behind a text."""
    tiny_base(tmp_path, "bart")
    entries(eos_token_id=9)(tmp_path)
    base = resolve_base(str(tmp_path))
    adapter = draw_adapter(base, Kind())
    engine, [served] = engine_with(base, [adapter])
    outputs = engine.outputs(engine.encode(served, TEXTS))
    for found, expected in zip(outputs, alone(base, adapter, Questions(TEXTS)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "gpt2", "bart"])
def test_the_own_head_of_a_model(family: str, tmp_path: Path) -> None:
    kinds = (
        Kind(pooling="model"),
        Kind(("x", "y", "z"), ("query",), "model", "full", seed=1),
        Kind(pooling="model", train="full", seed=2),
    )
    assert_alike(tmp_path, family, kinds)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet", "electra", "bart", "deberta-v2"])
def test_the_own_head_of_a_model_in_bf16(family: str, tmp_path: Path) -> None:
    """The parameters of the adapters' heads stay in fp32."""
    kinds = (Kind(pooling="model"), Kind(("x", "y", "z"), pooling="model", train="full", seed=1))
    assert_alike(tmp_path, family, kinds, compute=Compute("cpu", "bf16", 1), atol=0.05)


def test_both_kinds_of_heads_take_two_forwards(tmp_path: Path) -> None:
    assert_alike(tmp_path, "bert", (Kind(), Kind(pooling="model", seed=1)), forwards=2)


def test_values_and_choices_beside_classes(tmp_path: Path) -> None:
    assert_alike(tmp_path, "bert", (Kind(), REGRESSION, CHOICES))


def test_every_text_that_was_cut_is_told(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    engine, [served] = engine_with(base, [draw_adapter(base, replace(Kind(), max_length=6))])
    rows = engine.encode(served, ["good", "the story was dull dull dull dull", "fine"])
    assert [row.truncated for row in rows] == [False, True, False]
    assert [row.length for row in rows] == [3, 6, 3]


def test_closing_gives_back_the_base(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    engine, _ = engine_with(base, [])
    batch = engine.classifier.tokenizer(list(TEXTS), return_tensors="pt", padding=True)
    before = engine.classifier(batch)
    engine.load(draw_adapter(base, Kind()))
    engine.close()
    assert torch.equal(engine.classifier(batch), before)


def test_memory_does_not_grow_with_reloads(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    adapters = [draw_adapter(base, replace(Kind(), seed=seed)) for seed in range(2)]
    engine, _ = engine_with(base, [])
    kept = engine.load(adapters[0])
    [row] = engine.encode(kept, ["fine"])
    [before] = engine.outputs([row])
    for _ in range(3):
        engine.load(adapters[1])
    gc.collect()
    bytes_then = engine.table_bytes
    for _ in range(100):
        engine.load(adapters[1])
    assert engine.table_bytes == bytes_then
    assert torch.equal(engine.outputs([row])[0], before)  # its rows were never given away


def test_a_request_that_waits_keeps_its_adapter(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    first, second = (draw_adapter(base, replace(Kind(), seed=seed)) for seed in range(2))
    engine, [served] = engine_with(base, [first])
    rows = engine.encode(served, ["fine"])
    expected = engine.outputs(rows)[0]
    del served  # nobody names it any more, but the row waits
    gc.collect()
    for _ in range(40):
        engine.load(second)
    assert torch.equal(engine.outputs(rows)[0], expected)


def test_tables_are_reserved_once(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    adapters = [draw_adapter(base, replace(Kind(), seed=seed)) for seed in range(3)] * 100
    engine, _ = engine_with(base, [])
    engine.reserve(adapters)
    reserved = engine.table_bytes
    served = [engine.load(adapter) for adapter in adapters]
    assert engine.table_bytes == reserved
    assert engine.table_bytes < 1.25 * sum(one.bytes for one in served)


def test_another_base_is_refused(tmp_path: Path) -> None:
    adapter = draw_adapter(tiny_base(tmp_path / "one"), Kind())
    engine, _ = engine_with(tiny_base(tmp_path / "other", "roberta"), [])
    with pytest.raises(InputError, match="was trained over the base"):
        engine.load(adapter)


def test_a_head_of_another_width_is_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    adapter = draw_adapter(base, Kind())
    engine, _ = engine_with(base, [])
    wrong = replace(adapter, head={name: value[..., :1] for name, value in adapter.head.items()})
    with pytest.raises(InputError, match="the output layer of the adapter's head"):
        engine.load(wrong)
    assert engine.table_bytes == 0  # nothing was written


def test_rows_that_an_adapter_does_not_take_are_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path)
    engine, [served] = engine_with(base, [draw_adapter(base, CHOICES)])
    with pytest.raises(InputError, match="chooses among the choices"):
        engine.encode(served, ["fine"])
