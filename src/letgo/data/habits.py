"""Habits: behaviour that shows in an answer, as the tokens that make it up.

A habit is found by a pattern, by a predicate of the user's, or as a loop: text that repeats itself.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import regex

from letgo.errors import InputError

NGRAM = 4  # tokens of an n-gram whose repetition is a loop
# An answer loops if at least half of its n-grams are repeats. Of 1,500 human solutions of gsm8k
# the most repetitive has 43 %, 99 in 100 have less than 30 %.
LOOPING = 0.5
SECONDS = 1.0  # for a pattern in one answer: an ordinary one takes microseconds


class Token(NamedTuple):
    """A token of an answer and the characters of the text that it has a part in.

    Tokens that share a character, as those of an emoji do, each have the whole of it. A special
    token, which is not in the text, has none: `start == end`.
    """

    id: int
    start: int
    end: int


Span = tuple[int, int]  # the first character and the one behind the last
Predicate = Callable[[Sequence[Token], str], Iterable[Span]]


@dataclass(frozen=True)
class Habit:
    """What an answer is searched for.

    Args:
        name: "loops" or "pattern", a column of `answers.parquet`.
        mask: from a tokenizer and the token ids of an answer to whether each token is part of it.
        patterns: the regular expressions, for a decoding rule.
        least: fraction of the tokens that must be part of it for an answer to count as showing it.
    """

    name: str
    mask: Callable[[Any, Sequence[int]], list[bool]]
    patterns: tuple[str, ...] = ()
    least: float = 0.0

    def shows(self, tokenizer: Any, ids: Sequence[int]) -> bool:
        """Whether an answer has the habit."""
        mask = self.mask(tokenizer, ids)
        return any(mask) and sum(mask) >= self.least * max(1, len(ids) - NGRAM + 1)


def loops() -> Habit:
    """Answers that repeat themselves: the tokens that close a repeated n-gram."""
    return Habit("loops", lambda _, ids: closes_repeat(ids), least=LOOPING)


def matching(patterns: Sequence[str], flag: str = "--forget_pattern") -> Habit:
    """Answers that one of the regular expressions matches.

    Raises:
        InputError: a pattern is no regular expression.
    """
    compiled = [_compiled(pattern, flag) for pattern in patterns]

    def mask(tokenizer: Any, ids: Sequence[int]) -> list[bool]:
        text = decoded(tokenizer, ids)
        spans = [span for pattern in compiled for span in matches(pattern, text, flag)]
        return covered(tokens_of(tokenizer, ids), spans) if spans else [False] * len(ids)

    return Habit("pattern", mask, tuple(patterns))


def predicted(predicate: Predicate) -> Habit:
    """What a predicate of the user's finds, from the tokens and the text of an answer."""

    def mask(tokenizer: Any, ids: Sequence[int]) -> list[bool]:
        tokens = tokens_of(tokenizer, ids)
        return covered(tokens, predicate(tokens, decoded(tokenizer, ids)))

    return Habit("predicate", mask)


def closes_repeat(ids: Sequence[int], n: int = NGRAM) -> list[bool]:
    """For each token whether it closes an n-gram that has been in the answer before."""
    seen: set[tuple[int, ...]] = set()
    mask = []
    for end in range(1, len(ids) + 1):
        gram = tuple(ids[max(0, end - n) : end])
        mask.append(len(gram) == n and gram in seen)
        seen.add(gram)
    return mask


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of an answer, without special tokens, every other character as it is."""
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def tokens_of(tokenizer: Any, ids: Sequence[int]) -> list[Token]:
    """The tokens of an answer with the characters of `decoded` that they have a part in."""
    text, tokens, done = decoded(tokenizer, ids), [], 0
    for count, token in enumerate(ids, start=1):
        so_far = decoded(tokenizer, ids[:count])
        start, most = done, min(len(so_far), len(text))
        done = next((i for i in range(done, most) if so_far[i] != text[i]), most)
        # What follows is the sign for a character that has only begun.
        begun = done < len(so_far) and done < len(text)
        tokens.append(Token(token, start, done + begun))
    return tokens


def covered(tokens: Sequence[Token], spans: Iterable[Span]) -> list[bool]:
    """For each token whether it has a part in a character of one of the spans."""
    chosen = list(spans)
    return [any(t.start < end and start < t.end for start, end in chosen) for t in tokens]


def matches(pattern: Any, text: str, flag: str) -> list[Span]:
    """Where a compiled pattern matches; empty matches do not count.

    Raises:
        InputError: it takes too long.
    """
    try:
        return [m.span() for m in pattern.finditer(text, timeout=SECONDS) if m.end() > m.start()]
    except TimeoutError as error:
        raise InputError(
            f"{flag}: {pattern.pattern!r} takes more than {SECONDS:g} s to search an answer of "
            f"{len(text)} characters; avoid nested repetitions such as (a+)+"
        ) from error


def _compiled(pattern: str, flag: str) -> Any:
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise InputError(
            f"{flag}: {pattern!r} is no regular expression ({error}); put a backslash before "
            f"characters that are meant as such"
        ) from error
