"""The figures of selections, drawn from the results of the analyses; the same results give the same bytes."""

from beft.selection_analysis.figures.carry_over import draw_carry_over
from beft.selection_analysis.figures.extension import draw_extension
from beft.selection_analysis.figures.intervals import draw_agreement, draw_regret, draw_stability
from beft.selection_analysis.figures.ranking import draw_figure1, draw_figure4

__all__ = [
    "draw_agreement",
    "draw_carry_over",
    "draw_extension",
    "draw_figure1",
    "draw_figure4",
    "draw_regret",
    "draw_stability",
]
