"""Methods side by side: many in one pass as each alone, what each is said to cost, and the table of them."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from transformers import BertConfig, BertForSequenceClassification

from beft.comparison.attempt import attempt
from beft.comparison.baselines.lora import Lora
from beft.comparison.measuring import measure, measure_many
from beft.comparison.registry import METHODS, Kind, MethodOptions
from beft.comparison.result import MethodResult, MethodRun, NotAvailable
from beft.comparison.table import method_rows, methods_table
from beft.errors import InputError, TrainingError
from beft.inference.features import predict_probabilities
from beft.models.classifier import Classifier
from beft.models.memory import PeakMemory
from beft.settings import Settings
from beft.sites.site import find_sites
from beft.training.engine.weights import attached_weights
from beft.training.session import Session
from beft.training.target import train_terms, train_weights
from beft.training_settings import TrainingSettings
from tests.beft.comparison.conftest import TRAINING, opened_at, quiet
from tests.conftest import HIDDEN, LAYERS

ASKED = [("value", 0), ("head_only", 0), ("value", 1), ("query", 0), ("all_biases", 1), ("key", 0), ("lora", 1)]


@pytest.fixture(scope="module")
def found(session: Session) -> list:
    return measure_many(session, ASKED, splits=("dev", "test"), progress=quiet)


def test_many_in_one_pass_are_what_each_is_alone(session: Session, found: list) -> None:
    assert [(one.run.method, one.run.seed) for one in found] == ASKED
    assert [one.runs_in_pass for one in found] == [5, 1, 5, 5, 5, 5, 1]
    for one in (found[2], found[3], found[4], found[6]):
        alone = measure(session, one.run.method, seed=one.run.seed, splits=("test",), progress=quiet)
        assert alone.runs_in_pass == 1
        np.testing.assert_allclose(one.predictions["test"], alone.predictions["test"], rtol=0, atol=1e-6)
        assert one.scores["test"]["accuracy"] == alone.scores["test"]["accuracy"]
        assert set(one.deltas) == set(alone.deltas)
        for site, delta in alone.deltas.items():
            torch.testing.assert_close(one.deltas[site], delta, rtol=0, atol=1e-9)
        for name, value in alone.head.items():
            torch.testing.assert_close(one.head[name], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_is_what_a_base_opened_with_it_gives(folder: Path, found: list, seed: int) -> None:
    """Its own head, its own order: as the command train does it with that seed in the settings."""
    own = opened_at(folder, seed=seed)
    section = own.training(own.settings.train)
    expected = train_terms(own.classifier, own.sample, own.settings, section, ["value"], progress=quiet)
    [one] = [one for one in found if (one.run.method, one.run.seed) == ("value", seed)]
    assert one.best_epoch == expected.best_epoch
    for site, delta in expected.deltas.items():
        torch.testing.assert_close(one.deltas[site], delta, rtol=0, atol=1e-9)
        assert float(delta.abs().max()) > 1e-3
    if seed:
        result = train_weights(
            own.classifier, own.sample, own.settings, section.model_copy(update={"learning_rate": 5e-4}), Lora(),
            progress=quiet,
        )  # fmt: skip
        with attached_weights(own.classifier, Lora(), result):
            predicted = predict_probabilities(own.classifier, own.rows("test").encoded)
        np.testing.assert_allclose(found[-1].predictions["test"], predicted.numpy(), rtol=0, atol=1e-6)


def test_costs_are_counted(session: Session, found: list) -> None:
    head = 2 * HIDDEN + 2
    model = sum(parameter.numel() for parameter in session.classifier.model.parameters())
    biases = sum(site.width for site in find_sites(session.classifier.model))
    trained = {
        "value": LAYERS * HIDDEN,
        "query": LAYERS * HIDDEN,
        "key": 0,
        "all_biases": biases - LAYERS * HIDDEN,
        "head_only": 0,
        "lora": LAYERS * 2 * 8 * 2 * HIDDEN,
    }
    for one in found:
        method = one.run.method
        assert (one.trained_parameters, one.head_parameters) == (trained[method], head)
        assert one.percent == pytest.approx(100 * (trained[method] + head) / model)
        assert one.model_parameters == model
        assert one.seconds > 0
        accuracy = float((one.predictions["test"].argmax(1) == session.rows("test").labels).mean())
        assert one.scores["test"]["accuracy"].value == pytest.approx(accuracy)
        score = one.scores["dev"]["accuracy"]
        assert one.dev == pytest.approx(score.value)
        assert score.low <= score.value <= score.high
    inert = {one.run.method: one.inert for one in found}
    assert inert["key"] is True and inert["value"] is False
    assert not any(delta.any() for delta in found[5].deltas.values()) and len(found[5].deltas) == LAYERS


def test_the_paper_s_protocol_trains_the_whole_sample_to_the_last_epoch(folder: Path) -> None:
    """Without dev; BERT's pooler bias and the head are trained, and inert terms too."""
    session = opened_at(folder, protocol="paper", head={"pooling": "model"})
    runs = [("head_only", 0), ("value", 0), ("key", 0), ("logistic_regression", 0)]
    *trained, regression = measure_many(session, runs, progress=quiet)
    head = HIDDEN + 2 * HIDDEN + 2
    assert [one.trainable_parameters for one in trained] == [head, LAYERS * HIDDEN + head, LAYERS * HIDDEN + head]
    assert all(one.best_epoch == 2 and one.dev is None and one.inert is None for one in trained)
    assert all(one.history[-1]["step"] == 2 * 10 for one in trained), "80 rows, in batches of 8"
    assert isinstance(regression, NotAvailable) and "no dev split" in regression.reason


