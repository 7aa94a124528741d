"""The exception whose message is written for users, and helpers that raise it."""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# Control characters but newline and tab; marks that change the writing direction; lone surrogates.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


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


def printable(text: str) -> str:
    r"""The text with characters that could command a terminal escaped: `\x1b`, `\u202e`.

    Newlines and tabs stay.
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the error's class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def missing_package(error: BaseException) -> str | None:
    """Which package is missing and how to install it; None if another error is at hand."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("letgo"):
        found = re.match(r"(?:The ')?([\w-]+)", error.name)
        name = found[1] if found else error.name
        return f"{name} is not installed; run `pip install {name}`"
    return first_line(error) if "pip install" in str(error) else None


# What a user can do about an error of the hub's client, by the name of its class.
_HUB = {
    "GatedRepoError": "accept the terms on its page on the hub, then run `hf auth login`",
    "RepositoryNotFoundError": "check the name; for a private repository run `hf auth login`",
    "DatasetNotFoundError": "check the name; for a private or gated data set run `hf auth login`",
    "RevisionNotFoundError": "check --model_revision",
    "RemoteEntryNotFoundError": "the repository lacks this file; use another one",
    "LocalTokenNotFoundError": "run `hf auth login`",
    "HfHubHTTPError": "the hub refused; try again later, or run `hf auth login`",
}
_OFFLINE = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ProxyError", "ConnectionError"}
_OFFLINE |= {"ConnectError", "ConnectTimeout", "ReadTimeout"}


def hub_remedy(error: BaseException | None) -> str:
    """What to do about a repository of the hub that cannot be had; empty for other errors."""
    while error is not None:
        # A connection of this machine that ends, as a pipe's, has a class of its own.
        own = {base.__name__ for base in type(error).__mro__ if base is not ConnectionError}
        if type(error) is ConnectionError or own & _OFFLINE:
            unset = "unset HF_HUB_OFFLINE, " if os.environ.get("HF_HUB_OFFLINE") else ""
            return f"{unset}check the connection, or name local files (`hf download ID`)"
        for name, remedy in _HUB.items():
            if name in own:
                return remedy
        error = error.__cause__
    return ""


def reason(error: BaseException) -> str:
    """What went wrong, in a few words."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = missing_package(error) or first_line(error)
    if text.startswith("invalid literal for int()"):
        return "it is not a whole number"
    if text.startswith("could not convert string to float"):
        return "it is not a number"
    wrong_type = isinstance(error, TypeError | AttributeError | KeyError)
    return f"it has a value of the wrong type ({text})" if wrong_type else text


class Parser(argparse.ArgumentParser):
    """A parser of flags that raises `InputError` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise the message, in letgo's words where argparse names a type of Python."""
        for kind, meaning in (("int", "a whole number"), ("float", "a number")):
            typed = rf"argument (--\w+)\S*: invalid {kind} value: (.*)"
            message = re.sub(typed, rf"\1 must be {meaning}, not \2", message, flags=re.DOTALL)
        raise InputError(message.removeprefix("argument "))
