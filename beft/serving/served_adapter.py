"""An adapter whose vectors are in the tables of an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from beft.problems.problem_type import ProblemType
from beft.serving.vector_table import VectorTable
from beft.sites.site import BiasSite


@dataclass(frozen=True)
class HeadRows:
    """Where the output layer of an adapter is.

    Attributes:
        weights: The table of the weights, [outputs, features] a row.
        biases: The table of the biases, [outputs] a row; None: the layer has none.
        weight: The row in ``weights``.
        bias: The row in ``biases``.
    """

    weights: VectorTable
    biases: VectorTable | None
    weight: int
    bias: int = 0


@dataclass(frozen=True, eq=False)
class ServedAdapter:
    """An adapter that an engine has loaded. Its rows are released when nothing refers to it any more.

    Attributes:
        sha256: Of the adapter's tensor file.
        labels: Names of the classes, in the order of the outputs; none for a problem type without classes.
        problem_type: What its outputs mean.
        pooling: What its output layer sees.
        max_length: Tokens that a text is cut to.
        pairs: Whether it reads pairs of texts; None: it takes both.
        takes_choices: Whether it chooses among choices that each row brings.
        rows: The row of each bias site in the engine's tables.
        head: The rows of its output layer; None: its outputs are the features themselves.
        inner_head: The other parameters of the model's own head that are the adapter's, by their names.
        bytes: Memory that it takes.
    """

    sha256: str
    labels: tuple[str, ...]
    problem_type: ProblemType
    pooling: str
    max_length: int
    pairs: bool | None
    takes_choices: bool
    rows: Mapping[BiasSite, int]
    head: HeadRows | None
    inner_head: Mapping[str, Tensor]
    bytes: int

    @property
    def uses_own_head(self) -> bool:
        """Whether the model's own head pools, so that its rows are computed apart from those that are pooled here."""
        return self.pooling == "model" and not self.problem_type.reads_words


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """One row of a request, ready to be computed.

    Attributes:
        adapter: Which one answers it.
        input_ids: The tokens of each of its sequences: one, or one a choice.
        type_ids: The segments of these tokens, where the tokenizer gives them.
        truncated: Whether a text was longer than the adapter's maximal length, and so was cut.
        positions: Where words have tags: the tokens at which they are read, of each sequence; else None.
        words: Their characters in the text.
    """

    adapter: ServedAdapter
    input_ids: list[list[int]]
    type_ids: list[list[int]] | None
    truncated: bool
    positions: list[list[int]] | None = None
    words: Sequence[tuple[int, int]] = ()

    @property
    def length(self) -> int:
        """Tokens of its longest sequence."""
        return max(map(len, self.input_ids))
