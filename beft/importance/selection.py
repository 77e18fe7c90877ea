"""Choose the target term from importance tables, and say why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from beft.errors import BeftError, InputError
from beft.importance.registry import known_methods
from beft.importance.result import Importance, terms_in_order
from beft.names import known_name

# Where projection ratio has nothing to compare with, these methods choose, the first that was computed.
_WITHOUT_DIRECTION = ("fisher", "magnitude", "magnitude_l2")


@dataclass(frozen=True)
class Selection:
    """The target term, and how it was chosen.

    Attributes:
        term: The target term.
        method: The method that chose it, which is not the requested one where that one cannot choose.
        reason: Why this term and this method, in one or more sentences.
        ranking: The candidates that could be chosen with their mean scores by ``method``, best first.
        requested: The method that the settings ask for.
        inert: The candidates that were left out because shifting them changes no logit.
        by_method: The ranking of the same candidates by every method that was computed.
    """

    term: str
    method: str
    reason: str
    ranking: tuple[tuple[str, float], ...]
    requested: str
    inert: tuple[str, ...] = ()
    by_method: Mapping[str, tuple[tuple[str, float], ...]] | None = None

    def to_json(self) -> dict[str, Any]:
        """The selection as JSON values."""

        def listed(ranking: tuple[tuple[str, float], ...]) -> list[dict[str, Any]]:
            return [{"term": term, "score": score} for term, score in ranking]

        return {
            "target": self.term,
            "method": self.method,
            "asked": self.requested,
            "reason": self.reason,
            "ranking": listed(self.ranking),
            "inert": list(self.inert),
            "beside": {method: listed(ranking) for method, ranking in (self.by_method or {}).items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Selection":
        """Read what ``to_json`` gave."""

        def pairs(listed: list[dict[str, Any]]) -> tuple[tuple[str, float], ...]:
            return tuple((entry["term"], entry["score"]) for entry in listed)

        return cls(
            term=value["target"],
            method=value["method"],
            reason=value["reason"],
            ranking=pairs(value["ranking"]),
            requested=value["asked"],
            inert=tuple(value["inert"]),
            by_method={method: pairs(listed) for method, listed in value["beside"].items()},
        )


def choose_target(
    tables: Iterable[Importance] | Mapping[str, Importance],
    candidates: Iterable[str],
    inert: Mapping[str, bool],
    added: bool = False,
    method: str = "projection_ratio",
) -> Selection:
    """Choose the candidate with the highest mean score that is not inert.

    Projection ratio compares with the direction that a bias had before training. Where a candidate was added, or was
    zero before training, it cannot choose: Fisher does (or a magnitude, where Fisher was not computed).

    Args:
        tables: The importance tables that were computed.
        candidates: The terms among which to choose.
        inert: Whether each term is inert; terms not named are not. The paper's protocol passes an empty mapping.
        added: Whether the sites of any candidate that is not inert were added to the base.
        method: The method asked for.

    Raises:
        InputError: A method or candidate is unknown, there are no candidates, or all of them are inert.
        BeftError: The probe moved none of them, the method scores none, or they have no direction and no other method
            was computed.
    """
    by_name = {table.method: table for table in (tables.values() if isinstance(tables, Mapping) else tables)}
    if method in known_methods() and method not in by_name:
        raise InputError(
            f"{method} cannot choose, since it was not computed ({', '.join(by_name)} were): name it in score.methods"
        )
    table = by_name[known_name(method, by_name, "importance method")]
    terms = terms_in_order({known_name(term, table.scores, "bias term") for term in candidates})
    if not terms:
        raise InputError("no candidates are named from which to choose the target term")
    left_out = tuple(term for term in terms if inert.get(term, False))
    open_terms = [term for term in terms if term not in left_out]
    if not open_terms:
        raise InputError(
            f"every candidate is inert in this model (shifting it changes no logit): {', '.join(terms)}; "
            "name other terms in score.candidates"
        )
    chooser, why = _chooser(by_name, open_terms, added, method)
    rankings = {name: _ranked(other, open_terms) for name, other in by_name.items()}
    ranking = rankings[chooser]
    if not ranking:
        raise BeftError(
            f"{chooser} scores none of the candidates ({', '.join(open_terms)}); name another method in score.select_by"
        )
    if ranking[0][1] == 0:
        raise BeftError(
            f"every candidate scores 0 by {chooser} ({', '.join(open_terms)}): the probe did not move them; "
            "raise probe.learning_rate or probe.epochs"
        )
    others = {} if chooser == method else {name: rankings[name] for name in _WITHOUT_DIRECTION if name in rankings}
    return Selection(
        term=ranking[0][0],
        method=chooser,
        reason=" ".join([*why, *_sentences(chooser, ranking, left_out), *_beside(others, chooser)]),
        ranking=ranking,
        requested=method,
        inert=left_out,
        by_method=rankings,
    )


def _chooser(tables: Mapping[str, Importance], terms: list[str], added: bool, method: str) -> tuple[str, list[str]]:
    """The method that can choose among ``terms``, and what to say when it is not the one asked for."""
    if method != "projection_ratio":
        return method, []
    means = tables[method].mean
    directionless = [term for term in terms if means[term] is None]
    if not added and not directionless:
        return method, []
    fact = (
        "Biases were added to this base, and an added bias is zero before training"
        if added
        else f"Zero before training: {', '.join(directionless)}"
    )
    fact += ", so projection ratio has no direction to compare with"
    for name in _WITHOUT_DIRECTION:
        if name in tables:
            return name, [f"{fact}; {name} chooses instead."]
    raise BeftError(f"{fact}; name fisher or magnitude in score.methods as well")


def _ranked(table: Importance, terms: list[str]) -> tuple[tuple[str, float], ...]:
    means = table.mean
    ranked = []
    for term in table.ranking():
        mean = means[term]
        if term in terms and mean is not None:
            ranked.append((term, mean))
    return tuple(ranked)


def _beside(rankings: Mapping[str, tuple[tuple[str, float], ...]], chooser: str) -> list[str]:
    """What the other methods that need no direction rank first."""
    return [f"Beside it, {name} ranks {ranking[0][0]} first." for name, ranking in rankings.items() if name != chooser]


def _sentences(chooser: str, ranking: tuple[tuple[str, float], ...], inert: tuple[str, ...]) -> list[str]:
    (best, score), *others = ranking
    if not others:
        sentences = [f"{best} is the only candidate that can be chosen ({score:.3g} by {chooser})."]
    elif others[0][1] == score:
        sentences = [f"{best} and {others[0][0]} score the same by {chooser} ({score:.3g}); {best} comes first."]
    else:
        rest = ", ".join(f"{term} {other:.3g}" for term, other in others)
        sentences = [f"{best} scores highest by {chooser}: {score:.3g} against {rest}."]
    if inert:
        noun = "term" if len(inert) == 1 else "terms"
        sentences.append(f"Left out as inert {noun} (shifting changes no logit): {', '.join(inert)}.")
    return sentences
