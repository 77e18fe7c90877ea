"""The promotion on what two real runs registered, through the flow and the command line."""

from pathlib import Path

import pytest

from beft.files import read_json
from flows.cli import status_of
from tasks.registry.aliases import CHAMPION, aliases_of
from tasks.tracking.connection import connect
from tests.flows.test_adapt import root as root
from tests.flows.test_adapt import settings_of


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

    assert status_of(["history"]) == 0
    assert first["name"] in capsys.readouterr().out
