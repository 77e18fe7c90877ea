"""Tables say the same in every form: what is read back is what was put in, whatever characters the texts hold."""

import csv
import json
import re
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from beft.errors import InputError
from beft.tables import Cell, Column, ScoreInterval, Table

SMALL = Table(
    "Accuracy on dev",
    ["method", Column("accuracy", digits=1), Column("regret", digits=2, signed=True), "runs"],
    [
        ["projection_ratio", ScoreInterval(78.94, 77.06, 80.21), 0.5, 5],
        ["all | biases", None, -0.125, 10],
    ],
    notes=["5 seeds; 95 % of the draws."],
    bold=frozenset({(0, 1)}),
)

texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
cells = st.one_of(
    texts,
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.none(),
    st.builds(ScoreInterval, *[st.floats(-1e6, 1e6)] * 3),
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    columns = draw(st.lists(texts, min_size=1, max_size=4))
    rows = draw(st.lists(st.lists(cells, min_size=len(columns), max_size=len(columns)), max_size=4))
    return Table(draw(texts), columns, rows, draw(st.lists(texts, max_size=2)))


def test_markdown() -> None:
    assert SMALL.to_markdown() == (
        "**Accuracy on dev**\n\n"
        "| method | accuracy | regret | runs |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| projection_ratio | **78.9 [77.1, 80.2]** | +0.50 | 5 |\n"
        "| all \\| biases | \N{EN DASH} | -0.12 | 10 |\n\n"
        "5 seeds; 95 % of the draws.\n"
    )


def test_latex() -> None:
    latex = SMALL.to_latex().splitlines()
    assert r"\caption{Accuracy on dev}" in latex and r"\begin{tabular}{lrrr}" in latex
    assert r"projection\_ratio & \textbf{78.9 {[}77.1, 80.2{]}} & +0.50 & 5 \\" in latex
    assert r"all \textbar{} biases & -- & -0.12 & 10 \\" in latex
    assert r"\par\smallskip {\footnotesize 5 seeds; 95 \% of the draws.}" in latex


def test_csv_holds_numbers_in_full_and_intervals_in_columns_of_their_own() -> None:
    read = list(csv.reader(StringIO(SMALL.to_csv())))
    assert read == [
        ["method", "accuracy", "accuracy low", "accuracy high", "regret", "runs"],
        ["projection_ratio", "78.94", "77.06", "80.21", "0.5", "5"],
        ["all | biases", "", "", "", "-0.125", "10"],
    ]


@given(tables())
def test_csv_reads_back(table: Table) -> None:
    read = list(csv.reader(StringIO(table.to_csv(), newline="")))
    assert len(read) == 1 + len(table.rows)
    for line, row in zip(read[1:], table.rows, strict=True):
        values: list[Cell] = []
        for at, cell in enumerate(row):
            if isinstance(cell, ScoreInterval):
                values += [cell.value, cell.low, cell.high]
            else:
                wide = any(isinstance(other[at], ScoreInterval) for other in table.rows)
                values += [cell, None, None] if wide else [cell]
        assert len(line) == len(values)
        for text, value in zip(line, values, strict=True):
            assert text == value if isinstance(value, str) else text == "" if value is None else float(text) == value


@given(tables())
def test_no_text_changes_the_shape_of_markdown_and_latex(table: Table) -> None:
    body = table.to_markdown().split("\n\n")[1 if table.title else 0].strip("\n").split("\n")
    assert len(body) == 2 + len(table.rows)
    for line in body:
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == len(table.columns) + 1
    latex = table.to_latex().splitlines()
    for line in latex[latex.index(r"\toprule") : latex.index(r"\bottomrule")]:
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) - 1
            assert not re.search(r"(?<!\\)[#%_]", line)
            unescaped = re.sub(r"\\[{}]", "", line)
            assert unescaped.count("{") == unescaped.count("}")


@given(tables())
def test_json_and_the_terminal_take_every_table(table: Table) -> None:
    value = json.loads(json.dumps(table.to_json(), allow_nan=False))
    assert len(value["rows"]) == len(table.rows) and value["columns"] == [column.name for column in table.columns]
    Console(file=StringIO(), width=200).print(table)


def test_the_terminal_takes_no_text_as_markup() -> None:
    out = StringIO()
    table = Table("[red]t", ["[bold]x"], [["[/]"]], notes=["[link]n"])
    Console(file=out, width=80).print(table)
    assert all(text in out.getvalue() for text in ("[red]t", "[bold]x", "[/]", "[link]n"))


@pytest.mark.parametrize(
    ("column", "cell", "text"),
    [
        (Column("x"), 0.0004, "0.0004"),
        (Column("x"), 1234.5, "1.23e+03"),
        (Column("x", digits=1), -0.04, "0.0"),
        (Column("x", digits=1, signed=True), -0.04, "0.0"),
        (Column("x", digits=1, signed=True), 0.26, "+0.3"),
        (Column("x", signed=True), 3, "+3"),
        (Column("x"), True, "yes"),
        (Column("x"), None, "\N{EN DASH}"),
        (Column("x", digits=1), ScoreInterval(1.26), "1.3"),
    ],
)
def test_numbers_as_people_read_them(column: Column, cell: Cell, text: str) -> None:
    assert column.text(cell) == text


def test_a_wrong_table_is_refused() -> None:
    with pytest.raises(InputError, match="row 2 of the table 't' has 1 cells, not 2"):
        Table("t", ["a", "b"], [[1, 2], [1]])
    with pytest.raises(InputError, match="column 'b': not a finite number"):
        Table("t", ["a", "b"], [[1, float("nan")]])
    with pytest.raises(InputError, match="not a finite number"):
        Table("t", ["a"], [[ScoreInterval(1, 0, float("inf"))]])
    with pytest.raises(InputError, match="no columns"):
        Table("t", [], [])
    with pytest.raises(InputError, match="should be bold"):
        Table("t", ["a"], [[1]], bold=frozenset({(1, 0)}))


def test_the_suffix_says_the_form(tmp_path: Path) -> None:
    for suffix, text in ((".md", SMALL.to_markdown()), (".csv", SMALL.to_csv()), (".tex", SMALL.to_latex())):
        SMALL.write(tmp_path / f"table{suffix}")
        assert (tmp_path / f"table{suffix}").read_text() == text
    SMALL.write(tmp_path / "table.json")
    assert json.loads((tmp_path / "table.json").read_text()) == SMALL.to_json()
    with pytest.raises(InputError, match=r"not as 'table\.html'"):
        SMALL.write(tmp_path / "table.html")
