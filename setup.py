"""A wheel brings along the files at the top of the project that beft reads, below ``tasks/.project/``.

The folders ``mlflow/`` and ``data/`` cannot be packages: one would stand in front of the real ``mlflow``.
``tasks/project_files.py`` finds these files in a wheel and in a checkout.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PROJECT_FILES = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
    ".gitignore",
    "constraints.txt",
    "data/README.md",
    "data/expectations/*.yaml",
    "dvc.yaml",
    "mlflow/README.md",
    "mlflow/pyfunc_model.py",
    "params.yaml",
    "prefect.yaml",
)


class BuildWithProjectFiles(build_py):
    """Copy the files into a wheel, and name them for a source archive. An editable installation reads them in place."""

    def project_files(self) -> list[str]:
        """Their paths below the project's folder."""
        return [str(path) for pattern in PROJECT_FILES for path in sorted(Path().glob(pattern))]

    def run(self) -> None:
        """Build the packages, and copy the files beside them."""
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)  # modules of an earlier build that are gone since
        super().run()
        for name in self.project_files():
            copy = Path(self.build_lib, "tasks", ".project", name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, copy)

    def get_source_files(self) -> list[str]:
        """What a source archive needs for a wheel to be built of it."""
        return [*super().get_source_files(), *self.project_files()]


setup(cmdclass={"build_py": BuildWithProjectFiles})
