"""The evaluation of values, of texts and of rows that belong together; and of bad input of these kinds."""

import json
import tracemalloc

import numpy as np
import pytest
from scipy.stats import binom, binomtest, kstest, pearsonr, spearmanr
from sklearn.metrics import f1_score

from beft.errors import InputError
from beft.evaluation.bootstrap import bootstrap, paired_permutation_test, percentile_interval, single_units
from beft.evaluation.records import Evaluation, SplitEvaluation
from beft.evaluation.scores import Method, evaluate_methods
from beft.metrics.registry import known_metric
from beft.metrics.truth import Truth
from beft.settings import EvaluateSettings

CORRELATIONS = ["pearson", "spearman"]


def evaluated(
    target: object, baseline: object, truth: Truth, metrics: list[str], resamples: int = 1000, split: str = "gate"
) -> Evaluation:
    return evaluate_methods(
        {"value": Method({split: target}), "head_only": Method({split: baseline})},  # type: ignore[dict-item]
        {split: truth},
        target="value",
        baselines=["head_only"],
        metrics=metrics,
        settings=EvaluateSettings(resamples=resamples),
    )


def on_gate(*arguments: object, **options: object) -> SplitEvaluation:
    return evaluated(*arguments, **options).splits["gate"]  # type: ignore[arg-type]


def test_values_of_several_runs() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 26, 200) / 5
    target = truth + generator.normal(0, 1.0, (3, 200))
    baseline = truth + generator.normal(0, 3.0, 200)
    whole = evaluated(target, baseline, Truth(values=truth), CORRELATIONS)
    found = whole.splits["gate"]
    assert found.rows == 200
    for name, function in (("pearson", pearsonr), ("spearman", spearmanr)):
        expected = [function(truth, run).statistic for run in target]
        of_baseline = function(truth, baseline).statistic
        score, gain = found.scores["value"][name], found.gains["head_only"][name]
        assert score.runs == pytest.approx(expected)
        assert score.spread == pytest.approx(np.std(expected, ddof=1))
        assert score.low < score.value < score.high
        assert gain.difference == pytest.approx(np.mean(expected) - of_baseline)
        assert gain.runs == pytest.approx([one - of_baseline for one in expected])
        assert gain.certain and gain.p_value == pytest.approx(1 / 1001)
    decision = whole.decision()
    assert decision.passed and decision.metric == "pearson" and "points over head_only" in decision.reasons[0]
    written = json.dumps(whole.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(written)) == whole


def test_intervals_of_correlations_are_those_of_drawn_rows() -> None:
    """A score's interval and a gain's are percentiles of what SciPy says of rows drawn with replacement."""
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 11, 80) / 2
    target, baseline = (truth + generator.normal(0, noise, 80) for noise in (1.5, 2.5))
    found = on_gate(target, baseline, Truth(values=truth), CORRELATIONS, resamples=4000)
    index = generator.integers(0, 80, (400, 80))
    for name, function in (("pearson", pearsonr), ("spearman", spearmanr)):
        drawn = np.array([[function(truth[rows], run[rows]).statistic for run in (target, baseline)] for rows in index])
        score, gain = found.scores["value"][name], found.gains["head_only"][name]
        for values, part in ((drawn[:, 0], score), (drawn[:, 0] - drawn[:, 1], gain)):
            low, high = np.quantile(values, [0.025, 0.975])
            assert (part.low, part.high) == (pytest.approx(low, abs=0.04), pytest.approx(high, abs=0.04))


def test_constant_and_identical_predictions_of_values() -> None:
    truth = Truth(values=np.linspace(0, 5, 30))
    constant, varied = np.full(30, 2.5), np.linspace(1, 2, 30) ** 3
    found = on_gate(varied, constant, truth, CORRELATIONS)
    for name in CORRELATIONS:
        score = found.scores["head_only"][name]
        assert (score.value, score.low, score.high) == (0, 0, 0)
        assert found.gains["head_only"][name].certain
        same = on_gate(varied, varied, truth, CORRELATIONS).gains["head_only"][name]
        assert (same.difference, same.low, same.high, same.probability, same.p_value) == (0, 0, 0, 0, 1)


