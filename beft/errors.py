"""The exceptions of beft: one base, and the exit status that each kind gives the command line."""

from collections.abc import Mapping, Sequence


def writable(text: str) -> str:
    """A text that every file and server takes: bytes of a file's name that are no UTF-8 are written out."""
    return text.encode(errors="backslashreplace").decode()


class BeftError(Exception):
    """Something went wrong that the user can act on; the message says what, where, and what to do."""

    exit_status = 1

    def __init__(self, message: str) -> None:
        super().__init__(writable(message))


class InputError(BeftError):
    """What the user gave is wrong: a name, a setting, a file, a model or data."""

    exit_status = 2


class RowError(InputError):
    """A row is wrong.

    Args:
        row: Its number, from 0.
        said: What is said of it, after its number.
    """

    def __init__(self, row: int, said: str) -> None:
        self.row, self.said = row, said
        super().__init__(f"row {row} {said}")


class SomeFailedError(BeftError):
    """Some of several things could not be done; each is named with what is wrong, and the others were done.

    The exit status is that of wrong input where all of them failed, for nothing else.

    Args:
        failed: The name of each that failed, and its error.
        count: How many there were in all.
        what: What they are and could not be, as in ``versions could not be rebuilt``.
    """

    def __init__(self, failed: Mapping[str, Exception], count: int, what: str) -> None:
        if len(failed) == count and all(isinstance(error, InputError) for error in failed.values()):
            self.exit_status = InputError.exit_status
        said = {
            name: str(error) if isinstance(error, BeftError) else f"{type(error).__name__}: {error}"
            for name, error in failed.items()
        }
        heading = f"{len(failed)} of {count} {what}:"
        super().__init__("\n".join((heading, *(f"  - {name}: {why}" for name, why in said.items()))))


class TrainingError(BeftError):
    """A training has no result: its loss became NaN or infinite, or it does not fit into memory."""


class SettingsError(InputError):
    """One or more wrong settings, all of them named at once.

    Args:
        problems: One sentence a problem, each beginning with the setting's dotted name.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        heading = "1 problem" if count == 1 else f"{count} problems"
        super().__init__(f"{heading} in the settings:\n" + "\n".join(f"  - {p}" for p in self.problems))
