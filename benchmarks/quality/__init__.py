"""Accuracy: recipes, learning rates and terms, and how many rows it takes to see a gain."""
