"""``python -m tasks STEP [--dataset NAME]``: run one step on the folders that DVC keeps. DVC's stages call it.

It reads ``params.yaml`` and works in the current folder. It knows no Prefect and no MLflow.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.environment import configure_environment, stay_offline

configure_environment()  # GNU OpenMP reads its environment when torch is imported

from beft.commands import own_command  # noqa: E402
from beft.errors import BeftError, InputError  # noqa: E402
from beft.files import atomic_directory, write_json  # noqa: E402
from tasks.engine.commands import write_error_file  # noqa: E402
from tasks.engine.declaration import step_key  # noqa: E402
from tasks.engine.execution import call_function, translate_os_errors  # noqa: E402
from tasks.engine.fingerprint import base_record  # noqa: E402
from tasks.engine.worker import log_lines  # noqa: E402
from tasks.pipeline import STEPS, dvc_folder, find_step, input_keys  # noqa: E402
from tasks.project_files import BASE_RECORD, SOURCE_RECORD, source_record  # noqa: E402
from tasks.run_metadata import is_local  # noqa: E402
from tasks.settings import PipelineSettings  # noqa: E402

logger = logging.getLogger("tasks")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a step; its exit status: 0, 1 for a failure, 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="python -m tasks", description="Run one step of the pipeline, as DVC does.")
    parser.add_argument("step", help=", ".join(STEPS[:-1]))
    parser.add_argument("--dataset", help="the dataset, for a step that is run once a dataset")
    options = parser.parse_args(arguments)
    log_lines()
    try:
        if options.step == SOURCE_RECORD.stem:  # no step: a stage of workspaces that have the source installed
            write_json(Path.cwd() / SOURCE_RECORD, source_record())
        elif options.step == BASE_RECORD.stem:  # no step either: a stage before those that compute with the base
            write_base_record(Path.cwd())
        else:
            run(options.step, options.dataset, Path.cwd())
    except BeftError as error:
        logger.error("error: %s", error)
        write_error_file(error)
        return error.exit_status
    return 0


def write_base_record(root: Path) -> None:
    """Write the hashes of the base of a workspace's settings.

    Raises:
        InputError: The settings are wrong, or the base cannot be reached.
    """
    settings = PipelineSettings.read(root / "params.yaml")
    if is_local(settings, root):
        stay_offline()
    write_json(root / BASE_RECORD, base_record(settings.base, root))


def run(name: str, dataset: str | None, root: Path) -> None:
    """Run a step on DVC's folders in a workspace; what stood in its output folder is replaced.

    Raises:
        InputError: There is no such step, it is none of DVC's, or a dataset is missing or too much.
        BeftError: The step failed.
    """
    step = find_step(name)
    if name == "register":
        run_it = own_command("beft", "run")
        raise InputError(f"register writes into the MLflow registry and belongs to the flow: start it with {run_it}")
    settings = PipelineSettings.read(root / "params.yaml")
    if step.per_dataset and dataset is None:
        raise InputError(f"{name} is run once a dataset: add --dataset with one of {', '.join(settings.datasets)}")
    if dataset is not None and not step.per_dataset:
        raise InputError(f"{name} is run over all datasets: leave --dataset out")
    if is_local(settings, root):
        stay_offline()
    inputs = {name: root / dvc_folder(key) for name, key in input_keys(step, settings, dataset).items()}
    missing = [str(folder.relative_to(root)) for folder in inputs.values() if not folder.is_dir()]
    if missing:
        raise InputError(
            f"{name} reads {', '.join(missing)}, which is not there yet; this makes it: {own_command('dvc', 'repro')}"
        )
    key = step_key(name, dataset)
    with translate_os_errors(key), atomic_directory(root / dvc_folder(key)) as out:
        call_function(step, settings, inputs, out, dataset, root=root)


if __name__ == "__main__":
    sys.exit(main())
