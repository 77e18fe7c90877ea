"""The science works without the tools; which package may import which is held by import-linter (``make lint``)."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
TOOLS = {"prefect", "mlflow", "dvc", "great_expectations"}


def test_the_science_imports_without_the_tools() -> None:
    """Every module of beft comes in with prefect, mlflow, dvc and great_expectations made unimportable."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "beft").rglob("*.py"))]
    modules = [".".join(path.parts).removesuffix(".__init__") for path in paths if path.stem != "__main__"]
    program = f"""
        import importlib, importlib.abc, sys

        class Nothing(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {sorted(TOOLS | {"tasks", "flows"})}:
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Nothing())
        for module in {modules}:
            importlib.import_module(module)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
