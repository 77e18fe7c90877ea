"""Task shapes: one file a shape.

With a head: ``classification``, ``regression``, ``multiple_choice``. With a language model and a prompt, and no head:
``candidates`` and ``language_model``.
"""

from beft.shapes.candidates import Candidates
from beft.shapes.choosing import choose_shape
from beft.shapes.classification import Classification
from beft.shapes.language_model import LanguageModeling
from beft.shapes.multiple_choice import MultipleChoice
from beft.shapes.prompt import Prompt
from beft.shapes.registry import SHAPES, read_shape
from beft.shapes.regression import Regression
from beft.shapes.shape import Shape

__all__ = [
    "SHAPES",
    "Candidates",
    "Classification",
    "LanguageModeling",
    "MultipleChoice",
    "Prompt",
    "Regression",
    "Shape",
    "choose_shape",
    "read_shape",
]
