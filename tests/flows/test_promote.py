"""The promotion on what two real runs registered, through the flow and the command line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from beft.files import read_json
from flows.cli import status_of
from flows.promote import registered_name
from tasks.registry.aliases import CHAMPION, aliases_of
from tasks.tracking.connection import connect
from tests.flows.test_adapt import root as root
from tests.flows.test_adapt import settings_of
from tests.support.small_data import DESCRIPTION


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_the_challenger_of_a_second_run_is_judged_against_the_champion(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.main_job import run_main_job

    [first] = run_main_job(settings_of(root))["models"]
    run_main_job(settings_of(root, train__epochs=1))
    connection = connect(settings_of(root), root)
    connection.client.set_registered_model_alias(first["name"], CHAMPION, "1")
    assert aliases_of(connection, first["name"]) == {"challenger": "2", CHAMPION: "1"}

    capsys.readouterr()
    assert status_of(["promote"]) == 0
    said = capsys.readouterr().out
    verdict, line = said.split(maxsplit=1)
    assert verdict in ("PROMOTE", "HOLD", "REJECT")
    assert line.startswith(f"{first['name']}: version 2, against version 1\n")
    [folder] = (root / "runs" / "promotions").iterdir()
    decision = read_json(folder / "promotion.json")
    assert decision["outcome"] == verdict
    assert {"floor", "gain", "latency", "size", "gate"} <= {check["name"] for check in decision["checks"]}
    assert aliases_of(connection, first["name"])[CHAMPION] == ("2" if verdict == "PROMOTE" else "1")
    assert connection.client.get_model_version(first["name"], "2").tags["promotion_verdict"] == verdict

    # The comparison is not made twice, nor the decision counted twice.
    comparisons = sorted(path.name for path in (root / "runs" / "steps").glob("compare-*"))
    if verdict != "PROMOTE":
        assert status_of(["promote"]) == 0
        assert capsys.readouterr().out == said
    assert sorted(path.name for path in (root / "runs" / "steps").glob("compare-*")) == comparisons

    # A version against itself is nothing to decide, and an unknown one a message.
    connection.client.set_registered_model_alias(first["name"], CHAMPION, "2")
    assert status_of(["promote"]) == 0
    assert "version 2 is champion already" in capsys.readouterr().out
    assert status_of(["promote", "--challenger", "chalenger"]) == 2
    assert "Did you mean 'challenger'" in capsys.readouterr().err

    # What a rollback took out of use stays so, and is judged only by its name.
    assert status_of(["rollback", first["name"], "--to", "1"]) == 0
    capsys.readouterr()
    assert status_of(["promote"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"HOLD  {first['name']}: version 2, against version 1\n") and "was rolled back on" in said
    assert status_of(["promote", "--challenger", "2"]) == 0
    assert "  gain: " in capsys.readouterr().out

    assert status_of(["history"]) == 0
    assert first["name"] in capsys.readouterr().out


def registry_of(root: Path, *datasets: str) -> dict[str, str]:
    """Dataset to a registered model with one version, champion and challenger, of which there are no files."""
    settings = settings_of(root)
    client = connect(settings, root).client
    names = {dataset: registered_name(settings, dataset) for dataset in datasets}
    for name in names.values():
        client.create_registered_model(name)
        client.create_model_version(name, source=(root / "nothing").as_uri())
        for alias in ("challenger", CHAMPION):
            client.set_registered_model_alias(name, alias, "1")
    return names


def with_datasets(root: Path, **changes: dict[str, Any]) -> None:
    """Add datasets before the workspace's own in the settings, each described as that one but for some changes."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    for name, changed in changes.items():
        (root / "data" / "datasets" / f"{name}.yaml").write_text(yaml.safe_dump(DESCRIPTION | changed))
    values["datasets"] = dict.fromkeys([*changes, *values["datasets"]], values["datasets"]["mine"])
    (root / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.mark.server
@pytest.mark.usefixtures("prefect_server")
def test_a_dataset_that_cannot_be_judged_stops_no_other(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_datasets(root, broken={"labels": ["bad", "better"]}, unknown={}, lost={})
    names = registry_of(root, "broken", "lost", "mine")
    connect(settings_of(root), root).client.delete_registered_model_alias(names["lost"], CHAMPION)
    assert status_of(["promote"]) == 1  # 2 is for input of which nothing was done
    said = capsys.readouterr()
    assert said.out.startswith(f"HOLD  {names['mine']}: version 1, against version 1\n")
    assert "version 1 is champion already" in said.out
    _, *lines = said.err[said.err.index("beft: 3 of 4 datasets could not be judged:") :].splitlines()[:4]
    assert [line.split(":")[0] for line in lines] == ["  - broken", "  - unknown", "  - lost"]
    assert "better" in lines[0] and "registered model" in lines[1] and "was not registered by" in lines[2]


def test_nor_does_one_on_traffic(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_datasets(root, unknown={}, odd={})
    names = registry_of(root, "odd", "mine")
    connect(settings_of(root), root).client.delete_registered_model_alias(names["odd"], CHAMPION)

    def fetched(*_: Any) -> Any:
        raise ValueError("something else")

    monkeypatch.setattr("flows.promote.fetch_candidates", fetched)
    assert status_of(["promote", "--on", "traffic"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"HOLD  {names['mine']}: version 1, against version 1\n")
    assert said.err.startswith("beft: 2 of 3 datasets could not be judged:\n  - unknown: ")
    assert said.err.endswith("\n  - odd: ValueError: something else\n")


def test_a_version_that_was_rolled_back_is_not_compared_on_traffic(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = registry_of(root, "mine")["mine"]
    client = connect(settings_of(root), root).client
    client.create_model_version(name, source=(root / "nothing").as_uri())
    for alias in ("challenger", CHAMPION):
        client.set_registered_model_alias(name, alias, "2")
    assert status_of(["rollback", name, "--to", "1", "--reason", "it answers nonsense"]) == 0

    def fetched(*_: Any) -> Any:
        raise ValueError("compared")

    monkeypatch.setattr("flows.promote.fetch_candidates", fetched)
    capsys.readouterr()
    assert status_of(["promote", "--on", "traffic"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"HOLD  {name}: version 2, against version 1\n")
    assert "UTC: it answers nonsense; name it" in said and "beft promote --on traffic --challenger 2\n" in said
    assert status_of(["promote", "--on", "traffic", "--challenger", "2"]) == 1
    assert "compared" in capsys.readouterr().err


def test_where_none_is_registered_each_is_named_at_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_datasets(root, other={})
    assert status_of(["promote"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("beft: 2 of 2 datasets could not be judged:\n  - other: ")
    assert len(said.splitlines()) == 3
