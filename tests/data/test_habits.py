"""Habits: which tokens of an answer they mark, held against slow searches."""

import random
import time

import pytest
from helpers.models import make_tokenizer

from letgo.data import habits
from letgo.data.habits import closes_repeat, decoded, loops, matching, predicted, tokens_of
from letgo.errors import InputError

TEXTS = [
    "Sure, of course! one and two",
    "naïve café, 日本語 and 🙂🙂 one",
    "🇫🇷 flag",
    " leading and trailing ",
    "a",
]


def byte_ranges(tokenizer, ids):
    """The bytes of the text that each token stands for."""
    ranges, done = [], 0
    for token in ids:
        name = tokenizer.convert_ids_to_tokens(token)
        size = 0 if token in tokenizer.all_special_ids else len(name)  # one sign for each byte
        ranges.append((done, done + size))
        done += size
    return ranges


def mask_by_bytes(tokenizer, ids, text, spans):
    """Whether any byte of a token belongs to a character of a span."""
    marked = set()
    for start, end in spans:
        first, last = len(text[:start].encode()), len(text[:end].encode())
        marked |= set(range(first, last))
    return [any(i in marked for i in range(a, b)) for a, b in byte_ranges(tokenizer, ids)]


@pytest.mark.parametrize("text", TEXTS)
def test_every_span_marks_the_tokens_that_hold_its_bytes(text):
    tokenizer = make_tokenizer()
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert decoded(tokenizer, ids) == text
    tokens = tokens_of(tokenizer, ids)
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            expected = mask_by_bytes(tokenizer, ids, text, [(start, end)])
            assert habits.covered(tokens, [(start, end)]) == expected
    assert not habits.covered(tokens, [(0, len(text))])[-1]  # the end is no text


def test_a_token_between_the_bytes_of_a_character_has_the_whole_of_it():
    tokenizer = make_tokenizer()
    ids = tokenizer("a🙂b")["input_ids"]
    assert len(ids) == 6  # one for each byte
    mask = matching(["🙂"]).mask(tokenizer, ids)
    assert mask == [False, True, True, True, True, False]
    # An answer that was cut within a character.
    assert matching(["a"]).mask(tokenizer, ids[:3]) == [True, False, False]


def test_loops_are_the_tokens_that_close_a_repeated_ngram():
    draw = random.Random(0)
    for length in (0, 1, 3, 4, 5, 40):
        for _ in range(20):
            ids = [draw.randrange(3) for _ in range(length)]
            slow = [
                i >= 3 and any(ids[j : j + 4] == ids[i - 3 : i + 1] for j in range(i - 3))
                for i in range(length)
            ]
            assert closes_repeat(ids) == slow
    assert loops().shows(None, [1, 2, 3] * 9)
    assert not loops().shows(None, [*range(4, 20), 1, 2, 3, 4, 1, 2, 3, 4])  # a little repetition
    assert not loops().shows(None, [])


def test_a_pattern_marks_what_it_matches_and_only_that():
    tokenizer = make_tokenizer()
    ids = tokenizer("what is the sum of one and two")["input_ids"]
    found = matching(["one", "(?i)WHAT"])
    text = "".join(
        tokenizer.decode([i]) for i, m in zip(ids, found.mask(tokenizer, ids), strict=True) if m
    )
    assert text.strip() == "what one" or text.replace(" ", "") == "whatone"
    assert found.shows(tokenizer, ids)
    assert not matching(["three", "x*"]).shows(tokenizer, ids)  # an empty match is none


def test_a_predicate_sees_tokens_and_text():
    tokenizer = make_tokenizer()
    ids = tokenizer("one and two")["input_ids"]

    def second(tokens, text):
        assert text == "one and two"
        assert [t.id for t in tokens] == ids
        return [(tokens[1].start, tokens[1].end)]

    assert predicted(second).mask(tokenizer, ids) == [i == 1 for i in range(len(ids))]


def test_what_is_no_regular_expression_is_refused():
    with pytest.raises(InputError, match=r"--forget_pattern: '\(a' is no regular expression"):
        matching(["b", "(a"])


def test_a_pattern_that_backtracks_for_ever_is_stopped():
    tokenizer = make_tokenizer()
    ids = tokenizer("a" * 60 + "!")["input_ids"]
    start = time.monotonic()
    with pytest.raises(InputError, match=r"takes more than 1 s .*; avoid nested repetitions"):
        matching([r"(?:a|aa|a+)+b(?=c)|(a|a)+$"]).mask(tokenizer, ids)
    assert time.monotonic() - start < 20
