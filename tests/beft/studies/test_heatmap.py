"""The heat map shows every score and mark of its tables, and the same tables give the same bytes."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest

from beft.errors import InputError
from beft.importance.result import Importance
from beft.importance.selection import choose_target
from beft.studies.heatmap import draw_heatmap

RATIO = Importance(
    "projection_ratio", {"query": [0.25, 0.35], "key": [0.97, 0.99], "value": [0.61, 0.43], "final_norm": [0.11]}
)
FISHER = Importance("fisher", {"query": [1e-6, 3e-6], "key": [0.0, 0.0], "value": [7e-6, 2e-6], "final_norm": [4e-6]})
ADDED = Importance(
    "projection_ratio", {"query": [None, None], "key": [0.0, 0.0], "value": [None, None], "final_norm": [0.11]}
)
INERT = {"key": True}


def words(path: Path) -> list[str]:
    """The texts of an SVG: drawn as outlines, each with its words in a comment."""
    return [text.strip() for text in re.findall(r"<!--(.*?)-->", path.read_text())]


def drawn(folder: Path, tables: list[Importance], **options: Any) -> list[str]:
    path = folder / "importance.svg"
    draw_heatmap(tables, path, **options)
    ElementTree.fromstring(path.read_bytes())
    return words(path)


def test_every_score_is_there(tmp_path: Path) -> None:
    texts = drawn(tmp_path, [RATIO, FISHER], inert=INERT)
    for expected in ("0.25", "0.35", "0.97", "0.99", "0.61", "0.43"):
        assert expected in texts
    assert {"0.300", "0.520", "0.980", "0.110"} <= set(texts), "the means"
    assert {"1.00", "3.00", "7.00", "4.500"} <= set(texts), "Fisher in units of a millionth"
    assert {"Projection ratio", "Fisher", "query", "key", "value", "final norm"} <= set(texts)


def test_the_selection_is_marked(tmp_path: Path) -> None:
    selection = choose_target([RATIO, FISHER], ("query", "key", "value"), INERT)
    plain = drawn(tmp_path, [RATIO, FISHER], inert=INERT)
    marked = drawn(tmp_path, [RATIO, FISHER], inert=INERT, selection=selection)
    assert {"target term", "chooses"} <= set(marked)
    assert not {"target term", "chooses"} & set(plain)


def test_inert_terms_are_hatched_and_do_not_set_the_scale(tmp_path: Path) -> None:
    path = tmp_path / "importance.svg"
    draw_heatmap([RATIO], path)
    assert "<pattern" not in path.read_text() and "0.99" in words(path)
    draw_heatmap([RATIO], path, inert=INERT)
    assert "<pattern" in path.read_text()
    assert "inert: shifting it changes no logit" in words(path)
    assert words(path).count("0.61") == 2, "a score, and the upper end of the scale"


def test_cells_without_direction_hold_a_dash(tmp_path: Path) -> None:
    texts = drawn(tmp_path, [ADDED], inert=INERT)
    assert texts.count("\N{EN DASH}") == 2 * (2 + 1), "two terms, two layers and their mean"
    assert "\N{EN DASH} no direction: zero before training" in texts
    assert not any("no direction" in text for text in drawn(tmp_path, [RATIO]))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_tables_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    selection = choose_target([RATIO, FISHER], ("query", "key", "value"), INERT)
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    draw_heatmap([RATIO, FISHER], first, selection=selection, inert=INERT, title="tiny")
    with matplotlib.rc_context(
        {"font.size": 30, "svg.hashsalt": None, "axes.facecolor": "red", "svg.fonttype": "none"}
    ):
        draw_heatmap([RATIO, FISHER], second, selection=selection, inert=INERT, title="tiny")
    assert first.read_bytes() == second.read_bytes()
    assert b"Date" not in first.read_bytes() and b"date" not in first.read_bytes()


@pytest.mark.parametrize("layers", [1, 32])
def test_any_number_of_layers(tmp_path: Path, layers: int) -> None:
    table = Importance("magnitude", {"value": [0.1] * layers, "query": [0.0] * layers})
    path = tmp_path / "importance.png"
    draw_heatmap([table], path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_all_zero_scores_can_be_drawn(tmp_path: Path) -> None:
    assert "0.000" in drawn(tmp_path, [Importance("magnitude", {"value": [0.0, 0.0]})])


def test_layers_of_an_encoder_and_a_decoder_are_numbered_apart(tmp_path: Path) -> None:
    scores = {"query": [0.1, 0.2, 0.3, 0.4, 0.5], "embedding_norm": [0.6]}
    plain = drawn(tmp_path, [Importance("fisher", scores)])
    apart = drawn(tmp_path, [Importance("fisher", scores, {"encoder": 2, "decoder": 3})])
    assert [text for text in plain if text.isdigit()][:5] == ["1", "2", "3", "4", "5"]
    assert [text for text in apart if text.isdigit()][:5] == ["1", "2", "1", "2", "3"]
    assert {"encoder", "decoder"} <= set(apart) and not {"encoder", "decoder"} & set(plain)
    tables = [Importance("fisher", scores), Importance("magnitude", scores, {"encoder": 2, "decoder": 3})]
    with pytest.raises(InputError, match="different terms or layers"):
        draw_heatmap(tables, tmp_path / "different.svg")


def test_many_methods_stand_in_two_rows(tmp_path: Path) -> None:
    tables = [Importance(name, RATIO.scores) for name in ("projection_ratio", "magnitude", "magnitude_l2", "fisher")]
    shapes = {}
    for count in (3, 4):
        draw_heatmap(tables[:count], tmp_path / f"{count}.svg")
        root = ElementTree.fromstring((tmp_path / f"{count}.svg").read_bytes())
        _, _, width, height = (float(number) for number in root.attrib["viewBox"].split())
        shapes[count] = (width, height, words(tmp_path / f"{count}.svg").count("query"))
    assert shapes[4][0] < shapes[3][0] and shapes[4][1] > 1.5 * shapes[3][1]
    assert (shapes[3][2], shapes[4][2]) == (1, 2), "each row of panels names the terms"


def test_wrong_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no importance table"):
        draw_heatmap([], tmp_path / "a.png")
    with pytest.raises(InputError, match="different terms or layers"):
        draw_heatmap([RATIO, Importance("fisher", {"query": [1.0]})], tmp_path / "a.png")
    with pytest.raises(InputError, match=r"\.png, \.svg"):
        draw_heatmap([RATIO], tmp_path / "a.bmp")
    assert not list(tmp_path.iterdir()), "nothing half-written"
