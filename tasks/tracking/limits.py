"""How long the texts may be that MLflow keeps: what describes is cut, what names is checked before anything is trained.

SQLite keeps whatever it is given; PostgreSQL refuses a text that is longer than its column, MLflow some of them itself.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from tasks.model_name import model_name
from tasks.settings import PipelineSettings

PARAM, TAG, RUN_NAME, METRIC = 6000, 8000, 250, 250
REGISTRY_TEXT = 5000
"""Characters of a description in the registry, and of a tag of a registered model or a version."""
DATASET_SOURCE, DATASET_DIGEST = 65535, 36

_REGISTERED_NAME = 256
_DATASET = 100
"""Of a dataset's name: two of them stand in the name of a metric, which has 250, one in the name of a folder."""


def name_problems(settings: PipelineSettings) -> Iterator[str]:
    """What of the settings would make a name that MLflow does not take."""
    source = settings.base.source
    if source.startswith("pypi:"):
        base_id = source
    elif Path(source).expanduser().is_dir():
        base_id = f"sha256:{'0' * 64}"
    else:
        base_id = f"hub:{source.removeprefix('hub:').partition('@')[0]}@{'0' * 40}"
    for name in settings.datasets:
        if len(name) > _DATASET:
            yield f"datasets: the name {name[:20]}… has {len(name)} characters; it may have {_DATASET}: rename its file"
            continue
        registered = model_name(settings.tracking.model_prefix, base_id, name)
        if len(registered) > _REGISTERED_NAME:
            spare = max(0, len(settings.tracking.model_prefix) - (len(registered) - _REGISTERED_NAME))
            yield (
                f"tracking.model_prefix: the registered model of {name} would have a name of {len(registered)} "
                f"characters, and MLflow takes {_REGISTERED_NAME}; shorten it to {spare} characters or fewer"
            )


def as_metric_name(name: str) -> str:
    """A name as a part of a metric's, without what MLflow refuses there: "value, rate 0.01" is "value rate 0.01"."""
    return re.sub(r"[^\w.\- :]", "", name)
