"""Whether a generated answer is right, by a rule that the references of its set determine."""

import re
from collections.abc import Callable, Sequence

LETTER = re.compile(r"\s*\(?([A-Z])(?:[.):]|\s*$)")
NUMBER = re.compile(r"####\s*(-?[\d,]*\.?\d+)")

# The columns of `answers.parquet` that are metrics; what they mean, outcomes.FIGURES.
METRICS = ("correct", "reference_nll", "old_answer", "old_nll", "likeliest", "kl")

Reader = Callable[[str], object]


def exact(text: str) -> str:
    """The text itself, with white space normalised."""
    return " ".join(text.split())


def letter(text: str) -> str | None:
    """The letter at the start of an answer to a multiple-choice question: "B", "B. oaks", "(B)"."""
    match = LETTER.match(text)
    return match[1] if match else None


def number(text: str) -> float | None:
    """The number after the last `####`, as gsm8k marks its results."""
    numbers = NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def reader(references: Sequence[str]) -> Reader:
    """The rule that reads the answers to a set with these right answers.

    Returns:
        `number` or `letter` if it reads every reference, else `exact`.
    """
    for read in (number, letter):
        if all(read(reference) is not None for reference in references):
            return read
    return exact


def correct(read: Reader, generated: str, reference: str) -> bool:
    """Whether a generated answer reads the same as the reference (and reads as something)."""
    value = read(generated)
    return value is not None and value == read(reference)


def measure(
    read: Reader | None, generated: str, reference: str, reference_nll: float
) -> dict[str, bool | float | None]:
    """The metrics of an answer, by the names of their columns in `answers.parquet`.

    Args:
        read: the rule of its set; None where the set has no references.
        reference_nll: mean NLL of the right answer, nats per token.
    """
    is_correct = None if read is None else correct(read, generated, reference)
    return {"correct": is_correct, "reference_nll": reference_nll}
