"""An adapter as an MLflow model ("models from code"): a table with a column of texts in, what is predicted out.

MLflow copies this file and the ``beft`` package into every model, so that it loads where beft is not installed. The
model holds the adapter alone: its base is found by the portable id that the adapter names, and its hash is checked.

    model = mlflow.pyfunc.load_model("models:/NAME@champion")
    model.predict(pandas.DataFrame({"text": ["what a film"]}))

A base that is known by its hash alone (it was a local folder) is named when the model is loaded:

    mlflow.pyfunc.load_model("models:/NAME@champion", model_config={"base": "/path/to/the/base"})
"""

from typing import Any

import mlflow
import pandas
from mlflow.pyfunc import PythonModel, PythonModelContext


class AdapterModel(PythonModel):  # type: ignore[misc]
    """The adapter over its base, loaded once."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the base, check its hash, attach the adapter."""
        from beft.prediction import Predictor

        self.predictor = Predictor(context.artifacts["adapter"], **(context.model_config or {}))

    def predict(
        self, context: PythonModelContext, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> pandas.DataFrame:
        """What is predicted, row by row, under the rows' own index.

        Classification gives ``label`` and ``probability_LABEL`` of every label; multi-label classification ``labels``
        (a list) and ``probability_LABEL`` of every label; token classification ``spans`` (a list of which each has
        ``start``, ``end``, ``label``, ``text`` and ``score``); choices ``choice``, its ``index`` and
        ``probabilities`` (a list); regression ``value``; generation ``answer``.

        Args:
            model_input: Column ``text``; column ``text_pair`` where the adapter was trained on pairs; column
                ``choices``, of lists, where it chooses among a row's own.
        """
        pairs = list(model_input["text_pair"]) if "text_pair" in model_input.columns else None
        choices = [list(of_row) for of_row in model_input["choices"]] if "choices" in model_input.columns else None
        rows = []
        for row in self.predictor.predict(list(model_input["text"]), pairs, choices):
            if "label" in row or "labels" in row:
                row |= {f"probability_{name}": value for name, value in row.pop("probabilities").items()}
            rows.append(row)
        return pandas.DataFrame(rows, index=model_input.index)


mlflow.models.set_model(AdapterModel())
