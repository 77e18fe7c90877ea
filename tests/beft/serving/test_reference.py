"""What later traffic is compared with: of each row what a server keeps of it, also where it has several sequences."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from beft.inference.predictor import Predictor
from beft.inference.questions import Questions
from beft.problems.token_classification import TokenClassification
from beft.serving import reference as references
from beft.serving.engine import Engine
from beft.serving.reference import DriftReference
from tests.beft.serving.adapters import CHOICES, COMPUTE, Kind, draw_adapter, tiny_base

TEXTS = ["a good film", "dull", "the film was long, and dull. " * 6, "漢 a good 漢 漢"]
WITH_CHOICES = Questions(TEXTS, choices=[("bad", "good"), ("long and dull", "good", "漢"), ("x", "y"), ("a", "b")])
NAMES = Kind(("person", "place"), problem_type=TokenClassification(2), pooling="model", seed=3, max_length=12)


@pytest.mark.parametrize(
    ("kind", "rows", "sequences"),
    [
        (Kind(), Questions(TEXTS), [1, 1, 1, 1]),
        (CHOICES, WITH_CHOICES, [2, 3, 2, 2]),
        (NAMES, Questions(TEXTS), None),
    ],
    ids=["texts", "choices", "windows"],
)
def test_each_row_is_described_as_a_server_describes_it(
    kind: Kind, rows: Questions, sequences: list[int] | None, tmp_path: Path
) -> None:
    base = tiny_base(tmp_path / "base")
    adapter = draw_adapter(base, kind)
    adapter.save(tmp_path / "adapter")
    predictor = Predictor(tmp_path / "adapter", base=base.folder)
    found = DriftReference.of(predictor, rows, rows)

    engine = Engine(base, COMPUTE)
    served = engine.encode(engine.load(adapter), rows.texts, rows.pairs, rows.choices)
    counts = [len(row.input_ids) for row in served]
    assert counts == sequences if sequences else max(counts) > 1
    assert found.lengths.tolist() == [row.length for row in served]
    unknown = engine.classifier.tokenizer.unk_token_id
    shares = [sum(ids.count(unknown) for ids in row.input_ids) / row.length for row in served]
    assert found.unknown == pytest.approx(shares) and max(shares) > 0
    outputs = engine.outputs([replace(row, adapter=engine.features()) for row in served])
    described = np.array([of_row.mean(0).numpy() for of_row in outputs])
    np.testing.assert_allclose(found.features, described, atol=2e-3)  # fp16
    engine.close()


def test_the_tokens_of_whole_rows_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(tmp_path / "base")
    draw_adapter(base, CHOICES).save(tmp_path / "adapter")
    predictor = Predictor(tmp_path / "adapter", base=base.folder)
    examples = predictor.classifier.examples(WITH_CHOICES, predictor.adapter.max_length)
    monkeypatch.setattr(references, "_MAX_TOKENS", int(examples.tokens[:2].sum()))
    assert len(DriftReference.of(predictor, WITH_CHOICES, WITH_CHOICES).lengths) == 2
    monkeypatch.setattr(references, "_MAX_TOKENS", 1)
    assert len(DriftReference.of(predictor, WITH_CHOICES, WITH_CHOICES).lengths) == 1


def test_a_file_of_an_older_beft_is_told(tmp_path: Path) -> None:
    rows = np.zeros(3, np.float32)
    DriftReference(np.zeros((3, 2), np.float16), rows.astype(np.int32), rows, rows, rows).write(tmp_path / "new")
    assert DriftReference.read(tmp_path / "new").of_rows
    save_file(load_file(tmp_path / "new"), tmp_path / "old")
    old = DriftReference.read(tmp_path / "old")
    assert not old.of_rows
    old.write(tmp_path / "again")
    assert not DriftReference.read(tmp_path / "again").of_rows
