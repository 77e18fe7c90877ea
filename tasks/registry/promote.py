"""promote: the verdict on a challenger, in the journal, on the version and in a report; the aliases that it moves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beft.commands import own_command
from beft.errors import InputError
from beft.evaluation.promotion.verdict import Check, GateEvidence, Side, SliceGain, Verdict, judge
from beft.evaluation.records import Gain
from beft.files import read_json, sha256_file, sha256_json, write_json, write_text
from beft.names import unknown_name
from beft.tables import Column, Table
from tasks.engine.declaration import JSON
from tasks.registry.aliases import CHALLENGER, CHAMPION, PREVIOUS, ROLLED_BACK, alias_lock, aliases_of
from tasks.registry.gate import GateDecisions, decision_id
from tasks.registry.rebuildable import MISSING, NOTHING
from tasks.registry.registered import fetch_model
from tasks.settings import PipelineSettings
from tasks.tracking.connection import Connection, connect, versions_of
from tasks.tracking.entries import as_mlflow_text
from tasks.tracking.limits import REGISTRY_TEXT


@dataclass(frozen=True)
class Candidates:
    """The two versions that a decision is about.

    Attributes:
        model: The registered model.
        challenger: Its version.
        champion: The version in use; None where there is none.
        named: Whether the caller asked for the challenger by the number of its version.
    """

    model: str
    challenger: str
    champion: str | None
    named: bool = False

    @property
    def settled(self) -> bool:
        """Whether there is nothing to decide: the challenger is the champion."""
        return self.challenger == self.champion


@dataclass(frozen=True)
class Decision:
    """What was decided, and where it is written down."""

    candidates: Candidates
    verdict: Verdict
    report: Path | None = None
    decisions: int = 0

    def to_json(self) -> dict[str, JSON]:
        """The decision as JSON values."""
        return {
            "model": self.candidates.model,
            "challenger": self.candidates.challenger,
            "champion": self.candidates.champion,
            "decisions_on_gate": self.decisions,
            "report": str(self.report) if self.report else None,
            **self.verdict.to_json(),
            "reasons": list(self.verdict.reasons),
        }


def candidates(connection: Connection, model: str, challenger: str | None = None) -> Candidates:
    """Find the versions that are to be compared.

    Args:
        challenger: A version or an alias; None: the alias ``challenger``.

    Raises:
        InputError: There is no such model, version or alias.
    """
    aliases = aliases_of(connection, model)
    asked = challenger or CHALLENGER
    versions = {str(found.version) for found in versions_of(connection, model)}
    found = aliases.get(asked, asked)
    if found not in versions:
        raise InputError(unknown_name(asked, {*aliases, *versions}, f"version or alias of {model}"))
    champion = aliases.get(CHAMPION)
    return Candidates(model, found, champion if champion in versions else None, named=asked == found)


def decide_without_rows(connection: Connection, found: Candidates, *, on_traffic: bool = False) -> Decision | None:
    """Hold where no rows are needed for it: such a decision is counted on none. None: the versions must be compared.

    The challenger is champion already, or a rollback took it out of use and the caller did not name it.

    Args:
        on_traffic: Whether it would be decided on labelled traffic.
    """
    rolled_back = connection.client.get_model_version(found.model, found.challenger).tags.get(ROLLED_BACK)
    if found.settled:
        check = Check("versions", "HOLD", f"version {found.challenger} is champion already: there is nothing to decide")
    elif rolled_back is not None and not found.named:
        on = ["--on", "traffic"] if on_traffic else []
        named = own_command("beft", "promote", *on, "--challenger", found.challenger)
        said = f"version {found.challenger} was rolled back on {rolled_back}; name it to promote it anyway: {named}"
        check = Check("rollback", "HOLD", said)
    else:
        return None
    return Decision(found, Verdict("HOLD", (check,)))


def fetch_candidates(connection: Connection, found: Candidates, folder: Path) -> dict[str, Path]:
    """Copy both versions' models below a folder, as the inputs ``challenger`` and ``champion`` of the step compare.

    A copy that is there already is used again: a version never changes.
    """
    sides = {"challenger": found.challenger, "champion": found.champion}
    inputs = {}
    for side, version in sides.items():
        if version is None:
            continue
        registered = connection.client.get_model_version(found.model, version)
        kept = folder / sha256_json([found.model, version, registered.creation_timestamp])[:16]
        done = kept / "complete"
        if not done.is_file():
            fetch_model(connection, f"models:/{found.model}/{version}", kept / "model")
            write_text(done, "")
        inputs[side] = kept / "model"
    return inputs


def evidence_of(
    comparison: Mapping[str, Any], settings: PipelineSettings, found: Candidates, decisions: int
) -> GateEvidence:
    """What a verdict is made of, from the ``comparison.json`` of the step compare."""
    names = {"challenger": f"version {found.challenger}", "champion": f"version {found.champion}"}
    sides = {side: Side(**{**facts, "name": names[side]}) for side, facts in comparison["sides"].items()}
    floor = settings.promotion.floor
    return GateEvidence(
        kind=str(comparison.get("kind", "gate")),
        metric=str(comparison["metric"]),
        rows=int(comparison["rows"]),
        challenger=sides["challenger"],
        floor=float(comparison["floor"]) if floor is None else floor,
        decisions=decisions,
        champion=sides.get("champion"),
        gain=Gain.model_validate(comparison["gain"]) if comparison["gain"] else None,
        slices=[SliceGain(**one) for one in comparison["slices"]],
        labels_left_out=int(comparison.get("labels_left_out", 0)),
    )


def promote(
    settings: PipelineSettings, found: Candidates, *, compared: Path, prepared: Path, out: Path, root: Path
) -> Decision:
    """Decide on the rows of a gate split.

    Args:
        compared: The folder of the step compare on these versions.
        prepared: The prepared data that it read.
        out: The folder of the report.

    Raises:
        RegistryBusyError: Another process is deciding on this model.
        InputError: The aliases were moved since the versions were compared.
    """
    comparison, gate = read_json(compared / "comparison.json"), sha256_file(prepared / "gate.parquet")
    return decide(settings, found, comparison, rows_id=gate, out=out, root=root)


def decide(
    settings: PipelineSettings,
    found: Candidates,
    comparison: Mapping[str, Any],
    *,
    rows_id: str,
    out: Path,
    root: Path,
) -> Decision:
    """Decide, write it down, and move the aliases where the challenger is promoted.

    Args:
        comparison: The versions on the same rows, as ``beft.comparison.versions.VersionComparison.to_json`` gives it.
        rows_id: What stands for these rows where the decisions on them are counted.
        out: The folder of the report.

    Raises:
        RegistryBusyError: Another process is deciding on this model.
        InputError: The aliases were moved since the versions were compared.
    """
    connection, taken = connect(settings, root), GateDecisions(settings, root)
    with alias_lock(connection, found.model, root) as turn:
        now = turn.aliases.get(CHAMPION)
        if now != found.champion:
            raise InputError(
                f"{found.model}: the champion is version {now} now, and was {found.champion} when the comparison was "
                "made; ask again"
            )
        held = decide_without_rows(connection, found, on_traffic=comparison.get("kind", "gate") != "gate")
        if held is not None:
            return held
        subject = ["promotion", found.model, found.challenger, found.champion, rows_id, comparison]
        before = taken.on(rows_id) - {decision_id(subject)}
        verdict = judge(evidence_of(comparison, settings, found, len(before)), settings.promotion)
        tags = connection.client.get_model_version(found.model, found.challenger).tags
        verdict = _and_rebuilt(tags, verdict)
        if found.champion is None:
            verdict = _first(tags, verdict)
        facts = {
            "model": found.model,
            "version": found.challenger,
            "champion": found.champion,
            "gate_sha256": rows_id,
            "verdict": verdict.outcome,
            "reasons": list(verdict.reasons),
        }
        entry = taken.note(subject, **facts)
        decision = Decision(found, verdict, out / "promotion.md", len(before | {entry}))
        _write(out, decision, comparison)
        _tag(connection, decision, entry, rows_id)
        if verdict.outcome == "PROMOTE":
            reason = f"promoted: {'; '.join(verdict.reasons)}"
            moves = {CHAMPION: found.challenger, PREVIOUS: found.champion}
            connection.client.delete_model_version_tag(found.model, found.challenger, ROLLED_BACK)
            turn.move(moves, subject=[subject, "moves"], reason=reason)
    return decision


def _first(tags: Mapping[str, str], verdict: Verdict) -> Verdict:
    """Without a champion the version's own run decides: whether it beat the cheap baselines for certain on gate."""
    passed = tags.get("decision") == CHAMPION
    return _with(verdict, "baselines", passed, f"no champion to compare with; {tags.get('reason')}")