def test_bert_base_has_the_paper_s_counts() -> None:
    """11,522 = 9,216 + 768 + 1,538 with the value biases, 104,450 with all of them; without weights in memory."""
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig(vocab_size=28_996, num_labels=2))
    classifier = Classifier(model, None, None, ("negative", "positive"))
    shapes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    head = [shapes[name] for name in classifier.head_parameters("paper")]
    value = sum(site.width for site in find_sites(model, ["value"]))
    assert sorted(head) == [2, 768, 1536]
    assert (value, value + sum(head)) == (9_216, 11_522)
    assert sum(site.width for site in find_sites(model)) + sum(head) == 104_450
    assert Settings().train.adam_epsilon == 1e-6


def test_what_a_base_has_not_got_says_why_and_stops_nothing(folder: Path) -> None:
    session = opened_at(folder, "llama")
    value, lora, low_rank = measure_many(session, [("value", 0), ("lora", 0), ("low_rank_value", 0)], progress=quiet)
    assert isinstance(value, NotAvailable) and "no bias at value" in value.reason
    assert isinstance(low_rank, NotAvailable) and "base.add_biases" in low_rank.reason
    assert lora.trained_parameters == LAYERS * 8 * ((32 + 32) + (32 + 16))
    with pytest.raises(InputError, match="no bias at value"):
        measure(session, "value", progress=quiet)
    with pytest.raises(InputError, match="Did you mean 'value'"):
        measure(session, "valeu", progress=quiet)


def test_options_and_searches_reach_the_weights(session: Session, folder: Path) -> None:
    options = MethodOptions(rank=2, alpha=4, prefix_tokens=3, weights_of="intermediate", learning_rate=1e-3)
    names = ("lora", "prefix", "rand_uniform", "low_rank_value")
    lora, prefix, rand_uniform, low_rank = measure_many(
        session, [MethodRun(name, 0, options=options) for name in names], progress=quiet
    )
    of_peft = [MethodRun(name, 0, options=replace(options, vera_rank=3)) for name in ("ln_tuning", "ia3", "vera")]
    assert [one.trained_parameters for one in measure_many(session, of_peft, progress=quiet)] == [
        5 * 2 * HIDDEN,
        LAYERS * (2 * HIDDEN + 48),
        LAYERS * 2 * (3 + HIDDEN),
    ]
    assert lora.trained_parameters == LAYERS * 2 * 2 * 2 * HIDDEN
    assert prefix.trained_parameters == 3 * LAYERS * 2 * HIDDEN
    assert rand_uniform.trained_parameters == LAYERS * 48
    assert low_rank.trained_parameters == LAYERS * 2 * (4 + 8)
    assert all(one.training.learning_rate == 1e-3 for one in (lora, prefix, rand_uniform, low_rank))
    assert {site.term for site in low_rank.deltas} == {"value"}
    own = opened_at(folder, train={**TRAINING, "epochs": 1, "learning_rates": [1e-2, 4e-2]})
    searched, together = measure_many(own, [("lora", 0), ("value", 0)], progress=quiet)
    assert [one["learning_rate"] for one in searched.trials] == pytest.approx([2.5e-4, 1e-3])
    assert [one["learning_rate"] for one in together.trials] == [1e-2, 4e-2]
    assert together.runs_in_pass == 2
    with pytest.raises(InputError, match=r"learning rate of 0\.0"):
        MethodOptions(learning_rate=0.0)
    with pytest.raises(InputError, match="Did you mean 'value'"):
        MethodOptions(weights_of="valeu")