def test_texts_are_scored_by_row() -> None:
    """A text metric is a mean over rows, so the interval of a gain is the normal one of the rows' differences."""
    generator = np.random.default_rng(2)
    answers = [[f"w{row} x{row}", f"y{row}"] for row in range(300)]

    def predicted(right: float, half: float) -> tuple[list[str], np.ndarray]:
        kind = generator.choice(3, 300, p=[right, half, 1 - right - half])
        texts = [(f"the w{row} x{row}!", f"x{row}", "z")[one] for row, one in enumerate(kind)]
        return texts, np.array([1, 2 / 3, 0])[kind]

    (first, first_scores), (second, second_scores) = predicted(0.6, 0.2), predicted(0.5, 0.2)
    other, other_scores = predicted(0.3, 0.3)
    found = on_gate([first, second], other, Truth(answers=answers), ["squad_f1", "squad_exact_match"], resamples=4000)
    assert found.scores["value"]["squad_f1"].runs == pytest.approx([first_scores.mean(), second_scores.mean()])
    exact = found.scores["value"]["squad_exact_match"].runs
    assert exact == pytest.approx([(first_scores == 1).mean(), (second_scores == 1).mean()])
    differences = (first_scores + second_scores) / 2 - other_scores
    gain = found.gains["head_only"]["squad_f1"]
    half = 1.96 * differences.std() / np.sqrt(300)
    assert gain.low == pytest.approx(differences.mean() - half, abs=0.012)
    assert gain.high == pytest.approx(differences.mean() + half, abs=0.012)
    assert gain.certain


def test_rows_that_belong_together_are_drawn_together() -> None:
    """Ten copies of every row are no more to know: with the copies as groups the interval stays that of the rows."""
    generator = np.random.default_rng(3)
    truth = generator.integers(0, 2, 100)
    predicted = np.where(generator.random(100) < 0.8, truth, 1 - truth)
    other = np.where(generator.random(100) < 0.7, truth, 1 - truth)
    right = int((predicted == truth).sum())

    def of(copies: int, groups: bool) -> SplitEvaluation:
        names = [f"q{row}" for row in range(100) for _ in range(copies)] if groups else None
        repeated = (np.eye(2)[np.repeat(run, copies)] for run in (predicted, other))
        return on_gate(*repeated, Truth(labels=np.repeat(truth, copies), groups=names), ["accuracy"], resamples=4000)

    expected = [binom.ppf(share, 100, right / 100) / 100 for share in (0.025, 0.975)]
    rows, copies, grouped = of(1, False), of(10, False), of(10, True)
    for found in (rows, grouped):
        score = found.scores["value"]["accuracy"]
        assert [score.low, score.high] == pytest.approx(expected, abs=0.0101)
    narrow, wide = (found.gains["head_only"]["accuracy"] for found in (copies, grouped))
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)
    once = rows.gains["head_only"]["accuracy"]
    assert wide.p_value == pytest.approx(once.p_value, abs=0.02)


def test_questions_are_exchanged_whole() -> None:
    """Of exact match by question the exchange test is the sign test over questions."""
    questions, rows = 60, 4
    truth = np.tile([1, 0, 1, 0], questions)
    target, baseline = truth.copy(), truth.copy()
    baseline[: 9 * rows : rows] = 0  # one answer wrong in each of nine questions
    target[9 * rows : 11 * rows] = 1 - target[9 * rows : 11 * rows]  # all answers wrong in two
    groups = [str(row // rows) for row in range(questions * rows)]
    found = on_gate(
        np.eye(2)[target],
        np.eye(2)[baseline],
        Truth(labels=truth, groups=groups),
        ["multirc_exact_match", "multirc_f1", "accuracy"],
        resamples=20_000,
    )
    gain = found.gains["head_only"]["multirc_exact_match"]
    exact = binomtest(9, 11, alternative="greater").pvalue
    assert gain.difference == pytest.approx(7 / 60)
    assert gain.p_value == pytest.approx(exact, abs=5 * np.sqrt(exact / 20_000))
    assert found.scores["value"]["multirc_exact_match"].value == pytest.approx(58 / 60)
    assert found.scores["value"]["accuracy"].value == pytest.approx(1 - 8 / 240)
    assert found.gains["head_only"]["accuracy"].difference == pytest.approx(1 / 240)


def test_exchanged_values_are_those_of_swapped_rows() -> None:
    """The p-value of a correlation is the share of swaps, made row by row, whose difference is as large."""
    generator = np.random.default_rng(4)
    truth = generator.normal(0, 1, 40)
    target, baseline = truth + generator.normal(0, 1.0, 40), 3 * truth + generator.normal(0, 3.6, 40) + 5
    found = on_gate(target, baseline, Truth(values=truth), CORRELATIONS, resamples=4000)
    for name, function in (("pearson", pearsonr), ("spearman", spearmanr)):

        def difference(swap: np.ndarray, function: object = function) -> float:
            one, other = np.where(swap, baseline, target), np.where(swap, target, baseline)
            return float(function(truth, one).statistic - function(truth, other).statistic)  # type: ignore[operator]

        seen = difference(np.zeros(40, dtype=bool))
        share = np.mean([difference(generator.random(40) < 0.5) >= seen for _ in range(800)])
        p_value = found.gains["head_only"][name].p_value
        assert 0.01 < share < 0.6
        assert p_value == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 800) + 0.01)


