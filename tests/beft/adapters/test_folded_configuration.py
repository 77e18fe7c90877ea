"""An exported model answers as the adapter does, whatever its base was tuned for before."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from beft.adapters.adapter import Adapter
from beft.inference.predictor import Predictor
from beft.models.base import load_classifier
from beft.models.device import Compute
from beft.models.reference import resolve_base
from beft.problems.classification import Classification
from beft.problems.language_model import LanguageModeling
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.problem_type import ProblemType
from beft.problems.regression import Regression
from tests.support.shapes import PROMPT, letter_tokenizer
from tests.support.tiny_bases import LABELS, TEXTS, make_adapter, tiny_tokenizer

torch.set_num_threads(1)

# A head of five tags, and whatever else configurations hold of a task that the base was tuned for.
TAGS = {number: f"tag {number}" for number in range(5)}
OLD = {
    "id2label": TAGS,
    "label2id": {name: number for number, name in TAGS.items()},
    "finetuning_task": "sst5",
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "function_to_apply": "none",
    "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"},
    "sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid",
}


def export(model: Any, tokenizer: Any, root: Path, shape: ProblemType, labels: tuple[str, ...]) -> Predictor:
    """Save a base, and an adapter of it folded into a plain model; what predicts with the adapter itself."""
    model.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    reference = resolve_base(str(root / "base"))
    classifier = load_classifier(
        reference, labels, compute=Compute("cpu", "fp32", 1), pooling="model", problem_type=shape
    )
    adapter = make_adapter(classifier)
    adapter.save(root / "adapter")
    Adapter.load(root / "adapter").fold(classifier, root / "plain")
    return Predictor(root / "adapter", base=root / "base", device="cpu")


def configuration(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


@pytest.mark.parametrize(
    "problem", ["multi_label_classification", "regression", "single_label_classification", None], ids=str
)
def test_a_pipeline_gives_the_probabilities_of_the_adapter(
    problem: str | None, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny("bert", num_labels=5, problem_type=problem, **OLD)
    predictor = export(model, tiny_tokenizer(), tmp_path, Classification(), LABELS)
    answers = pipeline("text-classification", model=str(tmp_path / "plain"), top_k=None)(list(TEXTS))
    for found, row in zip(answers, predictor.predict(TEXTS), strict=True):
        assert {one["label"]: one["score"] for one in found} == pytest.approx(row["probabilities"], abs=1e-5)
    kept = configuration(tmp_path / "plain")
    assert not set(OLD) - {"id2label", "label2id"} & {name for name, value in kept.items() if value is not None}
    assert kept["id2label"] == {str(number): label for number, label in enumerate(LABELS)}
    assert kept["label2id"] == {label: number for number, label in enumerate(LABELS)}


@pytest.mark.parametrize("problem", ["multi_label_classification", "single_label_classification", None], ids=str)
def test_a_pipeline_gives_the_value_of_the_adapter(
    problem: str | None, tiny: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny("bert", num_labels=5, problem_type=problem, **OLD)
    predictor = export(model, tiny_tokenizer(), tmp_path, Regression(), ())
    answers = pipeline("text-classification", model=str(tmp_path / "plain"))(list(TEXTS))
    assert {found["label"] for found in answers} == {"value"}
    values = [row["value"] for row in predictor.predict(TEXTS)]
    assert [found["score"] for found in answers] == pytest.approx(values, abs=1e-5)


def test_scores_of_choices_are_no_tags(tiny: Callable[..., Any], tmp_path: Path) -> None:
    old = {**OLD, "id2label": {0: "toxic"}, "custom_pipelines": {"text-classification": {"impl": "other.Pipeline"}}}
    model = tiny("bert", num_labels=1, problem_type="multi_label_classification", **old)
    export(model, tiny_tokenizer(), tmp_path, MultipleChoice(), ())
    kept = configuration(tmp_path / "plain")
    assert (kept["id2label"], kept.get("problem_type")) == ({"0": "score"}, None)
    assert not kept.get("custom_pipelines")


def test_a_generating_model_answers_greedily(tiny: Callable[..., Any], tmp_path: Path) -> None:
    tokenizer = letter_tokenizer()
    model = tiny("qwen2", causal=True, vocab_size=len(tokenizer), task_specific_params=OLD["task_specific_params"])
    model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=5.0)
    shape = LanguageModeling(PROMPT, free=True, max_new_tokens=6)
    predictor = export(model, tokenizer, tmp_path, shape, ())
    texts = ["abc", "a", "hhg"]
    made = pipeline("text-generation", model=str(tmp_path / "plain"))(
        [PROMPT.text(text) for text in texts], return_full_text=False
    )
    found = [answer["generated_text"].split("\n")[0].strip() for [answer] in made]
    assert found == [row["answer"].replace("\n", "|") for row in predictor.predict(texts)]
