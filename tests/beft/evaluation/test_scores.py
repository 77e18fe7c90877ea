"""Law 11, the evaluation of several methods: values, pairing, several seeds, the decision, JSON, and bad input."""

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from beft.errors import InputError
from beft.evaluation.records import Cost, Evaluation
from beft.evaluation.scores import Method, evaluate_methods
from beft.settings import EvaluateSettings

SETTINGS = EvaluateSettings(resamples=1000)
METRICS = ["accuracy", "f1", "matthews"]
ROWS = {"test": 300, "gate": 200}


def probabilities(truth: np.ndarray, right: float, generator: np.random.Generator, labels: int = 2) -> np.ndarray:
    """Probabilities [rows, labels] whose most probable label is the true one in a share ``right`` of the rows."""
    wrong = (truth + generator.integers(1, labels, len(truth))) % labels
    chosen = np.where(generator.random(len(truth)) < right, truth, wrong)
    drawn = generator.random((len(truth), labels)) * 0.4
    drawn[np.arange(len(truth)), chosen] += 1
    return np.asarray(drawn / drawn.sum(1, keepdims=True))


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {split: generator.integers(0, 2, rows) for split, rows in ROWS.items()}


@pytest.fixture(scope="module")
def methods(truth: dict[str, np.ndarray]) -> dict[str, Method]:
    generator = np.random.default_rng(1)

    def one(right: float) -> dict[str, np.ndarray]:
        return {split: probabilities(labels, right, generator) for split, labels in truth.items()}

    def three(right: float) -> dict[str, np.ndarray]:
        return {split: np.stack([probabilities(v, right, generator) for _ in range(3)]) for split, v in truth.items()}

    return {
        "value": Method(three(0.9), Cost(trainable_parameters=2304, seconds=1.5, bias_bytes=9216, head_bytes=3080)),
        "head_only": Method(one(0.6)),
        "logistic_regression": Method(one(0.88)),
        "all_biases": Method(three(0.85)),
    }


@pytest.fixture(scope="module")
def evaluation(methods: dict[str, Method], truth: dict[str, np.ndarray]) -> Evaluation:
    return evaluate_methods(
        methods,
        {split: labels.tolist() for split, labels in truth.items()},
        target="value",
        baselines=["head_only", "logistic_regression"],
        metrics=METRICS,
        settings=SETTINGS,
    )


def test_values_are_scikit_learn_s(
    evaluation: Evaluation, methods: dict[str, Method], truth: dict[str, np.ndarray]
) -> None:
    functions = {"accuracy": accuracy_score, "f1": f1_score, "matthews": matthews_corrcoef}
    for split, labels in truth.items():
        assert evaluation.splits[split].rows == ROWS[split]
        for name, method in methods.items():
            runs = np.asarray(method.predictions[split]).reshape(-1, ROWS[split], 2).argmax(-1)
            for metric, function in functions.items():
                expected = [float(function(labels, run)) for run in runs]
                found = evaluation.splits[split].scores[name][metric]
                assert found.runs == pytest.approx(expected)
                assert found.value == pytest.approx(sum(expected) / len(expected))
                assert found.spread == (pytest.approx(np.std(expected, ddof=1)) if len(runs) > 1 else None)
                assert found.low <= found.value <= found.high


def test_gains_are_paired(evaluation: Evaluation, methods: dict[str, Method], truth: dict[str, np.ndarray]) -> None:
    """The interval of an accuracy gain is the normal one of the per-row differences, not of two separate samples."""
    gain = evaluation.splits["test"].gains["logistic_regression"]["accuracy"]
    right = {
        name: (np.asarray(methods[name].predictions["test"]).reshape(-1, 300, 2).argmax(-1) == truth["test"]).mean(0)
        for name in ("value", "logistic_regression")
    }
    differences = right["value"] - right["logistic_regression"]
    half = 1.96 * differences.std() / np.sqrt(300)
    assert gain.difference == pytest.approx(differences.mean())
    assert gain.low == pytest.approx(differences.mean() - half, abs=0.008)
    assert gain.high == pytest.approx(differences.mean() + half, abs=0.008)
    assert len(gain.runs) == 3
    assert np.mean(gain.runs) == pytest.approx(gain.difference)


def test_a_clear_gain_is_certain_and_a_doubtful_one_is_not(evaluation: Evaluation) -> None:
    for split in ROWS:
        clear = evaluation.splits[split].gains["head_only"]["accuracy"]
        assert clear.certain
        assert clear.low > 0.1
        assert clear.probability == 1.0
        assert clear.p_value == pytest.approx(1 / 1001)
        doubtful = evaluation.splits[split].gains["logistic_regression"]["accuracy"]
        assert not doubtful.certain
        assert 0 < doubtful.probability < 1
    decision = evaluation.decision()
    assert (decision.split, decision.metric, decision.passed) == ("gate", "accuracy", False)
    assert "points over head_only" in decision.reasons[0]
    assert decision.reasons[0].endswith("certain")
    assert decision.reasons[1].endswith("not certain")


def test_the_gain_must_hold_over_each_baseline(methods: dict[str, Method], truth: dict[str, np.ndarray]) -> None:
    def passed(*baselines: str) -> bool:
        return (
            evaluate_methods(
                methods, truth, target="value", baselines=baselines, metrics=["accuracy"], settings=SETTINGS
            )
            .decision("gate")
            .passed
        )

    assert passed("head_only")
    assert not passed("head_only", "logistic_regression")
    assert not passed()


