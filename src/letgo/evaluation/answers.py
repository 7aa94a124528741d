"""What is read in an answer: its letter, its number, or its text."""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache, partial

LETTER = re.compile(r"\s*\(?([A-Z])(?:[.):]|\s*$)")
BARE_LETTER = re.compile(r"\s*\(?[A-Z][.:]?\)?\s*")
# The letters that mark the options in a prompt: "A. oaks", "(B) elms", in lines or in a row.
MARK = re.compile(r"(?<![\w.])\(?([A-Z])(?:[.):]|[ \t]*$)", re.MULTILINE)
# What may stand before a letter, and what must follow it.
OPENED = r"[\s*_\"'$(\[{]*(?:\\(?:boxed|text)\{\(?)*(?:(?i:option|choice)\s+\(?)?"
CLOSED = r"([A-Z])(?=\W*$|[.):,;*\]}\"'\n]|\s(?:because|since|as)\b)"
# A letter that an answer ends in: "The answer is (B)."
CONCLUSION = re.compile(
    rf"\b(?i:answer)\b[^.\n]{{0,60}}?\b(?i:is|be)\b{OPENED}{CLOSED}", re.MULTILINE
)
# Other letters that it names as its result: "Answer: B", "**B**", a last "(B)", or alone in a line.
NAMED_LETTER = re.compile(
    rf"(?:\b(?i:answers?|options?|choices?)\b[^.\n]{{0,60}}?(?:\b(?i:is|be)\b|[:=]){OPENED}"
    r"|\\boxed\{(?:\\text\{)?\(?|\*\*\(?|\((?=[A-Z]\)\W*\Z)|^[ \t]*\(?(?=[A-Z][.):]?[ \t]*$))"
    rf"{CLOSED}",
    re.MULTILINE,
)
# Where a model goes on with a question of its own.
NEXT_QUESTION = re.compile(r"\n\s*(?:Question|Q)\s*\d*:")
# Signs that do not change a number: currencies, per cent, degrees.
SIGNS = r"[\s$¢£¥฿€₩₪₫₱₴₹₺₽%°]*"
NUMBER = re.compile(
    rf"{SIGNS}([-+\u2212]?){SIGNS}"
    r"((?:\d{1,3}(?:,\d{2,3})*,\d{3}|\d{1,3}(?:[ '\u00a0\u202f]\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
    rf"(?:\s*/\s*(\d+))?{SIGNS}\.?"
)

Reader = Callable[[str], object]


def exact(text: str) -> str:
    """The text itself, with white space normalised."""
    return " ".join(text.split())


def letter(text: str, prompt: str = "") -> str | None:
    """The letter of an answer to a multiple-choice question: "B", "B. oaks", "(B)".

    Returns:
        the one that "The answer is (B)." names; else that at the start, of an option in the last
        line, or the last one that is named as the result in other words. But for the start, it must
        be an option of the prompt.
    """
    text = NEXT_QUESTION.split(text, maxsplit=1)[0]
    if (found := CONCLUSION.findall(text)) and _has_options(prompt, found[-1]):
        return found[-1]
    if match := LETTER.match(text):
        return match[1]
    last = text.rstrip().rpartition("\n")[2]
    if _is_option(last, prompt):
        return letter(last)
    found = NAMED_LETTER.findall(text)
    return found[-1] if found and _has_options(prompt, found[-1]) else None


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
    read = [pair for pair in pairs if reads(letter, *pair)]
    is_answer = len({letter(*pair) for pair in read}) > 1
    is_answer |= all(BARE_LETTER.fullmatch(reference) for reference, _ in read)
    return letter if is_answer and 2 * len(read) > len(pairs) else exact


def reads(rule: Reader, reference: str, prompt: str) -> bool:
    """Whether a reference surely is what a rule reads: a number, a letter or an option."""
    if rule is number:
        value = reference.rpartition("####")[2].strip()
        return isinstance(number(reference), Fraction) and "\n" not in value
    if rule is letter:
        if LETTER.match(reference):
            return bool(BARE_LETTER.fullmatch(reference)) or _is_option(reference, prompt)
        return letter(reference, prompt) is not None
    return True


def reader_of(rule: Reader, reference: str, prompt: str) -> Reader:
    """What reads the answers to a prompt; `exact` if the rule does not read the reference."""
    if rule is letter and reads(letter, reference, prompt):
        return partial(letter, prompt=prompt)
    return number if rule is number else exact


def _is_option(reference: str, prompt: str) -> bool:
    """Whether a reference is one of a prompt's options, which are A, B and so on."""
    found = LETTER.match(reference)
    if not found or not _has_options(prompt, found[1]):
        return False
    answer, options = exact(reference[found.end() :]).lower(), _options(prompt)[found[1]]
    return any(answer.startswith(option) or option.startswith(answer) for option in options)


def _has_options(prompt: str, last: str) -> bool:
    """Whether a prompt marks the options A, B and so on, up to this letter."""
    return {"B", *map(chr, range(ord("A"), ord(last) + 1))} <= _options(prompt).keys()


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
