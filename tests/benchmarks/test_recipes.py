"""The recipes' measurement: rows of no split, and the arithmetic of its tables."""

import pytest

from beft.datasets.prepared import SPLITS, load_split
from beft.settings import SplitSettings
from benchmarks.common.prepared import prepared_data
from benchmarks.quality.recipe_studies import CHOSEN, EPOCHS_SHARE, STUDIES
from benchmarks.quality.recipes import gains, settings_of, spare_rows, summary, table, with_chosen

STUDY = STUDIES["recipes"]


def test_spare_rows_are_in_no_split() -> None:
    settings = settings_of("rotten_tomatoes", {}, draw=1, threads=1)
    with prepared_data("rotten_tomatoes", "low", settings.split) as prepared:
        spare = spare_rows(prepared, settings, "rotten_tomatoes", STUDY.spare)
        own = {row for split in SPLITS for row in load_split(prepared, split).ids}
    assert len(spare) == STUDY.spare == len(set(spare.ids))
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

    others = STUDY.others
    found = {STUDY.default: of_draws(0.8, 0.4), **{other: of_draws(0.7, 0.7) for other in others}}
    assert gains(STUDY, found, others[0]) == pytest.approx([0.1, -0.3])
    assert "| 60.0 | 80.0, 40.0 |" in table(STUDY, "mine", found)[4]
    other = {STUDY.default: of_draws(0.9, 0.9), **{other: of_draws(0.7, 0.8) for other in others}}
    assert summary(STUDY, {"mine": found, "theirs": other})[4].endswith("| +2.5 | 1 of 2 |")


def test_dev_chooses_a_rate_for_each_draw_and_never_reads_the_spare_rows() -> None:
    def of_draws(*values: tuple[float, float, float]) -> list[dict[str, object]]:
        return [{"dev": dev, "dev_loss": loss, "spare": spare} for dev, loss, spare in values]

    first, second = STUDY.rates
    found = {
        first: of_draws((0.8, 0.5, 0.1), (0.7, 0.1, 0.9), (0.6, 0.5, 0.3)),
        second: of_draws((0.8, 0.4, 0.2), (0.9, 0.9, 0.4), (0.5, 0.1, 0.8)),
    }
    assert [one["spare"] for one in with_chosen(STUDY, found)[CHOSEN]] == [0.2, 0.4, 0.3]


@pytest.mark.parametrize("name", STUDIES)
def test_each_recipe_of_a_study_gives_settings_of_its_own(name: str) -> None:
    study = STUDIES[name]
    trained = {recipe: dict(changes) for recipe, changes in study.recipes.items() if changes is not None}
    shares = [changes.pop(EPOCHS_SHARE, None) for changes in trained.values()]
    made = [settings_of("sst2", {**study.common, **changes}, 0, 1, size=study.size) for changes in trained.values()]
    assert len({(one.model_dump_json(), share) for one, share in zip(made, shares, strict=True)}) == len(made)
    assert made[0] == settings_of("sst2", study.common, 0, 1, size=study.size)
    assert shares[0] in (None, 1)
    assert set(study.rates) <= set(trained)
