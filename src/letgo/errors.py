"""The one exception a user is meant to read, and what is said in it."""

import argparse
from typing import Any


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that says what to do next.

    The command line prints it without a traceback and exits with status 2.
    """


def missing_extra(what: str, error: ModuleNotFoundError, extra: str) -> InputError:
    """What to say where a library that comes with an extra of letgo is not there."""
    return InputError(
        f"{what} needs {error.name}; install letgo with its extra: pip install 'letgo[{extra}]'"
    )


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or what it is where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Parser(argparse.ArgumentParser):
    """A parser of flags that raises `InputError` where they cannot be used."""

    def error(self, message: str) -> Any:
        """Say it in one line, with the command."""
        raise InputError(f"{self.prog}: {message}")
