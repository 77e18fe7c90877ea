"""The files at the top of the project, found in a checkout and in an installed wheel, and a new workspace made of them.

``setup.py`` puts them into a wheel, below ``tasks/.project/``. The hash of the source leaves hidden files out, so it is
the same in a wheel and in its checkout.
"""

import re
from pathlib import Path

import beft
from beft.commands import own_command
from beft.errors import InputError
from beft.files import sha256_tree, write_text
from tasks.source_archive import source_sha256_of

PROJECT = Path(beft.__file__).resolve().parent.parent
"""The folder of the source, that of ``beft/``, ``tasks/`` and ``flows/``: a checkout, or ``site-packages``."""

INSTALLED = PROJECT / "tasks" / ".project"
"""The copies in a wheel; a checkout does not have this folder."""

SOURCE_RECORD = Path("artifacts", "source.json")
"""What DVC's stages of a workspace depend on in place of the source, which lies outside of it."""

BASE_RECORD = Path("artifacts", "base.json")
"""What DVC's stages that compute with the base depend on in place of its files, which lie anywhere."""

_COPIED = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "data/README.md",
    "mlflow/README.md",
    "prefect.yaml",
    "params.yaml",
)
_FOLDERS = ("data/datasets/.gitkeep", "data/expectations/.gitkeep")
_SOURCE_STAGE = f"""\
stages:
  source:  # beft is installed, not part of this folder: what its source is now; other stages run again when it changes
    cmd: python -m tasks source
    always_changed: true
    outs:
      - {SOURCE_RECORD}:
          cache: false

"""


def project_file(name: str) -> Path:
    """Where a file or folder of the project is, given its path below the project's folder."""
    copy = INSTALLED / name
    return copy if copy.exists() else PROJECT / name


def start_workspace(folder: Path) -> list[str]:
    """Write what a run needs into a folder: settings, DVC's stages and configuration, deployments.

    A file that is there already with the same contents is left alone.

    Returns:
        The paths of the files, below the folder.

    Raises:
        InputError: A file is there already with other contents, or the folder is a file; nothing is written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder")
    texts = {name: project_file(name).read_text(encoding="utf-8") for name in _COPIED}
    texts |= {"dvc.yaml": _stages_without_source(), **dict.fromkeys(_FOLDERS, "")}
    there = {name: folder / name for name in texts if (folder / name).exists() or (folder / name).is_symlink()}
    others = [name for name, path in there.items() if not path.is_file() or _is_other(path, texts[name])]
    above = {str(parent) for name in texts for parent in Path(name).parents if parent != Path()}
    others += [name for name in above if (folder / name).exists() and not (folder / name).is_dir()]
    if others:
        raise InputError(
            f"nothing was written into {folder.resolve()}: {', '.join(sorted(others))} would be overwritten. Move "
            f"what is there away, or name another folder: {own_command('beft', 'init', 'FOLDER')}"
        )
    for name, text in texts.items():
        if name not in there:
            write_text(folder / name, text)
    return sorted(texts)


def _is_other(path: Path, text: str) -> bool:
    """Whether a file, in whatever encoding, holds something else; the ends of its lines are its own."""
    return path.read_bytes().replace(b"\r\n", b"\n") != text.encode()


def source_record() -> dict[str, str]:
    """The hashes of what is outside of a workspace and decides what its stages make."""
    return {
        "source": source_sha256_of(PROJECT),
        "expectations": sha256_tree(project_file("data/expectations")),
    }


def _stages_without_source() -> str:
    """The project's ``dvc.yaml``; in place of files of the source, its stages depend on a record of them."""
    lines = []
    for line in project_file("dvc.yaml").read_text(encoding="utf-8").splitlines():
        if re.fullmatch(r"\s*- (beft|tasks)(/\S+)?", line):
            continue
        lines.append(line)
        if line.strip() == "deps:":
            lines.append(f"{line.replace('deps:', '')}  - {SOURCE_RECORD}")
    return "\n".join(lines).replace("stages:\n", _SOURCE_STAGE, 1) + "\n"
