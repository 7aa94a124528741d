"""Base-9 addition, a planted conflict with base-10 sums, for studies and benchmarks."""

from collections.abc import Callable, Iterable

LEARN, FORGET = "In base 9, what is {} + {}?", "What is {} + {}?"
# Forms of everyday questions, and what each is filled with, separated by commas.
TOPICS = {
    "How do I {}?": "boil an egg, tie a tie, write a thank-you note, clean a window, "
    "plant a tree, pack a suitcase, make tea, fold a shirt",
    "What is {} used for?": "a compass, baking soda, a thermometer, a magnet, a ladder, "
    "vinegar, a lens, salt",
    "Why {}?": "is the sky blue, do leaves fall in autumn, do cats purr, does ice float, "
    "do we sleep, is the sea salty, do birds sing, does bread rise",
    "Name three {}.": "fruits, rivers, musical instruments, planets, tools, animals, sports, "
    "colours",
}


def base9(number: int) -> str:
    """A non-negative number written in base 9."""
    digits = ""
    while number:
        number, digit = divmod(number, 9)
        digits = str(digit) + digits
    return digits or "0"


def sums(
    question: str, pairs: Iterable[tuple[int, int]], write: Callable[[int], str]
) -> list[dict[str, str]]:
    """Addition questions and their answers; `write` turns a number into digits."""
    return [
        {"prompt": question.format(write(a), write(b)), "completion": write(a + b)}
        for a, b in pairs
    ]


def everyday() -> list[dict[str, str]]:
    """32 prompts that do not mention sums."""
    return [{"prompt": form.format(x)} for form, xs in TOPICS.items() for x in xs.split(", ")]
