"""The figures of selections, drawn from the results of the analyses; the same results give the same bytes."""
