"""The exception whose message is written for users, and helpers that raise it."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class InputError(ValueError):
    """Input that cannot be used; the message is one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with status 2.
    """


@contextmanager
def requires_extra(feature: str, extra: str) -> Iterator[None]:
    """Raise an `InputError` that names the extra to install if an import in this block fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = f"{feature} needs {error.name}; run `pip install 'letgo[{extra}]'`"
        raise InputError(message) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Parser(argparse.ArgumentParser):
    """A parser of flags that raises `InputError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the message."""
        raise InputError(message)
