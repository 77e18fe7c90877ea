"""Whether a challenger replaces a champion: judged on rows that neither was trained on, by more than one number."""

from beft.promotion.behaviour import PERTURBATIONS, Perturbation, flip_rate, perturb
from beft.promotion.certainty import decision_certainty
from beft.promotion.rules import PromotionRules
from beft.promotion.slices import row_slices, too_many_labels
from beft.promotion.verdict import Check, Evidence, Side, SliceGain, Verdict, judge, slice_gain

__all__ = [
    "PERTURBATIONS",
    "Check",
    "Evidence",
    "Perturbation",
    "PromotionRules",
    "Side",
    "SliceGain",
    "Verdict",
    "decision_certainty",
    "flip_rate",
    "judge",
    "perturb",
    "row_slices",
    "slice_gain",
    "too_many_labels",
]