def test_bad_input_of_values_and_texts_is_named() -> None:
    values, answers = Truth(values=[0.0, 1.0]), Truth(answers=[["a"], ["b"]])
    cases: list[tuple[object, Truth, list[str], str]] = [
        ([0.1, 0.2], values, ["pearson", "accuracy"], "pearson takes values, accuracy takes labels"),
        ([0.1, np.nan], values, ["pearson"], "some values are not finite"),
        ([0.1], values, ["pearson"], "for 2 rows"),
        (["a", "b"], values, ["pearson"], "values must be numbers"),
        ([0.1, 0.2], Truth(labels=[0, 1]), ["pearson"], "these rows have labels"),
        (np.eye(2), values, ["accuracy"], "accuracy compares with true labels"),
        (np.eye(2), Truth(labels=[0, 1]), ["multirc_exact_match"], "which rows belong together"),
        (["a"], answers, ["squad_f1"], "1 texts for 2 rows"),
        ([["a", "b"], ["a"]], answers, ["squad_f1"], "2 and 1 texts for 2 rows"),
        ([0.1, 0.2], answers, ["squad_f1"], "must be a list of texts"),
        ([[0.5, 0.5], [1.0]], Truth(labels=[0, 1]), ["accuracy"], "the same number of them in every row"),
        (np.eye(2), Truth(labels=[0, 2], groups=["a", "b"]), ["accuracy"], "0 to 1, got 0 to 2"),
    ]
    for predictions, truth, metrics, message in cases:
        with pytest.raises(InputError, match=message):
            evaluated(predictions, predictions, truth, metrics)


@pytest.mark.parametrize("labels", [[0.0, 0.5], [0.0, np.nan], [0.0, np.inf]])
def test_true_labels_that_are_not_whole_are_refused(labels: list[float]) -> None:
    with pytest.raises(InputError, match="true labels must be whole numbers"):
        Truth(labels=labels)
    assert Truth(labels=[0.0, 1.0]).rows == 2


def test_coverage_of_correlations() -> None:
    """Intervals of 95 % hold the population's value in 95 % of simulated data sets, within four standard errors."""
    generator = np.random.default_rng(5)
    rows, repetitions, rho = 150, 250, 0.6
    true_values = {"pearson": rho, "spearman": 6 / np.pi * np.arcsin(rho / 2)}
    kinds = [known_metric(name) for name in true_values]
    held = {(name, what): 0 for name in true_values for what in ("value", "difference")}
    for _ in range(repetitions):
        truth, *noise = generator.normal(0, 1, (3, rows))
        predicted = [rho * truth + np.sqrt(1 - rho**2) * one for one in noise]
        draws = bootstrap(single_units(truth, predicted), kinds, resamples=300, generator=generator)
        for name, value in true_values.items():
            low, high = percentile_interval(draws[name][:, 0], 0.95)
            held[name, "value"] += int(low <= value <= high)
            low, high = percentile_interval(draws[name][:, 0] - draws[name][:, 1], 0.95)
            held[name, "difference"] += int(low <= 0 <= high)
    allowed = 4 * np.sqrt(0.95 * 0.05 / repetitions)
    for case, count in held.items():
        assert abs(count / repetitions - 0.95) < allowed, (case, count / repetitions)


@pytest.mark.parametrize("name", CORRELATIONS)
def test_p_values_are_uniform_where_methods_are_interchangeable(name: str) -> None:
    generator = np.random.default_rng(6)
    p_values = []
    for _ in range(250):
        truth, shared, *own = generator.normal(0, 1, (4, 40))
        units = single_units(truth, [truth + shared + one for one in own])
        p_values.append(
            paired_permutation_test(units, known_metric(name), [0], [1], resamples=150, generator=generator)
        )
    assert kstest(p_values, "uniform").pvalue > 1e-3


