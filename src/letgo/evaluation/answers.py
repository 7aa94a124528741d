"""Is a generated answer right? By the kind of reference a data set has."""

import re
from collections.abc import Callable, Sequence

LETTER = re.compile(r"\s*\(?([A-Z])(?:[.):]|\s*$)")
NUMBER = re.compile(r"####\s*(-?[\d,]*\.?\d+)")


def exact(text: str) -> str:
    """The text itself, white space aside."""
    return " ".join(text.split())


def letter(text: str) -> str | None:
    """The letter an answer to a multiple-choice question starts with: "B", "B. oaks", "(B)"."""
    match = LETTER.match(text)
    return match[1] if match else None


def number(text: str) -> float | None:
    """The number after the last `####`, as gsm8k marks its results."""
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def reader(references: Sequence[str]) -> Callable[[str], object]:
    """How to read the answers of a data set: all its references must be of the kind.

    Args:
        references: the right answers.

    Returns:
        `number`, `letter` or `exact`; two answers agree if they read the same and not None.
    """
    for read in (number, letter):
        if all(read(reference) is not None for reference in references):
            return read
    return exact


def correct(read: Callable[[str], object], generated: str, reference: str) -> bool:
    """Whether a generated answer reads as the reference does."""
    value = read(generated)
    return value is not None and value == read(reference)
