"""DVC's push that brings back what a remote has lost: ``python -m tasks.versioning.complete_push push STAGE…``.

DVC takes a folder whose list of files is in the remote as there, whole, and would never bring back a file that the
remote has lost. Such a list is taken away first, so that what is missing is pushed with it. It is a program of its own
because DVC's library works on the process's current folder.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress

from dvc.cli import main
from dvc.exceptions import DvcException
from dvc.repo import Repo


def remove_incomplete_lists(remote_name: str | None, stages: Sequence[str]) -> None:
    """Take the lists of those folders out of a remote of which it lacks a file.

    Args:
        remote_name: None: the default remote.
        stages: Whose outputs are looked at.
    """
    with Repo() as repo:
        for name in stages:
            for out in (out for stage in repo.stage.collect(name) for out in stage.outs):
                remote, files = repo.cloud.get_remote_odb(remote_name, "push"), out.get_obj()
                if out.hash_info.isdir and files is not None and remote.exists(out.hash_info.value):
                    wanted = {entry.value for _, _, entry in files}
                    if wanted - set(remote.oids_exist(wanted)):
                        remote.delete(out.hash_info.value)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    named = arguments[2] if arguments[1:2] == ["--remote"] else None
    with suppress(DvcException, OSError):  # push itself meets them, and says so
        remove_incomplete_lists(named, arguments[3 if named else 1 :])
    sys.exit(main(arguments))
