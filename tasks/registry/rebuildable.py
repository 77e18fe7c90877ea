"""Whether a version can be rebuilt from its registry entry: said when it is registered, not found out later."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beft.adapters.adapter import Adapter
from tasks.engine.declaration import JSON
from tasks.source_archive import source_sha256_of

MISSING = "rebuild_missing"
"""The tag of a version that says what is kept nowhere, or ``NOTHING``; such a version does not become champion."""
NEEDS = "rebuild_needs"
"""The tag of a version that says what has to be at hand where it is rebuilt."""
NOTHING = "nothing"

_PINNED = ("pypi:", "hub:")


@dataclass(frozen=True)
class Rebuildable:
    """What stands between a version and its being rebuilt.

    Attributes:
        missing: What is kept nowhere: it cannot be rebuilt.
        needs: What has to be at hand beside the registry, git and DVC's remote.
    """

    missing: tuple[str, ...]
    needs: tuple[str, ...]

    @property
    def tags(self) -> dict[str, str]:
        """The same as tags of a version."""
        tags = {MISSING: "; ".join(self.missing) or NOTHING}
        return tags | ({NEEDS: "; ".join(self.needs)} if self.needs else {})

    @property
    def summary(self) -> str:
        """One sentence without a full stop; empty where there is nothing to say."""
        lacks = f"it cannot be rebuilt: {'; '.join(self.missing)}" if self.missing else ""
        needs = f"a rebuild needs {'; '.join(self.needs)}" if self.needs else ""
        return "; ".join(filter(None, [lacks, needs]))


def has_commit(facts: Mapping[str, JSON]) -> bool:
    """Whether a commit holds the source that trained it, by the facts of its run."""
    return bool(facts.get("commit")) and not facts.get("dirty")


def rebuildable(
    facts: Mapping[str, JSON], data: Mapping[str, Any], adapter: Adapter, project: Path, *, pushed: bool
) -> Rebuildable:
    """What will be missing, and what will be needed, when a version is rebuilt.

    Args:
        facts: Those of the run (``tasks.run_metadata.run_facts``).
        data: The ``data.json`` of the prepared data.
        project: The folder of the source.
        pushed: Whether the data was copied to DVC's remote.
    """
    missing, needs = [], []
    if not has_commit(facts) and source_sha256_of(project) != facts.get("source_sha256"):
        missing.append("its source, which is that of no commit, was changed before it could be kept")
    name, origin = data["dataset"], str(data["source"]["origin"])
    if facts["data"][name].get("prepared_md5"):
        if not pushed:
            needs.append("the DVC cache of this machine (versioning.push is false)")
    elif origin.startswith(_PINNED) and (project / "beft" / "datasets" / f"{name}.yaml").is_file():
        needs.append(f"the source of its data, {origin}")
    else:
        missing.append(
            f"its data comes from {origin} and DVC does not hold it (it does where params.yaml names the dataset "
            f"{name} with the settings of the run)"
        )
    if adapter.base_id.startswith("sha256:"):
        needs.append(f"the folder of its base ({adapter.base_id[:19]}…)")
    return Rebuildable(tuple(missing), tuple(needs))
