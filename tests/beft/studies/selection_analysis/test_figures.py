"""The figures show every term, method and cell, and the same results give the same bytes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from beft.errors import InputError
from beft.studies.selection_analysis.agreement import agreement
from beft.studies.selection_analysis.figures.extension import draw_extension
from beft.studies.selection_analysis.figures.intervals import draw_agreement, draw_regret, draw_stability
from beft.studies.selection_analysis.figures.ranking import draw_figure1, draw_figure4
from beft.studies.selection_analysis.figures.transfer import draw_transfer
from beft.studies.selection_analysis.gaps import gaps
from beft.studies.selection_analysis.ranks import ranks
from beft.studies.selection_analysis.records import TermRecord
from beft.studies.selection_analysis.regret import regret
from beft.studies.selection_analysis.reports import extension, figure1, figure4
from beft.studies.selection_analysis.stability import stability
from beft.studies.selection_analysis.transfer import transfer
from tests.beft.studies.selection_analysis.experiments import cell_records, drawn_records

RATES = (1e-4, 1e-3)
METHODS = ("projection_ratio", "fisher")


def with_inert_key(records: list[TermRecord]) -> list[TermRecord]:
    return [record.model_copy(update={"inert": record.term == "key"}) for record in records]


RECORDS = with_inert_key(drawn_records(("cola", "sst2"), ("low", "all"), seeds=3, methods=METHODS))
ONE_CELL = [record for record in RECORDS if (record.dataset, record.regime) == ("sst2", "low")]
SWEPT = [
    record
    for at, rate in enumerate(RATES)
    for record in drawn_records(("cb", "wic"), ("low",), seeds=3, seed=at, learning_rate=rate, methods=METHODS)
] + [
    TermRecord(dataset=dataset, seed=seed, term="all_biases", value=0.5 + 0.1 * seed, learning_rate=rate)
    for dataset in ("cb", "wic")
    for seed in range(3)
    for rate in RATES
]
DRAWN: dict[str, Callable[[Path], None]] = {
    "figure1": lambda path: draw_figure1(ranks(ONE_CELL), path, title="sst2, low"),
    "figure4": lambda path: draw_figure4(ranks(RECORDS), path, title="two datasets"),
    "regret": lambda path: draw_regret(regret(RECORDS), path),
    "stability": lambda path: draw_stability(stability(RECORDS), path),
    "agreement": lambda path: draw_agreement(agreement(RECORDS), path),
    "extension": lambda path: draw_extension(gaps(SWEPT), path),
    "transfer": lambda path: draw_transfer(transfer(RECORDS), path),
}


def words(path: Path) -> set[str]:
    """The texts of an SVG: drawn as outlines, each with its words in a comment."""
    ElementTree.fromstring(path.read_bytes())
    return {text.strip() for text in re.findall(r"<!--(.*?)-->", path.read_text(), flags=re.DOTALL)}


OTHER_SETTINGS = {"font.size": 30, "svg.hashsalt": None, "svg.fonttype": "none"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each figure as an SVG, drawn once."""
    folder = tmp_path_factory.mktemp("figures")

    def path(name: str) -> Path:
        if not (folder / f"{name}.svg").exists():
            DRAWN[name](folder / f"{name}.svg")
        return folder / f"{name}.svg"

    return path


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_results_give_the_same_bytes_whatever_the_user_has_set(
    name: str, tmp_path: Path, drawn: Callable[[str], Path]
) -> None:
    with matplotlib.rc_context(OTHER_SETTINGS):
        DRAWN[name](tmp_path / "again.svg")
    assert drawn(name).read_bytes() == (tmp_path / "again.svg").read_bytes()
    assert b"<dc:date>" not in drawn(name).read_bytes()


def test_pixels_are_the_same_too(tmp_path: Path) -> None:
    DRAWN["transfer"](tmp_path / "first.png")
    with matplotlib.rc_context(OTHER_SETTINGS):
        DRAWN["transfer"](tmp_path / "second.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("figure1", {"sst2, low", "Projection ratio", "Fisher", "$b_q$", "$b_k$", "$b_v$", "inert", "Accuracy, %"}),
        ("figure4", {"two datasets", "Projection ratio", "Fisher", "low", "all", "$b_k$  key (inert)", "inert"}),
        (
            "regret",
            {"Projection ratio", "Fisher", "Always value", "Random choice", "Best on dev", "best term selected, %"},
        ),
        ("stability", {"Projection ratio", "Fisher", "Kendall's tau between seeds"}),
        ("agreement", {"Projection ratio", "Fisher", "Kendall's tau between importance and accuracy"}),
        ("extension", {"cb", "wic", "learning rate", "0.0001", "0.001", "all biases", "Accuracy, %"}),
        ("transfer", {"Projection ratio", "Fisher", "cola", "sst2", "selected on"}),
    ],
)
def test_what_it_is_about_is_there(name: str, expected: set[str], drawn: Callable[[str], Path]) -> None:
    assert expected <= words(drawn(name))


