"""The folder mlflow/ of the project does not stand in front of the package of that name."""

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
WHERE = "import importlib.util, sys; sys.stdout.write(str(importlib.util.find_spec('mlflow').origin))"


def found(command: list[str], folder: Path) -> Path:
    """The file that `import mlflow` reads in a process that is started in a folder."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return Path(done.stdout)


def is_the_package(path: Path) -> bool:
    return path.name == "__init__.py" and ROOT / "mlflow" not in path.parents and path.parent.name == "mlflow"


def test_the_folder_is_no_package() -> None:
    assert (ROOT / "mlflow").is_dir()
    assert not list((ROOT / "mlflow").glob("__init__.py*"))


def test_under_pytest() -> None:
    specification = importlib.util.find_spec("mlflow")
    assert specification is not None
    assert is_the_package(Path(str(specification.origin)))


def test_with_a_module_from_the_root() -> None:
    """`python -m ANYTHING` puts the current folder first."""
    program = f"{WHERE}; sys.stdout.flush(); import os; os._exit(0)"  # before timeit tells the time
    assert is_the_package(found([sys.executable, "-m", "timeit", "-n", "1", "-r", "1", program], ROOT))


def test_with_a_command_from_the_root() -> None:
    assert is_the_package(found([sys.executable, "-c", WHERE], ROOT))


def test_in_a_script_beside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mlflow").symlink_to(ROOT / "mlflow")
    (tmp_path / "script.py").write_text(WHERE)
    assert is_the_package(found([sys.executable, "script.py"], tmp_path))


def test_an_init_file_would_shadow_the_package(tmp_path: Path) -> None:
    """The check can fail: this is what the file would do."""
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "__init__.py").touch()
    (tmp_path / "script.py").write_text(WHERE)
    origin = found([sys.executable, "script.py"], tmp_path)
    assert origin == tmp_path / "mlflow" / "__init__.py"
