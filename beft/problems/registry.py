"""The shapes by their names."""

from collections.abc import Mapping
from typing import Any

from beft.names import known_name
from beft.problems.candidates import Candidates
from beft.problems.classification import Classification
from beft.problems.language_model import LanguageModeling
from beft.problems.multiple_choice import MultipleChoice
from beft.problems.regression import Regression
from beft.problems.shape import Shape

SHAPES: dict[str, type[Shape]] = {
    shape.name: shape for shape in (Classification, Regression, MultipleChoice, Candidates, LanguageModeling)
}


def read_shape(value: Mapping[str, Any]) -> Shape:
    """Read what ``Shape.to_json`` gave.

    Raises:
        InputError: There is no such shape, or something in it is wrong.
    """
    return SHAPES[known_name(str(value.get("name")), SHAPES, "task shape")].from_json(value)