def test_memory_does_not_grow_with_the_resamples() -> None:
    generator = np.random.default_rng(7)
    truth = generator.integers(0, 26, 1500) / 5
    units = single_units(truth, [truth + generator.normal(0, 1, 1500)])
    kinds = [known_metric(name) for name in CORRELATIONS]
    tracemalloc.start()
    draws = bootstrap(units, kinds, resamples=3000, generator=generator)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert draws["spearman"].shape == (3000, 1)
    assert peak < 100e6  # all weights at once are 36 MB, and eight such arrays are needed


def test_label_sets_have_intervals_and_paired_gains():
    generator = np.random.default_rng(0)
    truth = (generator.random((60, 4)) < 0.3).astype(int)
    right = np.where(truth == 1, 0.9, 0.1)
    worse = right.copy()
    worse[:30] = 0.1
    found = evaluate_methods(
        {"good": Method({"test": right}), "weak": Method({"test": worse})},
        {"test": Truth(label_sets=truth)},
        target="good",
        baselines=["weak"],
        metrics=["micro_f1", "multi_label_macro_f1", "subset_accuracy"],
    ).splits["test"]
    assert found.scores["good"]["micro_f1"].value == found.scores["good"]["subset_accuracy"].low == 1
    expected = f1_score(truth, worse >= 0.5, average="micro")
    score = found.scores["weak"]["micro_f1"]
    assert score.value == pytest.approx(expected)
    assert score.low < expected < score.high < 1
    gain = found.gains["weak"]["micro_f1"]
    assert gain.certain and gain.difference == pytest.approx(1 - expected)
    assert gain.p_value < 0.01


def test_scores_of_label_sets_lie_in_0_to_1():
    with pytest.raises(InputError, match="0 to 1"):
        evaluate_methods(
            {"good": Method({"test": [[2.0, 0.1]]})},
            {"test": Truth(label_sets=[[1, 0]])},
            target="good",
            baselines=[],
            metrics=["micro_f1"],
        )


@pytest.mark.parametrize(("predicted", "true"), [(3, 2), (1, 2), (3, 1)])
def test_label_sets_of_another_width_are_refused(predicted: int, true: int) -> None:
    with pytest.raises(
        InputError, match=f"method 'value', split 'gate': scores of {predicted} labels for true sets of {true}$"
    ):
        on_gate(
            np.full((4, predicted), 0.6),
            np.full((4, predicted), 0.6),
            Truth(label_sets=np.ones((4, true))),
            ["micro_f1", "subset_accuracy"],
        )


def test_spans_have_intervals_and_paired_gains_over_texts():
    truth = [[(0, 4, 0), (5, 9, row % 2)] if row % 3 else [] for row in range(60)]
    right = [[(*span, 0.9) for span in of_row] for of_row in truth]
    worse = [of_row[:1] if row < 30 else of_row for row, of_row in enumerate(right)]
    names = ["entity_f1", "entity_precision", "entity_recall"]
    found = evaluate_methods(
        {
            "good": Method({"test": right}),
            "weak": Method({"test": [worse, right]}),
            "nothing": Method({"test": [[]] * 60}),
        },
        {"test": Truth(spans=truth)},
        target="good",
        baselines=["weak", "nothing"],
        metrics=names,
    ).splits["test"]
    assert [found.scores["good"][name].value for name in names] == [1, 1, 1]
    assert [found.scores["nothing"][name].value for name in names] == [0, 0, 0]
    recall = 3 / 4  # 20 of 80 spans are missing
    expected = 2 * recall / (1 + recall)
    score = found.scores["weak"]["entity_f1"]
    assert score.runs == pytest.approx((expected, 1))
    assert found.scores["weak"]["entity_precision"].value == 1
    assert score.low < score.value < score.high < 1
    gain = found.gains["weak"]["entity_f1"]
    assert gain.certain and gain.difference == pytest.approx((1 - expected) / 2)


@pytest.mark.parametrize("given", [[[(3, 1, 0)]], [["ab"]], [3], [[(0, 1, 0)], []]])
def test_predictions_that_are_no_spans_are_refused(given):
    with pytest.raises(InputError, match="method 'good'"):
        evaluate_methods(
            {"good": Method({"test": given})},
            {"test": Truth(spans=[[(0, 1, 0)]])},
            target="good",
            baselines=[],
            metrics=["entity_f1"],
        )
