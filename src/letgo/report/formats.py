"""Numbers, times and texts as the page prints them."""

import math
import re

from markupsafe import Markup

# Control characters except newline and tab; marks that change the writing direction and could make
# a text read as something else; surrogates and noncharacters.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_UNKNOWN = "\N{EN DASH}"
_NO_BREAK = "\N{NO-BREAK SPACE}"


def clean(text: str) -> str:
    """The text with unprintable characters replaced by U+FFFD (�)."""
    return _UNPRINTABLE.sub("\ufffd", re.sub(r"\r\n?", "\n", text))


def clean_output(value: object) -> object:
    """Clean a value that a template prints, unless it is markup of this package."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def shorten(text: str, length: int) -> str:
    """The text, or its beginning with an ellipsis, at most `length` characters long."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def sentence(text: str) -> str:
    """The text with a capital letter at its beginning and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def decimal(value: float | None, digits: int = 2, sign: str = "-") -> str:
    """A number with `digits` decimals and a true minus sign; a dash if it is None or not finite.

    `sign` is "+" to give positive numbers a sign too.
    """
    if value is None or not math.isfinite(value):
        return _UNKNOWN
    # Rounding can give -0.0; adding zero makes it 0.0.
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def significant(value: float | None, digits: int = 5) -> str:
    """A number of any magnitude with this many significant digits."""
    if value is None or not math.isfinite(value):
        return _UNKNOWN
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def percent(fraction: float | None) -> str:
    """A fraction as per cent, without the sign: 0.5 gives 50.0."""
    return decimal(None if fraction is None else 100 * fraction, 1)


def points(fraction: float | None) -> str:
    """A difference of fractions in signed percentage points: 0.02 gives +2.0."""
    return decimal(None if fraction is None else 100 * fraction, 1, "+")


def p_value(value: float | None) -> str:
    """The letter p with its value, or "p < 0.001"."""
    if value is not None and value < 0.001:
        return f"p{_NO_BREAK}<{_NO_BREAK}0.001"
    return f"p{_NO_BREAK}={_NO_BREAK}{decimal(value, 3)}"


def duration(seconds: float | None) -> str:
    """A time in readable units: 8.2 s, 3 min 05 s, 2 h 07 min."""
    if seconds is None:
        return _UNKNOWN
    if seconds < 60:
        return f"{decimal(seconds, 1)}{_NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_NO_BREAK}min {rest:02d}{_NO_BREAK}s"
    return f"{minutes // 60}{_NO_BREAK}h {minutes % 60:02d}{_NO_BREAK}min"


def memory(megabytes: float | None) -> str:
    """A size in megabytes, or in gigabytes from one gigabyte on."""
    if megabytes is None:
        return _UNKNOWN
    if megabytes < 1000:
        return f"{decimal(megabytes, 0)}{_NO_BREAK}MB"
    return f"{decimal(megabytes / 1000, 1)}{_NO_BREAK}GB"