def test_every_method_tries_as_many_rates_and_dev_chooses(session: Session, folder: Path) -> None:
    """Biases about the settings' rate, weights about their usual one; what is chosen is the best of the single ones."""
    options = MethodOptions(rank=2, search_rates=True)
    runs = [MethodRun(name, 0, options=options) for name in ("value", "all_biases", "lora", "key")]
    value, probe, lora, key = measure_many(session, runs, progress=quiet)
    rates = {one.run.method: [trial["learning_rate"] for trial in one.trials] for one in (value, probe, lora, key)}
    biases = [6e-3, 2e-2, 6e-2]
    assert rates == {"value": biases, "all_biases": biases, "lora": [1.5e-4, 5e-4, 1.5e-3], "key": []}, "key is inert"
    assert value.runs_in_pass == 3 + 3 + 1
    for found, at in (
        (lora, lambda rate: MethodRun("lora", 0, options=replace(options, learning_rate=rate))),
        (value, lambda rate: MethodRun("value", 0, section_at(session, rate), options)),
    ):
        alone = measure_many(session, [at(rate) for rate in rates[found.run.method]], progress=quiet)
        assert all(not one.trials for one in alone)
        for trial, one in zip(found.trials, alone, strict=True):
            assert (trial["dev_metric"], trial["best_epoch"]) == (pytest.approx(one.dev), one.best_epoch)
        best = max(alone, key=lambda one: (one.dev, -one.history[one.best_epoch - 1]["dev_loss"]))
        assert found.training.learning_rate == best.training.learning_rate
        np.testing.assert_allclose(found.predictions["test"], best.predictions["test"], rtol=0, atol=1e-6)
        assert found.seconds > max(one.seconds for one in alone) / 2
    text = methods_table(
        method_rows([value, lora, key], "accuracy"), [], title="films", metric="accuracy"
    ).to_markdown()
    assert "value: 0.006, 0.02, 0.06; lora: 0.00015, 0.0005, 0.0015." in text
    assert f"| value | 1 | {value.training.learning_rate:g} |" in text


def section_at(session: Session, rate: float) -> TrainingSettings:
    return session.training(session.settings.train).model_copy(update={"learning_rate": rate})


def test_named_rates_are_not_searched(folder: Path) -> None:
    """By the settings, for the dataset, or by an option; and under the paper's protocol nothing could choose."""
    options, short = MethodOptions(rank=2, search_rates=True), {**TRAINING, "epochs": 1}

    def tried(options: MethodOptions, **changes: object) -> list[list[float]]:
        own = opened_at(folder, train=short, **changes) if "train" not in changes else opened_at(folder, **changes)
        found = measure_many(own, [MethodRun(name, 0, options=options) for name in ("value", "lora")], progress=quiet)
        return [[trial["learning_rate"] for trial in one.trials] or one.training.learning_rate for one in found]

    grid = [1.5e-4, 5e-4, 1.5e-3]
    assert tried(options, train={**short, "learning_rates": [1e-2, 4e-2]}) == [
        [1e-2, 4e-2],
        pytest.approx([2.5e-4, 1e-3]),
    ]
    assert tried(options, train={**short, "learning_rates": [3e-2]}) == [3e-2, pytest.approx(7.5e-4)]
    dataset = {"films": {"size": 80, "max_length": 16, "learning_rate": 5e-3}}
    assert tried(options, datasets=dataset) == [5e-3, grid]
    assert tried(replace(options, learning_rate=2e-3)) == [[6e-3, 2e-2, 6e-2], 2e-3]
    assert tried(options, protocol="paper", head={"pooling": "model"}) == [2e-2, 5e-4]
    assert tried(MethodOptions(rank=2)) == [2e-2, 5e-4]


def test_the_table_says_where_the_best_rate_is_at_the_edge_of_what_was_tried(found: list) -> None:
    trials = ({"learning_rate": 0.1}, {"learning_rate": 0.2}, {"learning_rate": 0.3})
    inside, edge = (
        replace(one, trials=trials, training=one.training.model_copy(update={"learning_rate": rate}))
        for one, rate in ((found[0], 0.2), (found[3], 0.3))
    )
    rows = method_rows([inside, edge, replace(found[2], training=inside.training)], "accuracy")
    text = methods_table(rows, [], title="films", metric="accuracy").to_markdown()
    assert "query: 0.1, 0.2, 0.3; value: 0.1, 0.2, 0.3. At the edge" in text
    assert "may find a better one: query." in text
    assert "At the edge" not in methods_table(rows[1:], [], title="films", metric="accuracy").to_markdown()


