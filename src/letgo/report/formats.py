"""Values as the page shows them."""

import math
import re

from markupsafe import Markup

# Control characters except newline and tab; the marks that embed, override or isolate a writing
# direction, which could make a text read as something else; what UTF-8 cannot or should not hold.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_UNKNOWN = "\N{EN DASH}"
_NO_BREAK = "\N{NO-BREAK SPACE}"


def clean(text: str) -> str:
    """Return `text` with characters that cannot be shown replaced by U+FFFD (�)."""
    return _UNPRINTABLE.sub("\ufffd", re.sub(r"\r\n?", "\n", text))


def clean_output(value: object) -> object:
    """Clean what a template is about to print, unless it is markup this package made."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def shorten(text: str, length: int) -> str:
    """Return `text`, cut to `length` characters with an ellipsis where it is longer."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def decimal(value: float | None, digits: int = 2, sign: str = "-") -> str:
    """Return `value` with `digits` decimals, a true minus sign, and a dash where it is unknown.

    Args:
        value: a number; None and what is not finite are unknown.
        digits: how many decimals.
        sign: "+" to sign positive numbers too.
    """
    if value is None or not math.isfinite(value):
        return _UNKNOWN
    # Adding zero turns the -0.0 that rounding leaves into 0.0.
    return f"{round(value, digits) + 0.0:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def significant(value: float | None, digits: int = 5) -> str:
    """Return `value` with so many significant digits: for numbers whose size is not known."""
    if value is None or not math.isfinite(value):
        return _UNKNOWN
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def percent(fraction: float | None) -> str:
    """Return a fraction as per cent, without the sign for it: 0.5 gives 50.0."""
    return decimal(None if fraction is None else 100 * fraction, 1)


def points(fraction: float | None) -> str:
    """Return a difference of fractions as signed percentage points: 0.02 gives +2.0."""
    return decimal(None if fraction is None else 100 * fraction, 1, "+")


def p_value(value: float | None) -> str:
    """Return the letter p with its value, which below 0.001 is said to be just that."""
    if value is not None and value < 0.001:
        return f"p{_NO_BREAK}<{_NO_BREAK}0.001"
    return f"p{_NO_BREAK}={_NO_BREAK}{decimal(value, 3)}"


def duration(seconds: float | None) -> str:
    """Return a time in the units a reader would use: 8.2 s, 3 min 05 s, 2 h 07 min."""
    if seconds is None:
        return _UNKNOWN
    if seconds < 60:
        return f"{decimal(seconds, 1)}{_NO_BREAK}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_NO_BREAK}min {rest:02d}{_NO_BREAK}s"
    return f"{minutes // 60}{_NO_BREAK}h {minutes % 60:02d}{_NO_BREAK}min"


def memory(megabytes: float | None) -> str:
    """Return a size in gigabytes from one gigabyte on, else in megabytes."""
    if megabytes is None:
        return _UNKNOWN
    if megabytes < 1000:
        return f"{decimal(megabytes, 0)}{_NO_BREAK}MB"
    return f"{decimal(megabytes / 1000, 1)}{_NO_BREAK}GB"
