"""Which datasets are known: those embedded here, and the user's own in ``data/datasets`` of the working folder."""

from pathlib import Path

from beft.datasets.description import DatasetError, Description
from beft.errors import InputError
from beft.names import known_name, unknown_name
from beft.settings import Settings

OWN = Path("data", "datasets")


def known_datasets(root: Path | None = None) -> dict[str, Path]:
    """The description of every known dataset, by name; a user's own wins over an embedded one of the same name.

    Args:
        root: The working folder; None: the current one.

    Raises:
        InputError: Two files there describe the same dataset, as NAME.yaml and NAME.yml.
    """
    embedded = Path(__file__).parent.glob("*.yaml")
    own = {path.stem: path for path in sorted(((root or Path.cwd()) / OWN).glob("*.yaml"))}
    for path in sorted(((root or Path.cwd()) / OWN).glob("*.yml")):
        if path.stem in own:
            raise InputError(f"{own[path.stem]} and {path} describe the same dataset: remove one of them")
        own[path.stem] = path
    return {path.stem: path for path in sorted(embedded)} | own


def find_dataset(name: str, root: Path | None = None) -> Description:
    """The description of a dataset.

    Raises:
        InputError: The name is unknown; the message has the nearest known one.
        DatasetError: Its description is wrong.
    """
    known = known_datasets(root)
    return Description.read(known[known_name(name, known, "dataset")])


def dataset_problems(settings: Settings, root: Path | None = None) -> list[str]:
    """Everything wrong with the datasets that the settings name, before anything is run; one sentence a problem."""
    known = known_datasets(root)
    problems = []
    for name, chosen in settings.datasets.items():
        if name not in known:
            problems.append(f"datasets.{name}: {unknown_name(name, known, 'dataset')}")
            continue
        try:
            description = Description.read(known[name])
            description.rows(chosen.size)
        except DatasetError as error:
            problems += [f"datasets.{name}: {problem}" for problem in error.problems]
        except InputError as error:
            problems.append(f"datasets.{name}: {error}")
    return problems
