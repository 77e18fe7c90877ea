"""The recipes' measurement: rows of no split, and the arithmetic of its tables."""

import pytest

from beft.datasets import SPLITS, load_split
from beft.settings import SplitSettings
from benchmarks.prepared import prepared_data
from benchmarks.recipes import DEFAULT, RECIPES, SPARE, gains, settings_of, spare_rows, summary, table


def test_spare_rows_are_in_no_split() -> None:
    settings = settings_of("rotten_tomatoes", {}, draw=1, threads=1)
    with prepared_data("rotten_tomatoes", "low", settings.split) as prepared:
        spare = spare_rows(prepared, settings, "rotten_tomatoes")
        own = {row for split in SPLITS for row in load_split(prepared, split).ids}
    assert len(spare) == SPARE == len(set(spare.ids))
    assert not own & set(spare.ids)


def test_a_recipe_changes_what_it_names_and_nothing_else() -> None:
    plain = settings_of("imdb", {}, draw=2, threads=1)
    assert plain.split == SplitSettings(draw=2)
    assert plain.seed == 2
    changed = settings_of("imdb", {"train.learning_rate": 0.005}, draw=2, threads=1)
    assert changed.train == plain.train.model_copy(update={"learning_rate": 0.005})
    assert changed.model_dump(exclude={"train"}) == plain.model_dump(exclude={"train"})


def test_gains_are_paired_by_draw() -> None:
    def of_draws(*values: float) -> list[dict[str, object]]:
        rows = {"train": 800, "dev": 200, "spare": 2000}
        return [{"metric": "f1", "rows": rows, "epochs": 8, "dev": 0.5, "dev_loss": 0.6, "spare": v} for v in values]

    others = list(RECIPES)[1:]
    found = {DEFAULT: of_draws(0.8, 0.4), **{other: of_draws(0.7, 0.7) for other in others}}
    assert gains(found, others[0]) == pytest.approx([0.1, -0.3])
    assert "| 60.0 | 80.0, 40.0 |" in table("mine", found)[4]
    other = {DEFAULT: of_draws(0.9, 0.9), **{other: of_draws(0.7, 0.8) for other in others}}
    assert summary({"mine": found, "theirs": other})[4].endswith("| +2.5 | 1 of 2 |")
