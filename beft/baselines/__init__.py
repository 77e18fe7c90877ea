"""The two cheap baselines that a target has to beat, tuned as fairly as the target is.

- ``fit_logistic_regression``: on the base's frozen mean-pooled features, standardised, C chosen on dev.
- ``fit_head_only``: the output layer alone, trained as the target trains it, on the frozen features that it sees.

Both are functions of arrays: the base runs once to give the features, and is not needed again.
"""

from beft.baselines.head_only import HeadSearch, fit_head_only
from beft.baselines.linear import LinearClassifier
from beft.baselines.logistic_regression import fit_logistic_regression, logistic_regression_head

__all__ = ["HeadSearch", "LinearClassifier", "fit_head_only", "fit_logistic_regression", "logistic_regression_head"]
