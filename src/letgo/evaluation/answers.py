"""Whether a generated answer is right, by a rule that the references of its task determine."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache

LETTER = re.compile(r"\s*\(?([A-Z])(?:[.):]|\s*$)")
BARE_LETTER = re.compile(r"\s*\(?[A-Z][.:]?\)?\s*")
# The letters that mark the options in a prompt: "A. oaks", "(B) elms", in lines or in a row.
MARK = re.compile(r"(?<![\w.])\(?([A-Z])(?:[.):]|[ \t]*$)", re.MULTILINE)
# Signs that do not change a number: currencies, per cent, degrees.
SIGNS = r"[\s$¢£¥฿€₩₪₫₱₴₹₺₽%°]*"
NUMBER = re.compile(
    rf"{SIGNS}([-+\u2212]?){SIGNS}"
    r"((?:\d{1,3}(?:,\d{2,3})*,\d{3}|\d{1,3}(?:[ '\u00a0\u202f]\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
    rf"(?:\s*/\s*(\d+))?{SIGNS}\.?"
)

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


def number(text: str) -> Fraction | str | None:
    """What follows the last `####`, as gsm8k marks its results.

    Returns:
        the number, where the line is wholly a number; else the text; None where there is none.
    """
    value = text.rpartition("####")[2].strip() if "####" in text else ""
    if not value:
        return None
    if match := NUMBER.fullmatch(value.splitlines()[0].strip()):
        sign, digits, divisor = match.groups()
        try:
            found = Fraction(re.sub(r"[^\d.]", "", digits)) / int(divisor or 1)
            return -found if sign in ("-", "\u2212") else found
        except (ValueError, ZeroDivisionError):  # thousands of digits; 1/0
            pass
    return exact(value)


def reader(references: Sequence[str], prompts: Sequence[str] = ()) -> Reader:
    """The rule that reads the answers to a task with these right answers.

    Args:
        references: the right answers.
        prompts: their prompts; without them the right answers themselves tell the options.

    Returns:
        `number` or `letter` if more than half of the references surely are numbers after `####`,
        or letters and options of their prompts; else `exact`. An option's letter that never
        differs is no answer but a prefix.
    """
    pairs = list(zip(references, prompts or ["\n".join(references)] * len(references), strict=True))
    if 2 * sum(reads(number, *pair) for pair in pairs) > len(pairs):
        return number
    read = [reference for reference, prompt in pairs if reads(letter, reference, prompt)]
    is_answer = len(set(map(letter, read))) > 1 or all(map(BARE_LETTER.fullmatch, read))
    return letter if is_answer and 2 * len(read) > len(pairs) else exact


def reads(rule: Reader, reference: str, prompt: str) -> bool:
    """Whether a reference surely is what a rule reads: a number, a letter or an option."""
    if rule is number:
        value = reference.rpartition("####")[2].strip()
        return isinstance(number(reference), Fraction) and "\n" not in value
    if rule is letter:
        return bool(BARE_LETTER.fullmatch(reference)) or _is_option(reference, prompt)
    return True


def reader_of(rule: Reader, reference: str, prompt: str) -> Reader:
    """The rule of a task, or `exact` for a reference that it does not read."""
    return rule if rule is number or reads(rule, reference, prompt) else exact


def _is_option(reference: str, prompt: str) -> bool:
    """Whether a reference is one of a prompt's options, which are A, B and so on."""
    found, options = LETTER.match(reference), _options(prompt)
    if not found or not {"B", *map(chr, range(ord("A"), ord(found[1]) + 1))} <= options.keys():
        return False
    answer = exact(reference[found.end() :]).lower()
    return any(
        answer.startswith(option) or option.startswith(answer) for option in options[found[1]]
    )


@lru_cache(maxsize=8)
def _options(prompt: str) -> dict[str, set[str]]:
    """The texts behind each marked letter of a prompt, in lower case, up to the next one."""
    options: dict[str, set[str]] = {}
    _, *parts = MARK.split(prompt)
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        option = exact(text.strip().partition("\n")[0]).strip("()").lower()
        options.setdefault(name, set()).update({option} - {""})
    return options


def correct(read: Reader, generated: str, reference: str) -> bool:
    """Whether a generated answer reads the same as the reference (and reads as something).

    A reference that the rule does not read is compared exactly.
    """
    if read(reference) is None:
        read = exact
    value = read(generated)
    return value is not None and value == read(reference)


def measure(
    read: Reader | None, generated: str, reference: str, reference_nll: float
) -> dict[str, bool | float | None]:
    """The metrics of an answer, by the names of their columns in `answers.parquet`.

    Args:
        read: its rule; None where it has no reference.
        reference_nll: mean NLL of the right answer, nats per token.
    """
    is_correct = None if read is None else correct(read, generated, reference)
    return {"correct": is_correct, "reference_nll": reference_nll}
