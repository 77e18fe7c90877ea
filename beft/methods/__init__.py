"""Methods side by side: every way to adapt a base to a dataset, measured by one call on the same rows.

``measure`` measures one method from one seed, ``measure_many`` any number of them: what moves nothing but bias vectors
and the head is trained in shared passes, the rest one by one. ``METHODS`` lists the methods.
"""

from beft.methods.measuring import measure, measure_many
from beft.methods.registry import METHODS, Kind, MethodOptions, known_method
from beft.methods.result import MethodResult, MethodRun, NotAvailable
from beft.methods.table import MethodRow, method_rows, side_by_side

__all__ = [
    "METHODS",
    "Kind",
    "MethodOptions",
    "MethodResult",
    "MethodRow",
    "MethodRun",
    "NotAvailable",
    "known_method",
    "measure",
    "measure_many",
    "method_rows",
    "side_by_side",
]
