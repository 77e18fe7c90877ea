"""Configure one DVC as another: ``python -m tasks.versioning.copy_config THERE HERE [cached]``.

Paths in the copy do not depend on the folder. Nothing of it is printed: addresses and passwords of remotes are in it.
What comes from a remote is hashed before it is believed.
"""

import sys

from dvc.config import Config


def copy_config(there: str, here: str, *, cached: bool) -> None:
    """Write the configuration of one ``.dvc`` folder into another.

    Args:
        cached: Whether the copy uses the cache of the original.
    """
    theirs = Config(there)
    with Config(here, validate=False).edit("repo", validate=False) as own:
        own["core"] = {"no_scm": True, "analytics": False, "check_update": False, "site_cache_dir": here + "/site"}
        if theirs["core"].get("remote"):
            own["core"]["remote"] = theirs["core"]["remote"]
        own["remote"] = {name: {**remote, "verify": True} for name, remote in theirs["remote"].items()}
        if cached:
            own["cache"] = {"dir": theirs["cache"].get("dir") or there + "/cache"}


if __name__ == "__main__":
    copy_config(sys.argv[1], sys.argv[2], cached=sys.argv[3:] == ["cached"])