def _and_rebuilt(tags: Mapping[str, str], verdict: Verdict) -> Verdict:
    """What cannot be made again is not put to use."""
    missing = tags.get(MISSING)
    if missing is None:
        again = own_command("beft", "run")
        said = f"it does not say what a rebuild needs, as older versions do not: register it again with {again}"
    elif missing == NOTHING:
        said = "it can be rebuilt from the registry"
    else:
        said = f"it cannot be rebuilt: {missing}"
    return _with(verdict, "rebuild", missing == NOTHING, said)


def _with(verdict: Verdict, name: str, passed: bool, reason: str) -> Verdict:
    """The verdict with a check more, which can hold a promotion and make none."""
    check = Check(name, "PROMOTE" if passed else "HOLD", reason)
    outcome = verdict.outcome if passed or verdict.outcome != "PROMOTE" else "HOLD"
    return Verdict(outcome, (*verdict.checks, check))


def _tag(connection: Connection, decision: Decision, entry: str, gate: str) -> None:
    found = decision.candidates
    tags = {
        "gate_sha256": gate,
        "promotion_decision": entry,
        "promotion_verdict": decision.verdict.outcome,
        "promotion_reasons": "; ".join(decision.verdict.reasons),
        "gate_decisions": decision.decisions,
    }
    for name, value in tags.items():
        connection.client.set_model_version_tag(
            found.model, found.challenger, name, as_mlflow_text(value, REGISTRY_TEXT)
        )


def _write(out: Path, decision: Decision, comparison: Mapping[str, Any]) -> None:
    write_json(out / "promotion.json", {**decision.to_json(), "comparison": comparison})
    write_text(out / "promotion.md", report_of(decision, comparison.get("notes", ())))


def report_of(decision: Decision, notes: Sequence[str] = ()) -> str:
    """The decision as Markdown.

    Args:
        notes: What else a reader must know of the rows.
    """
    found = decision.candidates
    against = f"against version {found.champion}" if found.champion else "without a champion to compare with"
    # One that needed no rows is counted on none.
    counted = [f"Decisions taken on these rows, this one included: {decision.decisions}."] if decision.report else []
    table = Table(
        f"{decision.verdict.outcome}: version {found.challenger} of {found.model}, {against}",
        [Column("checked"), Column("says"), Column("because")],
        [[check.name, check.outcome, check.reason] for check in decision.verdict.checks],
        [*counted, *notes],
    )
    return table.to_markdown()
