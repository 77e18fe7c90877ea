"""beft as a user installs it: a wheel, and an environment that sees it and the dependencies, but not the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

_SOURCE_ARCHIVE = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


@dataclass(frozen=True)
class Installed:
    """An environment with an installed beft.

    Attributes:
        folder: That of the environment.
    """

    folder: Path

    @property
    def packages(self) -> Path:
        """Where beft is installed."""
        return Path(sysconfig.get_path("purelib", vars={"base": str(self.folder)}))

    def run(self, folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in a folder, with no other program to be found."""
        return subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=folder,
            env={"PATH": str(self.folder / "bin"), "HOME": str(self.folder), "LANG": "C.UTF-8", **environment},
            capture_output=True,
            text=True,
            timeout=1500,
        )


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout, by way of a source archive; the checkout stays as it is."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    source = folder / "source"
    for name in names:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    _python("-c", _SOURCE_ARCHIVE, str(folder), folder=source)
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    [unpacked] = (folder / "unpacked").iterdir()
    (unpacked / "build" / "lib" / "beft").mkdir(parents=True)
    (unpacked / "build" / "lib" / "beft" / "gone.py").touch()  # of an earlier build
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet", "--wheel-dir", str(folder))
    _python("-m", "pip", "wheel", *options, str(unpacked), folder=folder)
    [wheel] = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Installed:
    """Install a wheel into a new environment that has the dependencies of this one."""
    _python("-m", "venv", "--without-pip", str(folder), folder=wheel.parent)
    found = Installed(folder)
    # A path in a .pth file: the .pth files there, one of which is that of the checkout, are not read.
    (found.packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = str(folder / "bin" / "python")
    _python("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", str(wheel), folder=folder)
    return found


def _python(*arguments: str, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
