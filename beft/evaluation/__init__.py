"""Scores of predictions, their intervals, and the rules of promotion."""
