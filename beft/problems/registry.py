"""The problem types by their names."""

from collections.abc import Mapping
from typing import Any

from beft.names import known_name
from beft.problems.candidates import Candidates
from beft.problems.classification import Classification
from beft.problems.language_model import LanguageModeling
from beft.problems.multi_label import MultiLabel
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.problem_type import ProblemType
from beft.problems.regression import Regression
from beft.problems.token_classification import TokenClassification

PROBLEM_TYPES: dict[str, type[ProblemType]] = {
    problem_type.name: problem_type
    for problem_type in (
        Classification,
        MultiLabel,
        TokenClassification,
        Regression,
        MultipleChoice,
        Candidates,
        LanguageModeling,
    )
}


def read_problem_type(value: Mapping[str, Any]) -> ProblemType:
    """Read what ``ProblemType.to_json`` gave.

    Raises:
        InputError: There is no such problem type, or something in it is wrong.
    """
    return PROBLEM_TYPES[known_name(str(value.get("name")), PROBLEM_TYPES, "problem type")].from_json(value)
