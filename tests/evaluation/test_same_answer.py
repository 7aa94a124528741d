"""Whether an answer is the old one, and which options a question leaves."""

import pytest

from letgo.evaluation.answers import exact, letter, number
from letgo.evaluation.same_answer import options_of, own_words, same_answer

OLD = "Warsaw is the capital of Poland."
ASKED = "Warsaw is the capital of which country?"


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        (OLD, True),
        ("Poland", True),
        ("It is the capital of the country of Poland.", True),
        ("Warsaw is the capital of Spain.", False),
        ("Warsaw is the capital of which country?", False),
        ("", False),
    ],
)
def test_an_answer_is_read_by_what_it_adds_to_the_prompt(answer, same):
    assert own_words(ASKED, OLD) == {"poland"}
    assert same_answer(None, ASKED, answer, OLD) is same


def test_half_of_the_old_words_are_enough():
    old = "Plants need light, water, soil and warmth."
    assert same_answer(exact, "What do plants need?", "They need water and light.", old)
    assert not same_answer(exact, "What do plants need?", "They need water.", old)


def test_letters_and_numbers_are_read():
    assert same_answer(letter, "?", "B. oaks", "B. beeches")
    assert not same_answer(letter, "?", "A. oaks", "B. oaks")
    assert same_answer(number, "?", "so\n#### 12", "2 and 10\n#### 12")
    # An old answer that does not read as a number is compared by its words.
    assert same_answer(number, "How many?", "there are twelve apples", "twelve apples")


def test_nothing_but_function_words():
    assert own_words("Is it?", "It is.") == {"it", "is"}
    assert same_answer(None, "Is it?", "It is.", "it is")


def test_options_are_lettered_lines_or_the_few_right_answers():
    prompts = [
        "Which?\nA. oaks\nB. rocks\nAnswer:",
        "What?\nA. iron\nB. salt\nC. gold\nAnswer:",
    ]
    right = ["B. rocks", " A. iron"]
    assert options_of(prompts, right) == [
        ["A. oaks", "B. rocks"],
        ["A. iron", "B. salt", "C. gold"],
    ]
    labels = ["good", "bad"] * 3
    assert options_of(["How?"] * 6, labels) == [["bad", "good"]] * 6
    assert options_of(["How many?"] * 4, ["1", "2", "3", "4"]) is None
