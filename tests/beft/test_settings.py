"""Settings that were written by an older version are read; ``auto`` becomes a number."""

import pytest

from beft.errors import SettingsError
from beft.settings import BaseSettings, Settings
from tasks.settings import PipelineSettings


def test_an_old_name_is_read_and_the_new_one_is_named(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.from_mapping({"train": {"rows_at_once": 4}, "probe": {"micro_batch_size": 2}})
    assert (settings.train.micro_batch_size, settings.probe.micro_batch_size) == (4, 2)
    assert "rows_at_once is now called micro_batch_size" in caplog.text


def test_the_new_name_wins() -> None:
    settings = Settings.from_mapping({"train": {"rows_at_once": 4, "micro_batch_size": 8}})
    assert settings.train.micro_batch_size == 8


@pytest.mark.parametrize(
    ("cores", "datasets", "threads"),
    [
        (1, 1, 1),
        (1, 2, 1),
        (2, 1, 2),
        (2, 2, 2),
        (3, 2, 3),
        (4, 2, 2),
        (5, 3, 2),
        (16, 1, 16),
        (16, 2, 8),
        (16, 40, 2),
        (999, 1, 256),
    ],
)
def test_threads_follow_from_the_cores_and_the_datasets(
    cores: int, datasets: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beft.settings.usable_cores", lambda: cores)
    named = {f"set_{number}": {} for number in range(datasets)}
    for base in ({"base": {"threads": "auto"}}, {"base": {}}, {}):
        settings = PipelineSettings.from_mapping({"datasets": named, **base})
        assert settings.base.threads == threads
        assert PipelineSettings.from_mapping(settings.model_dump(mode="json")) == settings
    assert Settings.from_mapping({"datasets": named, "base": {"threads": 3}}).base.threads == 3
    assert BaseSettings(threads="auto").threads == min(cores, 256)  # type: ignore[arg-type]


def test_threads_are_a_number_or_auto() -> None:
    with pytest.raises(SettingsError, match=r"base.threads"):
        Settings.from_mapping({"base": {"threads": "many"}})


@pytest.mark.parametrize(
    ("section", "name", "value", "said"),
    [
        ("train", "loss", "hinge", "unknown value 'hinge'. Known: auto, both, contrastive, cross_entropy."),
        ("train", "loss", "contrastiv", "Did you mean 'contrastive'?"),
        ("train", "learning_rates", 0.1, "it must be a list, such as [0.1] (got 0.1)"),
        ("score", "methods", "fisher", "it must be a list, such as [fisher] (got 'fisher')"),
        ("head", "label_words", "good", "it must be a mapping of names to values (got 'good')"),
    ],
)
def test_a_wrong_value_is_answered_in_the_words_of_params_yaml(
    section: str, name: str, value: object, said: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.from_mapping({section: {name: value}})
    [problem] = raised.value.problems
    assert problem.startswith(f"{section}.{name}: ") and said in problem
    assert "number is possible" not in problem


def test_a_section_that_is_no_mapping_is_said_to_be_one() -> None:
    with pytest.raises(SettingsError, match=r"base: it must be a mapping of names to values \(got 3\)"):
        Settings.from_mapping({"base": 3})


def test_rows_of_a_batch_were_counted_before_tokens_were(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.from_mapping({"evaluate": {"batch_size": 16, "resamples": 100}})
    assert (settings.evaluate.batch_tokens, settings.evaluate.resamples) == (None, 100)
    assert "evaluate.batch_tokens" in caplog.text
