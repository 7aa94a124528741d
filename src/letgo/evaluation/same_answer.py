"""Whether a model still says what the base model said, and the options of a question."""

import re
from collections.abc import Sequence

from letgo.evaluation.answers import Reader, exact

# The share of the old answer's own words that makes an answer the old one.
SAME = 0.5
WORD = re.compile(r"\w+")
# Words that occur in any answer and say nothing about which one it is.
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be been but by can could did do does for from had has have he her his
        how i if in into is it its may me my no not of on or our she so some such than that the
        their them then there these they this those to too us was we were what when which who why
        will with would you your""",
    )
)
OPTION = re.compile(r"^\s*(\(?[A-Z][.):]\s+\S.*?)\s*$", re.MULTILINE)
MOST_OPTIONS = 10  # more different right answers are no options


def own_words(prompt: str, answer: str) -> set[str]:
    """The words that an answer adds to its prompt, without function words.

    All words of the answer where none is left.
    """
    words = set(WORD.findall(answer.lower()))
    for less in (
        words - FUNCTION_WORDS - set(WORD.findall(prompt.lower())),
        words - FUNCTION_WORDS,
    ):
        if less:
            return less
    return words


def same_answer(read: Reader | None, prompt: str, answer: str, old: str) -> bool:
    """Whether an answer is the old one.

    What is read in both, e.g. a letter or a number, is compared. In any other answer at least the
    share `SAME` of the words that the old answer adds to the prompt must come up again.

    Args:
        read: how the answers of the set are read; None where it has no references.
        answer, old: the model's answer and that of the base model.
    """
    if read not in (None, exact) and read(old) is not None:
        return read(answer) == read(old)
    if exact(answer) == exact(old):
        return True
    words = own_words(prompt, old)
    found = words & set(WORD.findall(answer.lower()))
    return bool(words) and len(found) >= SAME * len(words)


def options_of(prompts: Sequence[str], references: Sequence[str]) -> list[list[str]] | None:
    """The options that each question of a set leaves, or None if it has none.

    They are the lettered lines of the prompt ("B. oaks") if the right answer is always one of them;
    else the set's different right answers, if there are few.
    """
    right = [exact(reference) for reference in references]
    lettered = [[exact(option) for option in OPTION.findall(prompt)] for prompt in prompts]
    if all(answer in options for answer, options in zip(right, lettered, strict=True)):
        return lettered
    labels = sorted(set(right))
    return [labels] * len(right) if 1 < len(labels) <= min(MOST_OPTIONS, len(right) // 2) else None
