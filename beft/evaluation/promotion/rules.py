"""What a challenger has to meet, as settings."""

from typing import Literal

from pydantic import Field

from beft.training_settings import Section

PerturbationName = Literal["case", "punctuation", "names"]


class PromotionRules(Section):
    """What a challenger has to meet to become champion; all of it is stated in the report of each decision."""

    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the interval and the test of its gain")
    floor: float | None = Field(
        None, description="the least value of the headline metric; None: that of always answering the commonest label"
    )
    slices: tuple[str, ...] = Field(
        ("length", "label"),
        description="the challenger must not lose on: length, label, a column that a dataset keeps, or group",
    )
    slice_margin: float = Field(0.05, ge=0, le=1, description="loss on a slice that is tolerated")
    slice_rows: int = Field(50, ge=10, description="smaller slices are shown and not judged")
    flips: dict[PerturbationName, float] = Field(
        {"case": 0.1, "punctuation": 0.1, "names": 0.1},
        description="share of the answers that may change when a text changes in what should not matter",
    )
    latency_ratio: float = Field(1.5, gt=0, description="how much longer than the champion it may take for the rows")
    adapter_kilobytes: float = Field(2000, gt=0, description="the most that its adapter may take on disk")
    decisions_on_gate: int = Field(
        20, ge=1, description="after so many decisions on one gate split fresh rows are asked for"
    )
