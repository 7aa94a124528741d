"""The one exception a user is meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one line that says what to do next.

    The command line prints it without a traceback and exits with status 2.
    """