def test_rows_are_means_over_seeds_with_their_interval(found: list) -> None:
    rows = {row.method: row for row in method_rows(found, "accuracy")}
    assert list(rows) == [name for name in METHODS if name in dict(ASKED)]
    values = [one.scores["test"]["accuracy"].value for one in found if one.run.method == "value"]
    low, high = scipy.stats.t.interval(0.95, 1, loc=np.mean(values), scale=scipy.stats.sem(values))
    estimate = rows["value"].estimate
    assert estimate.value == pytest.approx(np.mean(values))
    assert (estimate.low, estimate.high) == (pytest.approx(low), pytest.approx(high))
    score = found[3].scores["test"]["accuracy"]
    assert (rows["query"].estimate.low, rows["query"].estimate.high) == (score.low, score.high)
    refused = NotAvailable(MethodRun("prefix", 0), "takes no prefix")
    text = methods_table(list(rows.values()), [refused, refused], title="films", metric="accuracy").to_markdown()
    assert "| key (inert: head alone) | 1 | \N{EN DASH} | 66 |" in text
    assert text.count("prefix: takes no prefix") == 1
    assert "Up to 5 trainings shared a pass" in text
    best = max(rows.values(), key=lambda row: row.estimate.value)
    [bold] = [line for line in text.splitlines() if "**" in line and line.startswith("|")]
    assert bold.startswith(f"| {best.method}")


def test_peak_memory_is_what_is_taken_above() -> None:
    megabytes = 400
    gc.collect()  # what other tests left must not go away meanwhile
    memory = PeakMemory(torch.device("cpu"))
    held = torch.ones(megabytes * 2**18)
    del held
    above = memory.above()
    assert above is not None and 0.5 * megabytes * 2**20 < above < 2 * megabytes * 2**20
    again = PeakMemory(torch.device("cpu")).above()
    assert again is not None and again < megabytes * 2**18, "an earlier peak is not the next one's"


def test_every_method_is_of_a_kind() -> None:
    assert {name for name, kind in METHODS.items() if kind is Kind.WEIGHTS} == {
        "rand_uniform", "ln_tuning", "ia3", "vera", "lora", "prefix", "low_rank_value", "full",
    }  # fmt: skip


def test_a_run_that_fails_says_why_and_the_others_keep_their_results(session: Session, tmp_path: Path) -> None:
    """In a shared pass, alone, and at one of several learning rates; as a sweep asks for them."""
    section = session.training(session.settings.train)
    lost = section.model_copy(update={"learning_rate": 1e300, "learning_rates": ()})
    some = section.model_copy(update={"learning_rates": (1e300, 1e-2)})
    asked = [
        MethodRun("value", 0),
        MethodRun("value", 0, lost),
        MethodRun("value", 1, some),
        MethodRun("lora", 0),
    ]
    found = measure_many(session, asked, checkpoints=tmp_path, progress=quiet)
    [value] = measure_many(session, asked[:1], progress=quiet)
    assert isinstance(found[0], MethodResult) and isinstance(value, MethodResult)
    for site, delta in value.deltas.items():
        torch.testing.assert_close(found[0].deltas[site], delta, rtol=0, atol=1e-9)
    assert isinstance(found[1], NotAvailable) and found[1].failed
    assert "a learning_rate below 1e+300 usually fixes it" in found[1].reason
    assert isinstance(found[2], MethodResult)
    assert "failed" in found[2].trials[0] and "failed" not in found[2].trials[1]
    assert isinstance(found[3], MethodResult)
    with pytest.raises(TrainingError, match="a learning_rate below"):
        measure(session, "value", training=lost, progress=quiet)
    shown = methods_table(method_rows([found[0]], "accuracy"), [found[1]], title="films", metric="accuracy")
    assert any(note.startswith("value, seed 0, failed: ") for note in shown.notes)


def test_an_unexpected_error_of_one_run_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    run = MethodRun("full", 3)
    found = attempt(run, lambda: 1 // 0)  # type: ignore[arg-type,return-value]
    assert found == NotAvailable(run, "ZeroDivisionError: integer division or modulo by zero", failed=True)
    assert "full of seed 3 failed" in caplog.text

    def exhausted() -> MethodResult:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert "out of memory (CUDA out of memory)" in attempt(run, exhausted).reason  # type: ignore[union-attr]
    with pytest.raises(KeyboardInterrupt):
        attempt(run, interrupted)


@pytest.mark.parametrize("part", ["_plan", "fit"])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), ZeroDivisionError("by zero")])
def test_what_ends_a_shared_pass_ends_no_other_method(
    part: str, error: Exception, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"beft.comparison.shared_passes.{part}", fail)
    found = measure_many(session, [("value", 0), ("untouched", 0), ("query", 0)], progress=quiet)
    assert [isinstance(one, NotAvailable) and one.failed for one in found] == [True, False, True]
    assert str(error) in found[0].reason  # type: ignore[union-attr]


def interrupted() -> MethodResult:
    """Ctrl-C in the middle of a run."""
    raise KeyboardInterrupt
