"""What a step reads was trained over the base that it computes with itself."""

from typing import TYPE_CHECKING

from beft.commands import own_command
from beft.errors import InputError

if TYPE_CHECKING:
    from beft.adapters.adapter import Adapter
    from beft.models.classifier import Classifier


def require_base(adapter: "Adapter", classifier: "Classifier", made_by: str, step: str, dataset: str) -> None:
    """Check that an adapter which a step reads was trained over the base of the settings, as its files are now.

    Args:
        made_by: The step that made the adapter.
        step: The step that reads it.

    Raises:
        InputError: It was not; the message names the commands that make both.
    """
    from beft.adapters.checks import check_base

    try:
        check_base(adapter, classifier)
    except InputError:
        both = f"{own_command('dvc', 'repro', f'{step}@{dataset}')}, or {own_command('beft', 'run')}"
        raise InputError(
            f"{made_by} of {dataset} was made with another base than {step} would use now: base.source has other "
            f"files, or base.quantization is another one. This makes both with the same: {both}"
        ) from None