def test_few_differing_rows_are_no_certain_gain(truth: dict[str, np.ndarray]) -> None:
    """Five rows that differ, all one way: the interval alone would call it a gain, the exact test does not."""
    labels = truth["gate"]
    better = np.eye(2)[labels]
    worse = better.copy()
    worse[:5] = worse[:5, ::-1]
    found = evaluate_methods(
        {"value": Method({"gate": better}), "head_only": Method({"gate": worse})},
        {"gate": labels},
        target="value",
        baselines=["head_only"],
        metrics=["accuracy"],
        settings=EvaluateSettings(resamples=4000),
    )
    gain = found.splits["gate"].gains["head_only"]["accuracy"]
    assert gain.low > 0
    assert gain.p_value == pytest.approx(1 / 32, abs=0.012)
    assert not gain.certain


def test_identical_methods_tie(truth: dict[str, np.ndarray]) -> None:
    same = {split: np.eye(2)[labels] * 0.2 + 0.4 for split, labels in truth.items()}
    found = evaluate_methods(
        {"value": Method(same), "head_only": Method(same)},
        truth,
        target="value",
        baselines=["head_only"],
        metrics=METRICS,
        settings=SETTINGS,
    )
    for metric in METRICS:
        gain = found.splits["gate"].gains["head_only"][metric]
        assert (gain.difference, gain.low, gain.high, gain.probability, gain.certain) == (0, 0, 0, 0, False)
    assert not found.decision().passed


def test_constant_predictions_and_a_single_label_give_finite_numbers() -> None:
    constant = np.tile([0.7, 0.2, 0.1], (20, 1))
    found = evaluate_methods(
        {"value": Method({"test": constant}), "head_only": Method({"test": constant[:, ::-1]})},
        {"test": [0] * 20},
        target="value",
        baselines=["head_only"],
        metrics=["accuracy", "macro_f1", "matthews"],
        settings=SETTINGS,
    )
    json.dumps(found.to_json(), allow_nan=False)
    assert found.splits["test"].scores["value"]["matthews"].value == 0
    assert found.splits["test"].scores["value"]["accuracy"].value == 1


def test_the_result_survives_json_and_is_the_same_again(
    evaluation: Evaluation, methods: dict[str, Method], truth: dict[str, np.ndarray]
) -> None:
    written = json.dumps(evaluation.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(written)) == evaluation
    again = evaluate_methods(
        methods,
        truth,
        target="value",
        baselines=["head_only", "logistic_regression"],
        metrics=METRICS,
        settings=SETTINGS,
    )
    assert again == evaluation
    assert evaluation.costs["value"].bias_bytes == 9216
    assert "head_only" not in evaluation.costs


def test_only_target_and_baselines_must_be_on_every_split(
    evaluation: Evaluation, methods: dict[str, Method], truth: dict[str, np.ndarray]
) -> None:
    def evaluate(without_gate: str) -> Evaluation:
        part = Method({"test": methods[without_gate].predictions["test"]})
        return evaluate_methods(
            {**methods, without_gate: part},
            truth,
            target="value",
            baselines=["head_only", "logistic_regression"],
            metrics=METRICS,
            settings=SETTINGS,
        )

    found = evaluate("all_biases")
    assert found.splits["test"] == evaluation.splits["test"]
    assert set(found.splits["gate"].scores) == {"value", "head_only", "logistic_regression"}
    for name in ("value", "head_only"):
        with pytest.raises(InputError, match=f"{name!r} has no predictions on split 'gate'"):
            evaluate(name)


def test_bad_input_is_named(methods: dict[str, Method], truth: dict[str, np.ndarray]) -> None:
    def evaluate(**changes: object) -> None:
        arguments = {"methods": methods, "truth": truth, "target": "value", "baselines": [], "metrics": ["accuracy"]}
        evaluate_methods(**{**arguments, **changes}, settings=SETTINGS)  # type: ignore[arg-type]

    def with_test(values: object) -> dict[str, object]:
        return {"methods": {"value": Method({"test": values})}, "truth": {"test": [0, 1]}}  # type: ignore[dict-item]

    cases: list[tuple[dict[str, object], str]] = [
        ({"metrics": ["acuracy"]}, "Did you mean 'accuracy'"),
        ({"metrics": []}, "no metric"),
        ({"target": "valu"}, "Did you mean 'value'"),
        ({"baselines": ["headonly"]}, "Did you mean 'head_only'"),
        ({"baselines": ["value"]}, "its own baseline"),
        ({"truth": {}}, "no split"),
        ({"truth": {"dev": [0]}}, "no predictions on split 'dev'"),
        (with_test([[0.5, 0.5]]), "for 2 rows"),
        (with_test([[0.5, 0.5], [np.nan, 1]]), "not finite"),
        (with_test([[2.0, -1.0], [0.5, 0.5]]), "sum to 1"),
        (with_test([[0.5, 0.9], [0.5, 0.5]]), "sum to 1"),
        ({**with_test([[1.0], [1.0]])}, "0 to 0, got 0 to 1"),
        ({**with_test(np.full((2, 3), 1 / 3)), "metrics": ["f1"]}, "use macro_f1"),
    ]
    for changes, message in cases:
        with pytest.raises(InputError, match=message):
            evaluate(**changes)
    with pytest.raises(InputError, match="different numbers of labels"):
        evaluate(
            methods={"value": Method({"test": np.eye(2)}), "other": Method({"test": np.eye(3)[:2]})},
            truth={"test": [0, 1]},
        )
    with pytest.raises(InputError, match="Did you mean 'test'"):
        evaluate_methods(
            methods, truth, target="value", baselines=[], metrics=["accuracy"], settings=SETTINGS
        ).decision("tset")
