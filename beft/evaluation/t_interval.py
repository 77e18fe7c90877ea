"""Student's t-interval."""


def t_interval(value: float, standard_error: float, freedom: float, confidence: float) -> tuple[float, float]:
    """The interval around a value that is normal with an estimated standard error; without width where that is 0.

    Args:
        freedom: The degrees of freedom of the standard error.
        confidence: For example 0.95.
    """
    from scipy.stats import t

    if standard_error == 0:
        return value, value
    low, high = t.interval(confidence, freedom, value, standard_error)
    return float(low), float(high)
