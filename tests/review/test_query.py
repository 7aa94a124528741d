"""Search in texts."""

import numpy as np
import pytest
from helpers.review_runs import write_texts

from letgo.errors import InputError
from letgo.review.query import Query, contains, find
from letgo.review.texts import open_texts


@pytest.fixture
def texts(tmp_path):
    return open_texts(write_texts(tmp_path / "run", 30, special=("a (b) .* c",)))


def test_words_are_no_regular_expression(texts):
    assert list(np.flatnonzero(contains(texts.table, "(B) .*"))) == [0]
    for words in ("(a", "[", "\\", "\x00", "x" * 1_000, "ſß𝔘" * 333):
        assert not contains(texts.table, words).any()


@pytest.mark.parametrize("length", [1_001, 1 << 20])
def test_a_long_text_is_refused_and_not_repeated(texts, length):
    for regex, flag in ((False, ""), (True, "--grep: ")):
        with pytest.raises(InputError) as refused:
            contains(texts.table, "x" * length, regex)
        assert str(refused.value) == f"{flag}a text to search for may have 1,000 characters at most"
    with pytest.raises(InputError, match="1,000 characters"):
        find(texts, Query(words="x" * length))


@pytest.mark.parametrize("expression", ["(", "x{1001}", "((a{100}){100}){100}", "(" * 900, "\\"])
def test_a_wrong_regular_expression_is_cut(texts, expression):
    with pytest.raises(
        InputError, match=r"^--grep: .* is not a valid regular expression: "
    ) as found:
        contains(texts.table, expression, regex=True)
    assert len(str(found.value)) < 400
