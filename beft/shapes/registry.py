"""The shapes by their names."""

from collections.abc import Mapping
from typing import Any

from beft.names import known_name
from beft.shapes.candidates import Candidates
from beft.shapes.classification import Classification
from beft.shapes.language_model import LanguageModeling
from beft.shapes.multiple_choice import MultipleChoice
from beft.shapes.regression import Regression
from beft.shapes.shape import Shape

SHAPES: dict[str, type[Shape]] = {
    shape.name: shape for shape in (Classification, Regression, MultipleChoice, Candidates, LanguageModeling)
}


def read_shape(value: Mapping[str, Any]) -> Shape:
    """Read what ``Shape.to_json`` gave.

    Raises:
        InputError: There is no such shape, or something in it is wrong.
    """
    return SHAPES[known_name(str(value.get("name")), SHAPES, "task shape")].from_json(value)
