"""Messages for users."""

import pytest

from letgo.errors import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;pwned\x07", r"\x1b]0;pwned\x07"),
        ("a\u202eb\u2066c\u2069", r"a\u202eb\u2066c\u2069"),
        ("\x9b31m \x7f \r", r"\x9b31m \x7f \r"),
        ("\ud800", r"\ud800"),
        ("é 中 \U0001f600 line\n\ttab", "é 中 \U0001f600 line\n\ttab"),
    ],
)
def test_nothing_commands_a_terminal(text, shown):
    assert printable(text) == shown
