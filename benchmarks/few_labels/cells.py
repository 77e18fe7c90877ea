"""What is measured: data sets, rows a label, and over how many draws."""

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """One data set with so many rows a label.

    Attributes:
        draws: How many samples are drawn; their numbers begin at 0.
    """

    dataset: str
    rows: int
    draws: int

    @property
    def name(self) -> str:
        """Its name in results.json."""
        return f"{self.dataset}/{self.rows}"


CELLS = (
    *(Cell(dataset, rows, 10) for dataset in ("sst2", "rotten_tomatoes", "trec") for rows in (8, 16, 64)),
    *(Cell(dataset, 500, 3) for dataset in ("sst2", "rotten_tomatoes")),
    *(Cell("banking77", rows, 3) for rows in (8, 16)),
)
"""The study, in the order of its table."""

DATASETS = tuple(dict.fromkeys(cell.dataset for cell in CELLS))


def select_cells(
    datasets: Collection[str] | None = None, rows: Collection[int] | None = None, draws: int | None = None
) -> list[Cell]:
    """The cells of some data sets and numbers of rows; ``draws``: in each so many of its draws at most."""
    return [
        Cell(cell.dataset, cell.rows, min(draws or cell.draws, cell.draws))
        for cell in CELLS
        if (datasets is None or cell.dataset in datasets) and (rows is None or cell.rows in rows)
    ]
