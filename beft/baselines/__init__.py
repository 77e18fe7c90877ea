"""What a target is measured against.

Two cheap baselines that it has to beat, tuned as fairly as it is:

- ``fit_logistic_regression``: on the base's frozen mean-pooled features, standardised, C chosen on dev; for values
  it is ``fit_ridge_regression``, for choices ``fit_conditional_logit``.
- ``fit_head_only``: the output layer alone, trained as the target trains it, on the frozen features that it sees.

Both are functions of arrays: the base runs once to give the features, and is not needed again.

And ``fit_weights``, which trains weights as the target trains its biases: all of the base (``FullFineTuning``), some
drawn at random (``RandUniform``), low-rank matrices beside its projections (``Lora``), keys and values before its own
(``Prefix``), or low-rank changes of its value biases (``LowRankValue``).
"""

from beft.baselines.by_shape import LINEAR_BASELINES, fit_linear_baseline, linear_head
from beft.baselines.conditional_logit import fit_conditional_logit
from beft.baselines.full import FullFineTuning
from beft.baselines.head_only import HeadSearch, fit_head_only
from beft.baselines.linear import LinearClassifier
from beft.baselines.logistic_regression import fit_logistic_regression, logistic_regression_head
from beft.baselines.lora import Lora
from beft.baselines.low_rank_value import LowRankValue
from beft.baselines.prefix import Prefix
from beft.baselines.rand_uniform import RandUniform
from beft.baselines.ridge_regression import fit_ridge_regression
from beft.baselines.weight_method import TrainedWeights, WeightMethod, WeightsState
from beft.baselines.weights import WeightsResult, attached_weights, fit_weights

__all__ = [
    "LINEAR_BASELINES",
    "FullFineTuning",
    "HeadSearch",
    "LinearClassifier",
    "Lora",
    "LowRankValue",
    "Prefix",
    "RandUniform",
    "TrainedWeights",
    "WeightMethod",
    "WeightsResult",
    "WeightsState",
    "attached_weights",
    "fit_conditional_logit",
    "fit_head_only",
    "fit_linear_baseline",
    "fit_logistic_regression",
    "fit_ridge_regression",
    "fit_weights",
    "linear_head",
    "logistic_regression_head",
]
