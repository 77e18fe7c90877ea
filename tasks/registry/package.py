"""An adapter as a folder that MLflow can load anywhere: the pyfunc model, the package, the adapter, what to install."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from beft.adapters.adapter import Adapter
from beft.files import write_json
from beft.models.gguf import gguf_file
from tasks.engine.declaration import JSON
from tasks.project_files import PROJECT, project_file

LIBRARIES = (
    "mlflow",
    "numpy",
    "pandas",
    "pydantic",
    "PyYAML",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
"""What the model imports when it loads and predicts."""

EXAMPLE = "This is a text to classify."
CHOICES = ("one", "another")
TRAINING_ROWS_FILE = "seen_rows.json"
"""The file of a model that names the rows which it was trained on and chosen by: they must never judge it."""


def requirements(
    base_id: str, *, quantized: bool = False, gguf: bool = False, versions: Mapping[str, str] | None = None
) -> list[str]:
    """What to install where the model is loaded: the libraries that it was trained with, and the base's own package.

    Args:
        quantized: Whether the base is computed with quantised weights.
        gguf: Whether it is a GGUF file.
        versions: Of libraries where it was trained, as far as they are known; of the others, those here.
    """
    known = versions or {}
    needed = [*LIBRARIES, *(["accelerate", "bitsandbytes"] if quantized else []), *(["gguf"] if gguf else [])]
    pinned = [f"{name}=={(known.get(name) or version(name)).split('+')[0]}" for name in needed]
    return [*pinned, base_id.removeprefix("pypi:")] if base_id.startswith("pypi:") else pinned


def save_model(
    folder: Path,
    adapter_folder: Path,
    adapter: Adapter,
    model: Any,
    *,
    base: Path,
    pairs: bool,
    seen: Sequence[str],
    metadata: Mapping[str, JSON],
) -> None:
    """Write an adapter as an MLflow model.

    Args:
        folder: Where to; it must not be there yet.
        model: The ``mlflow.models.Model`` that says to which run it belongs.
        pairs: Whether the adapter reads pairs of texts.
        base: The folder of the base that it was trained on.
        seen: The ids of the rows that it was trained on and chosen by.
        metadata: JSON that is kept in the model's own file.
    """
    import mlflow
    import pandas as pd

    example: dict[str, Any] = {column: [EXAMPLE] for column in (["text", "text_pair"] if pairs else ["text"])}
    if adapter.takes_choices:
        example["choices"] = [list(CHOICES)]
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(project_file("mlflow/pyfunc_model.py")),
        code_paths=[str(PROJECT / "beft")],
        artifacts={"adapter": adapter_folder.resolve().as_uri()},
        model_config={"base": None, "device": "auto", "precision": "fp32"},
        mlflow_model=model,
        pip_requirements=requirements(
            adapter.base_id,
            quantized=adapter.quantization not in (None, "none"),
            gguf=gguf_file(base) is not None,
            versions=(metadata.get("facts") or {}).get("environment"),
        ),
        signature=signature(adapter, list(example)),
        input_example=pd.DataFrame(example),
        metadata=dict(metadata),
    )
    # MLflow notes where the files were on this machine; it finds them by their names below the model's own folder.
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    flavor["artifacts"]["adapter"]["uri"] = flavor["artifacts"]["adapter"]["path"]
    model.save(str(folder / "MLmodel"))
    write_json(folder / TRAINING_ROWS_FILE, sorted({row.split("-", 1)[0] for row in seen}))


def signature(adapter: Adapter, columns: Sequence[str]) -> Any:
    """The columns of the model's tables, in and out.

    Args:
        columns: Those of the table that is given.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array, Object, Property

    given = [ColSpec(Array(DataType.string) if name == "choices" else DataType.string, name) for name in columns]
    if adapter.problem_type.reads_words:
        parts = {"start": DataType.long, "end": DataType.long, "label": DataType.string, "text": DataType.string}
        span = Object([Property(name, kind) for name, kind in {**parts, "score": DataType.double}.items()])
        answered = [ColSpec(Array(span), "spans")]
    elif adapter.labels:
        probabilities = [ColSpec(DataType.double, f"probability_{label}") for label in adapter.labels]
        several = adapter.problem_type.has_thresholds
        label = ColSpec(Array(DataType.string), "labels") if several else ColSpec(DataType.string, "label")
        answered = [label, *probabilities]
    elif adapter.takes_choices:
        answered = [
            ColSpec(DataType.string, "choice"),
            ColSpec(DataType.long, "index"),
            ColSpec(Array(DataType.double), "probabilities"),
        ]
    elif adapter.problem_type.generates:
        answered = [ColSpec(DataType.string, "answer")]
    else:
        answered = [ColSpec(DataType.double, "value")]
    return ModelSignature(Schema(given), Schema(answered))
