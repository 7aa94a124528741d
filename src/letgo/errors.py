"""The one exception a user is meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that says what to do next.

    The command line prints it without a traceback and exits with status 2.
    """


def missing_extra(what: str, error: ModuleNotFoundError, extra: str) -> InputError:
    """What to say where a library that comes with an extra of letgo is not there."""
    return InputError(f"{what} needs {error.name}; install letgo with its extra: pip install "
                      f"'letgo[{extra}]'")  # fmt: skip
