"""The steps from raw files to the merge matrix in every shape; what was trained predicts the same alone."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
import yaml
from scipy.stats import pearsonr
from sklearn.metrics import f1_score

from beft.adapters.adapter import Adapter
from beft.comparison.evaluation import evaluate_adapters
from beft.comparison.measuring import measure_many
from beft.datasets.prepared import PreparedData, load_split, load_summary
from beft.errors import InputError, SettingsError
from beft.files import read_json
from beft.inference.predictor import Predictor
from beft.training.opening import check_base, open_session
from tasks.pipeline import find_step, input_keys
from tasks.run_metadata import check_settings
from tasks.settings import PipelineSettings
from tasks.steps.predictions import read_predictions
from tests.conftest import build_tiny
from tests.support.shapes import LETTERS, letter_tokenizer
from tests.support.tiny_bases import WORDS, save_base

STEPS = ("fetch", "prepare", "probe", "score", "train", "evaluate", "merge")
TRAINING = {"epochs": 1, "learning_rate": 0.02, "batch_size": 8}


def encoder_rows(shape, chooser):
    text = " ".join(chooser.choices(WORDS, k=5))
    if shape == "regression":
        return {"text": text, "label": text.count("good") + chooser.random() / 10}
    if shape == "multi_label":
        return {"text": text, "labels": [word for word in ("good", "film", "was") if word in text.split()]}
    if shape == "token_classification":
        words = [(found.start(), found.end(), found[0]) for found in re.finditer("good|film", text)]
        return {"text": text, "spans": [{"start": start, "end": end, "label": word} for start, end, word in words]}
    choices = [chooser.choice(WORDS) for _ in range(chooser.randrange(2, 4))]
    return {"text": text, "choices": choices, "label": chooser.randrange(len(choices))}


def decoder_rows(shape, chooser):
    text = "".join(chooser.choices(LETTERS, k=7))
    if shape == "classification":
        return {"text": text, "label": "yes" if text[-1] in "abcd" else "no"}
    if shape == "multiple_choice":
        return {"text": text, "choices": [text[-1].upper(), "W", "XY"], "label": 0}
    return {"text": text, "answers": [text[-1].upper() * 2, "ZZ"]}


def described(shape):
    """A dataset's description, by its shape, in the field's terms."""
    roles = {"regression": ["label"], "classification": ["label"], "multi_label": ["labels"], "generation": ["answers"]}
    roles["token_classification"] = ["spans"]
    columns = {"text": "text"} | {role: role for role in roles.get(shape, ["choices", "label"])}
    found = {"title": shape, "version": 1, "shape": shape, "columns": columns}
    if shape == "classification":
        found["labels"] = ["no", "yes"]
    if shape == "token_classification":
        found |= {"labels": ["film", "good"], "metrics": ["entity_f1", "entity_recall"]}
    if shape == "multi_label":
        found |= {"labels": ["film", "good", "was"], "metrics": ["micro_f1", "subset_accuracy"]}
    return found


def run_chain(root, base, rows_of, shapes, prompts):
    for shape in shapes:
        chooser, rows = random.Random(0), {}
        while len(rows) < 160:
            row = rows_of(shape, chooser)
            rows.setdefault(row["text"], json.dumps(row))
        files = root / "data" / "datasets"
        files.mkdir(parents=True, exist_ok=True)
        (files / f"{shape}.jsonl").write_text("\n".join(rows.values()) + "\n")
        source = {"kind": "files", "train": f"data/datasets/{shape}.jsonl"}
        description = described(shape) | {"source": source} | prompts.get(shape, {})
        (files / f"{shape}.yaml").write_text(yaml.safe_dump(description))
    settings = PipelineSettings.from_mapping(
        {
            "base": {"source": str(base), "threads": 1, "precision": "fp32"},
            "datasets": {shape: {"size": 60, "max_length": 24} for shape in shapes},
            "split": {"test_rows": 30, "gate_rows": 30},
            "probe": TRAINING,
            "train": TRAINING,
            "score": {"candidates": ["query", "value"]},
            "evaluate": {"resamples": 100, "max_new_tokens": 4},
            "merge": {"methods": ["mean"]},
        }
    )
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        # pictures take a third of the time, and are tested elsewhere
        patch.setattr("beft.studies.heatmap.draw_heatmap", lambda *_, **__: None)
        for name in STEPS:
            step = find_step(name)
            for dataset in settings.datasets if step.per_dataset else [None]:
                key = name if dataset is None else f"{name}/{dataset}"
                inputs = {given: folders[other] for given, other in input_keys(step, settings, dataset).items()}
                folders[key] = root / "out" / key
                folders[key].mkdir(parents=True)
                step.function(settings, inputs, folders[key], dataset=dataset)
    return folders, settings


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoder")
    base = save_base(root / "base", build_tiny("bert"), pooling="mean")
    return run_chain(
        root, base, encoder_rows, ("regression", "multi_label", "token_classification", "multiple_choice"), {}
    )


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    root = tmp_path_factory.mktemp("decoder")
    tokenizer = letter_tokenizer()
    model = build_tiny("opt", causal=True, vocab_size=len(tokenizer), tie_word_embeddings=False)
    model.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    prompts = {
        "classification": {"prompt": {"template": "{text}=", "answers": {"no": "n!", "yes": "yes"}}},
        "multiple_choice": {"prompt": {"template": "{text}=", "answer": "{choice}"}},
        "generation": {"prompt": {"template": "{text}=", "answer": "{answer}"}},
    }
    return run_chain(root, root / "base", decoder_rows, ("classification", "multiple_choice", "generation"), prompts)


CASES = [
    ("encoder", "regression", ("head_only", "ridge_regression")),
    ("encoder", "multi_label", ("head_only", "logistic_regression")),
    ("encoder", "token_classification", ("head_only", "logistic_regression")),
    ("encoder", "multiple_choice", ("head_only", "conditional_logit")),
    ("decoder", "classification", ("untouched", "logistic_regression")),
    ("decoder", "multiple_choice", ("untouched",)),
    ("decoder", "generation", ("untouched",)),
]


@pytest.mark.parametrize(("base", "shape", "baselines"), CASES)
def test_every_shape_is_evaluated_beside_its_baselines(base, shape, baselines, request):
    folders, _ = request.getfixturevalue(base)
    found = read_json(folders[f"evaluate/{shape}"] / "evaluation.json")
    metric = load_summary(folders[f"prepare/{shape}"])["metric"]
    assert found["baselines"] == list(baselines)
    assert found["metrics"][0] == metric
    test = found["splits"]["test"]
    assert set(test["scores"]) == {*baselines, "all_biases", found["target"]}
    assert set(test["gains"]) == set(found["splits"]["gate"]["gains"]) == set(baselines)
    matrix = read_json(folders["merge"] / "merge.json")["matrix"][shape]
    assert matrix["scores"][shape][metric]["value"] == test["scores"][found["target"]][metric]["value"]


@pytest.mark.parametrize(("base", "shape", "baselines"), CASES)
def test_an_adapter_alone_predicts_what_was_evaluated(base, shape, baselines, request):
    """The record holds the shape and the prompt; the dataset is not needed."""
    folders, settings = request.getfixturevalue(base)
    folder = folders[f"train/{shape}"] / "adapter"
    rows = load_split(folders[f"prepare/{shape}"], "test")
    target = read_json(folders[f"train/{shape}"] / "train.json")["target"]
    evaluated = read_predictions(folders[f"evaluate/{shape}"] / "predictions.parquet", target, "test")
    predictor = Predictor(folder, base=settings.base.source)
    answered = predictor.predict(rows.texts, rows.pairs, rows.choices)
    if shape == "generation":
        assert [row["answer"] for row in answered] == evaluated
    elif shape == "regression":
        np.testing.assert_allclose([row["value"] for row in answered], evaluated, atol=1e-5)
        stored = read_json(folders["evaluate/regression"] / "evaluation.json")["splits"]["test"]["scores"][target]
        assert stored["pearson"]["value"] == pytest.approx(pearsonr(evaluated, rows.labels)[0], abs=1e-6)
    elif shape == "token_classification":
        found = [
            [(span["start"], span["end"], predictor.labels.index(span["label"])) for span in row["spans"]]
            for row in answered
        ]
        assert found == [[tuple(span[:3]) for span in of_row] for of_row in evaluated]
        assert all(
            span["text"] == text[span["start"] : span["end"]]
            for text, row in zip(rows.texts, answered, strict=True)
            for span in row["spans"]
        )
        given, true = (
            {(row, *span) for row, spans in enumerate(one) for span in spans}
            for one in (found, [list(map(tuple, of_row)) for of_row in rows.spans])
        )
        assert given and true
        stored = read_json(folders["evaluate/token_classification"] / "evaluation.json")["splits"]["test"]["scores"][
            target
        ]
        assert stored["entity_f1"]["value"] == pytest.approx(2 * len(given & true) / (len(given) + len(true)))
        assert stored["entity_recall"]["value"] == pytest.approx(len(given & true) / len(true))
    elif shape == "multi_label":
        labels, thresholds = predictor.labels, predictor.adapter.problem_type.thresholds
        probabilities = np.array([[row["probabilities"][label] for label in labels] for row in answered])
        given = np.array([[label in row["labels"] for label in labels] for row in answered])
        assert (given == (probabilities >= thresholds)).all() and (given == (evaluated >= 0.5)).all()
        truth = np.array([[number in of_row for number in range(3)] for of_row in rows.labels])
        stored = read_json(folders["evaluate/multi_label"] / "evaluation.json")["splits"]["test"]["scores"][target]
        assert stored["micro_f1"]["value"] == pytest.approx(f1_score(truth, given, average="micro"), abs=1e-9)
        macro = f1_score(truth, given, average="macro", zero_division=np.nan)
        assert stored["multi_label_macro_f1"]["value"] == pytest.approx(macro, abs=1e-9)
        assert stored["subset_accuracy"]["value"] == pytest.approx((truth == given).all(1).mean(), abs=1e-9)
    elif shape == "classification":
        found = [[row["probabilities"][label] for label in ("no", "yes")] for row in answered]
        np.testing.assert_allclose(found, evaluated, atol=1e-5)
    else:
        for row, values, choices in zip(answered, evaluated, rows.choices, strict=True):
            np.testing.assert_allclose(row["probabilities"], values[: len(choices)], atol=1e-5)
            assert row["choice"] == choices[int(values.argmax())]
    assert Adapter.load(folder).problem_type.to_json() == predictor.classifier.problem_type.to_json()


@pytest.mark.parametrize(
    ("shape", "linear"),
    [
        ("regression", "ridge_regression"),
        ("multi_label", "logistic_regression"),
        ("token_classification", "logistic_regression"),
        ("multiple_choice", "conditional_logit"),
    ],
)
def test_methods_side_by_side_find_the_baselines_of_the_steps(shape, linear, encoder):
    folders, settings = encoder
    session = open_session(settings, PreparedData.from_folder(folders[f"prepare/{shape}"]))
    found = measure_many(session, [("logistic_regression", 0), ("head_only", 0)], progress=lambda _: None)
    tuning = read_json(folders[f"evaluate/{shape}"] / "evaluation.json")["tuning"]
    for result, name in zip(found, (linear, "head_only"), strict=True):
        assert result.dev == pytest.approx(tuning[name]["dev"], abs=1e-6)


def searched(encoder, shape):
    """A session in which the way of training is chosen by cross-validation, and the training."""
    folders, settings = encoder
    train = settings.train.model_copy(update={"method": "auto", "search_minutes": 0.01, "epochs": 2})
    prepared = PreparedData.from_folder(folders[f"prepare/{shape}"])
    session = open_session(settings.model_copy(update={"train": train}), prepared)
    return session, session.train(("value",))


def test_label_sets_are_searched_without_dev_rows_and_measured_beside_baselines_of_the_same_folds(encoder):
    session, trained = searched(encoder, "multi_label")
    own = trained.adapter.problem_type
    assert own.to_json() == trained.choice.problem_type.to_json() and own.to_json()["thresholds"] != [0.5] * 3
    found = evaluate_adapters(session, {"value": trained.adapter}, target="value")
    assert list(found.evaluation.baselines) == ["head_only", "logistic_regression"]
    rows = session.rows("test")
    for name in ("value", *found.evaluation.baselines):
        given = np.asarray(found.predictions[name]["test"]) >= 0.5
        score = found.evaluation.splits["test"].scores[name]["micro_f1"].value
        assert score == pytest.approx(f1_score(rows.labels, given, average="micro"), abs=1e-9)
    assert found.tuning["logistic_regression"]["folds"] == found.tuning["head_only"]["folds"] == 5


def test_tags_are_searched_without_dev_rows_and_measured_beside_baselines_of_the_same_folds(encoder):
    session, trained = searched(encoder, "token_classification")
    assert [one.failed for one in trained.choice.compared] == [None] * len(trained.choice.compared)
    found = evaluate_adapters(session, {"value": trained.adapter}, target="value")
    truth = {(row, *span) for row, spans in enumerate(session.data.rows("test").spans) for span in spans}
    assert truth
    for name in ("value", "head_only", "logistic_regression"):
        given = {(row, *span[:3]) for row, spans in enumerate(found.predictions[name]["test"]) for span in spans}
        score = found.evaluation.splits["test"].scores[name]["entity_f1"].value
        assert score == pytest.approx(2 * len(given & truth) / (len(given) + len(truth)), abs=1e-9)
    assert found.tuning["logistic_regression"]["folds"] == found.tuning["head_only"]["folds"] == 5


def test_what_is_not_searched_is_refused_before_anything_runs(encoder):
    folders, settings = encoder
    settings = settings.model_copy(update={"train": settings.train.model_copy(update={"method": "auto"})})
    prepared = PreparedData.from_folder(folders["prepare/multiple_choice"])
    refused = r"train\.method is auto.*not for multiple_choice: use fixed"
    with pytest.raises(InputError, match=refused):
        check_base(settings, prepared)
    with pytest.raises(InputError, match=refused):
        open_session(settings, prepared).train(["value"])
    root = folders["prepare/multiple_choice"]
    while not (root / "data" / "datasets").is_dir():
        root = root.parent
    with pytest.raises(SettingsError, match=refused) as found:
        check_settings(settings, root)
    assert len(found.value.problems) == 1 and found.value.problems[0].startswith("multiple_choice: ")


def test_what_a_decoder_is_opened_as_follows_the_settings(decoder):
    folders, settings = decoder
    prepared = folders["prepare/classification"]

    def shape_under(head, objective="auto"):
        changed = settings.model_copy(
            update={
                "head": settings.head.model_copy(update={"kind": head}),
                "train": settings.train.model_copy(update={"objective": objective}),
            }
        )
        return open_session(changed, PreparedData.from_folder(prepared)).problem_type.name

    assert shape_under("auto") == shape_under("language_model", "candidates") == "candidates"
    assert shape_under("auto", "language_model") == "language_model"
    assert shape_under("classifier") == "classification"


def test_a_registered_model_answers_in_its_shape(encoder, decoder, tmp_path):
    """The pyfunc model gives one column for each thing that is predicted."""
    import importlib.util
    from types import SimpleNamespace

    import mlflow

    from tasks.registry.package import save_model
    from tests.test_mlflow_folder import ROOT

    specification = importlib.util.spec_from_file_location("pyfunc_model", ROOT / "mlflow" / "pyfunc_model.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def answers(chain, shape, table):
        folders, settings = chain
        model = module.AdapterModel()
        adapter = str(folders[f"train/{shape}"] / "adapter")
        model.load_context(SimpleNamespace(artifacts={"adapter": adapter}, model_config={"base": settings.base.source}))
        return model.predict(None, pandas.DataFrame(table, index=[4, 2]))

    found = answers(encoder, "regression", {"text": ["a good film", "dull"]})
    assert list(found.columns) == ["value"] and list(found.index) == [4, 2]
    found = answers(encoder, "multi_label", {"text": ["a good film", "dull"]})
    assert list(found.columns) == ["labels", "probability_film", "probability_good", "probability_was"]
    found = answers(encoder, "token_classification", {"text": ["a good film", "dull"]})
    assert list(found.columns) == ["spans"] and list(found.index) == [4, 2]
    found = answers(
        encoder, "multiple_choice", {"text": ["a", "b"], "choices": [["good", "dull"], ["a", "the", "was"]]}
    )
    assert list(found.columns) == ["choice", "index", "probabilities"]
    assert [len(row) for row in found["probabilities"]] == [2, 3]
    found = answers(decoder, "generation", {"text": ["abc", "d"]})
    assert list(found.columns) == ["answer"]
    chains = [(encoder, "token_classification")]
    chains += [(encoder, "multi_label"), (encoder, "multiple_choice"), (decoder, "generation"), (encoder, "regression")]
    for chain, shape in chains:
        folder = chain[0][f"train/{shape}"] / "adapter"
        adapter, model = Adapter.load(folder), mlflow.models.Model()
        base = Path(chain[1].base.source)
        save_model(tmp_path / shape, folder, adapter, model, base=base, pairs=False, seen=[], metadata={})
        found = mlflow.models.ModelSignature.from_dict(model.signature.to_dict())
        expected = {"multiple_choice": ["choice", "index", "probabilities"], "generation": ["answer"]}
        expected["multi_label"] = ["labels", "probability_film", "probability_good", "probability_was"]
        expected["token_classification"] = ["spans"]
        assert found.outputs.input_names() == expected.get(shape, ["value"])
