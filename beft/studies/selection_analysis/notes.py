"""What every analysis says about what it left out."""

from collections.abc import Sequence

from beft.studies.selection_analysis.cells import CellTable


def common_notes(tables: Sequence[CellTable]) -> list[str]:
    """Sentences about inert terms, methods that cannot choose, and seeds that lack a term."""
    notes = []
    inert = sorted({term for table in tables for term in table.inert})
    if inert:
        notes.append(f"Left out as inert (shifting them changes no logit), as the selection does: {', '.join(inert)}.")
    for method in sorted({method for table in tables for method in table.unable}):
        cells = [f"{table.cell.text()} ({table.unable[method]})" for table in tables if method in table.unable]
        notes.append(f"{method} cannot choose in {len(cells)} of {len(tables)} cells: {'; '.join(cells)}.")
    short = [f"{table.cell.text()}: {', '.join(map(str, table.left_out))}" for table in tables if table.left_out]
    if short:
        notes.append(f"Seeds left out, since a term is missing in them: {'; '.join(short)}.")
    return notes
