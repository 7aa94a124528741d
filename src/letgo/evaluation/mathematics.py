"""The last number or formula of an answer, read by math-verify."""

import logging
import threading
from typing import Any

LONGEST = 4000  # characters of an answer's end that are read
SECONDS = 5  # for one answer; where there is no alarm, in a thread, there is no limit


class Value:
    """What math-verify has read; it is equal to another value by math-verify's judgement."""

    def __init__(self, expressions: list[Any]):
        self.expressions = expressions

    def __eq__(self, other: object) -> bool:
        from math_verify import verify

        if not isinstance(other, Value):
            return NotImplemented
        return bool(verify(other.expressions, self.expressions, timeout_seconds=_seconds()))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Value({self.expressions})"


def value(text: str) -> Value | None:
    """The number or formula that an answer ends with: boxed, in LaTeX, a fraction, with a unit.

    What follows `####` counts alone, if it can be read.
    """
    marked = text.rpartition("####")[2].strip().partition("\n")[0] if "####" in text else ""
    for part in filter(None, (marked, text[-LONGEST:])):
        if expressions := _parsed(part):
            return Value(expressions)
    return None


def _parsed(text: str) -> list[Any]:
    from math_verify import parse  # slow to import

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    found: list[Any] = parse(text, fallback_mode="no_fallback", parsing_timeout=_seconds())
    return found


def _seconds() -> int | None:
    is_main = threading.current_thread() is threading.main_thread()
    return SECONDS if is_main else None