def test_the_numbers_in_the_pictures_are_those_of_the_results(drawn: Callable[[str], Path]) -> None:
    texts = words(drawn("regret"))
    found = regret(RECORDS)
    for one in found.overall.values():
        low, high = one.regret.low, one.regret.high
        assert low is not None and high is not None
        assert f"{100 * one.regret.value:.2f}  [{100 * low:.2f}, {100 * high:.2f}]" in texts
        assert f"{100 * one.best_chosen:.0f}" in texts
    matrix = transfer(RECORDS).methods["fisher"].matrix
    assert {f"{100 * cell.value:.1f}" for row in matrix for cell in row if cell is not None} <= words(drawn("transfer"))


@pytest.mark.parametrize("name", DRAWN)
def test_no_text_stands_outside_of_the_picture(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def measured(figure: Figure, buffer: Any, **options: Any) -> None:
        FigureCanvasAgg(figure).draw()  # lays the figure out
        for text in figure.findobj(Text):
            if not isinstance(text, Text) or not text.get_text().strip() or text in hidden(figure):
                continue
            extent = text.get_window_extent()
            seen.append(text.get_text())
            assert extent.x0 >= -1 and extent.x1 <= figure.bbox.x1 + 1, text.get_text()
            assert extent.y0 >= -1 and extent.y1 <= figure.bbox.y1 + 1, text.get_text()

    monkeypatch.setattr(Figure, "savefig", measured)
    DRAWN[name](tmp_path / "figure.png")
    assert seen


def hidden(figure: Figure) -> list[Any]:
    """Labels of ticks that lie outside of what an axis shows, and all of the axes that are switched off."""
    found: list[Any] = []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            outside = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
            found += [label for tick in outside for label in (tick.label1, tick.label2)]
        found += axes.findobj(Text) if not axes.axison else []
    return found


def test_one_seed_can_be_drawn(tmp_path: Path) -> None:
    records = cell_records({"query": [1], "value": [2]}, {"query": [0.5], "value": [0.6]})
    draw_figure1(ranks(records), tmp_path / "figure.svg")
    assert "selected in most seeds" in words(tmp_path / "figure.svg")
    draw_regret(regret(records), tmp_path / "regret.svg")
    assert "10.00" not in words(tmp_path / "regret.svg") and "5.00" in words(tmp_path / "regret.svg")


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one dataset and regime, not 4"):
        draw_figure1(ranks(RECORDS), tmp_path / "a.png")
    with pytest.raises(InputError, match=r"\.png, \.svg"):
        draw_figure4(ranks(RECORDS), tmp_path / "a.bmp")
    with pytest.raises(InputError, match="no bias term was trained"):
        draw_figure4(ranks(cell_records({"query": [1], "value": [2]}, {})), tmp_path / "a.png")
    with pytest.raises(InputError, match="differ in learning rate or epochs"):
        draw_extension(gaps(RECORDS, along=("regime",)), tmp_path / "a.png")
    with pytest.raises(InputError, match="Did you mean 'fisher'"):
        draw_transfer(transfer(RECORDS), tmp_path / "a.png", methods=["fischer"])
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_the_reports_hold_every_analysis(tmp_path: Path) -> None:
    report = figure4(RECORDS)
    assert set(report.tables) == {"ranks", "stability", "agreement", "regret", "regret_by_cell", "gaps"}
    assert set(report.figures) == {"figure4", "stability", "agreement", "regret"} and not report.left_out
    by_fisher = [
        record.model_copy(update={"importance": {"fisher": record.importance["fisher"]} if record.importance else {}})
        for record in SWEPT
    ]
    paths = extension(by_fisher).write(tmp_path)
    assert all(path.stat().st_size for path in paths)
    assert {"gaps.md", "gaps.tex", "points_fisher.csv", "extension_fisher.png", "transfer.svg", "results.json"} <= {
        path.name for path in paths
    }


def test_an_analysis_that_the_records_do_not_allow_says_why() -> None:
    report = figure1([record for record in ONE_CELL if record.seed == 0])
    assert set(report.left_out) == {"stability"} and "two seeds" in report.left_out["stability"]
    assert set(report.figures) == {"figure1", "agreement", "regret"}
    assert set(extension(ONE_CELL).left_out) == {"gaps", "transfer"}
    with pytest.raises(InputError, match="figure 1 shows one dataset and regime, not 4"):
        figure1(RECORDS)
    with pytest.raises(InputError, match="no bias term was trained alone"):
        figure4(cell_records({"query": [1], "value": [2]}, {}))
