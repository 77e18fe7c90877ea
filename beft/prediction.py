"""Where models that were registered before find the predictor: their ``pyfunc_model.py`` imports it from here."""

from beft.inference.predictor import Predictor

__all__ = ["Predictor"]
