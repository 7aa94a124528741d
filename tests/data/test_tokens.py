"""Chat templates as models come with them: content parts, and what is learned of an answer."""

import pytest
from helpers.models import CHAT_TEMPLATE, make_tokenizer

from letgo.data.tokens import (
    all_example_ids,
    all_prompt_ids,
    example_ids,
    in_chunks_of,
    prompt_ids,
)

PARTS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% for p in m['content'] %}"
    "{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
USER_IN_PARTS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% if m['role'] == 'user' %}"
    "{{ m['content'][0]['text'] }}{% else %}{{ m['content'] }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RAISES_ON_STRINGS = (
    "{% if messages[0].content is string %}{{ raise_exception('parts') }}{% endif %}"
)


@pytest.mark.parametrize("template", [PARTS, USER_IN_PARTS, RAISES_ON_STRINGS + PARTS])
def test_a_template_over_content_parts_is_given_parts(template):
    tokenizer, plain = make_tokenizer(), make_tokenizer()
    tokenizer.chat_template = template
    assert prompt_ids(tokenizer, "1 + 2?") == prompt_ids(plain, "1 + 2?")
    assert example_ids(tokenizer, "1 + 2?", "3") == example_ids(plain, "1 + 2?", "3")


@pytest.mark.parametrize("chat", [True, False])
def test_many_texts_at_once_have_the_same_ids(chat):
    tokenizer = make_tokenizer(chat)
    pairs = [("what is one", "two"), ("a", " b c d"), ("sum", "5")]
    assert all_prompt_ids(tokenizer, [p for p, _ in pairs]) == [
        prompt_ids(tokenizer, prompt) for prompt, _ in pairs
    ]
    assert all_example_ids(tokenizer, pairs) == [example_ids(tokenizer, *pair) for pair in pairs]
    assert all_prompt_ids(tokenizer, []) == all_example_ids(tokenizer, []) == []


def test_a_template_that_ends_twice_teaches_to_stop_once():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + "{% if not add_generation_prompt %}<|end|>{% endif %}"
    assert example_ids(tokenizer, "a", "b") == example_ids(make_tokenizer(), "a", "b")


def test_chunks_have_at_most_so_many_items_and_tokens():
    lengths = [1, 2, 3, 100, 4000, 6000, 9000, 20_000]
    chunks = in_chunks_of(lengths, lengths, 3)
    assert chunks == [[1, 2, 3], [100, 4000], [6000], [9000], [20_000]]
    assert in_chunks_of(list("abcde"), [5] * 5, 2) == [["a", "b"], ["c", "d"], ["e"]]
    assert in_chunks_of([], [], 2) == []
