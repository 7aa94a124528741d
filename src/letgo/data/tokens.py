"""From records to token ids, and from token ids to batches."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from letgo.data.conversations import Conversation
from letgo.data.records import Record
from letgo.data.templates import rendered

T = TypeVar("T")
# Of the prompts that are answered in one batch, padding included: what 32 prompts of 512 tokens
# take. More would need memory that no shorter data need.
MOST_TOKENS = 16_384


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt, up to where the model's answer begins; none of an empty one.

    With a chat template a prompt that is no conversation is the user's message: given the bare
    text, an instruct model often ends its answer at once.
    """
    return all_prompt_ids(tokenizer, [prompt])[0]


def all_prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """`prompt_ids` of many prompts at once, which is faster."""
    asked = [prompt for prompt in prompts if prompt]
    if tokenizer.chat_template is None:
        _require_plain(asked)
        rows = [_without_end(tokenizer, ids) for ids in _tokenized(tokenizer, asked)]
    else:
        rows = rendered(tokenizer, [(prompt, None) for prompt in asked])
    found = iter(rows)
    return [next(found) if prompt else [] for prompt in prompts]


def example_ids(tokenizer: Any, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """Token ids of a labelled example.

    With a chat template the completion is stripped of surrounding white space. Without a prompt
    it is a text, which no template changes.

    Returns:
        (prompt ids, completion ids); the completion ends with the end-of-turn token. A token that
        contains the end of the prompt and the start of the answer belongs to the answer.
    """
    return all_example_ids(tokenizer, [(prompt, completion)])[0]


def all_example_ids(
    tokenizer: Any,
    examples: Sequence[tuple[str, str]],
    prompts: Sequence[list[int]] | None = None,
) -> list[tuple[list[int], list[int]]]:
    """`example_ids` of many (prompt, completion) pairs at once, which is faster.

    Args:
        prompts: token ids of the prompts, if they have been computed before.
    """
    end, template = tokenizer.eos_token or "", tokenizer.chat_template
    plain = [not prompt or template is None for prompt, _ in examples]
    if template is None:
        _require_plain([text for pair in examples for text in pair])
    pairs = list(zip(examples, plain, strict=True))
    texts = iter(_tokenized(tokenizer, [p + c + end for (p, c), is_plain in pairs if is_plain]))
    chats = iter(rendered(tokenizer, [pair for pair, is_plain in pairs if not is_plain]))
    wholes = [next(texts if is_plain else chats) for is_plain in plain]
    prompts = prompts or all_prompt_ids(tokenizer, [prompt for prompt, _ in examples])
    return [_split(tokenizer, *pair) for pair in zip(prompts, wholes, strict=True)]


def _require_plain(texts: Iterable[str]) -> None:
    if any(isinstance(text, Conversation) for text in texts):
        raise ValueError("the model has no chat template, which conversations need")


def _split(tokenizer: Any, before: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
    """The ids of an example up to where they differ from its prompt's, and those that follow."""
    while whole[-2:] == [tokenizer.eos_token_id] * 2:  # tokenizer or template appends a second one
        whole.pop()
    pairs = zip(before, whole, strict=False)
    border = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(whole)))
    return whole[:border], whole[border:]


def _tokenized(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return [list(ids) for ids in tokenizer(list(texts))["input_ids"]] if texts else []


def _without_end(tokenizer: Any, ids: list[int]) -> list[int]:
    """The ids without the end-of-text token that some tokenizers append: an answer must follow."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def training_row(prompt: Sequence[int], completion: Sequence[int]) -> dict[str, list[int]]:
    """A row for TRL's trainer; only the completion has labels, the prompt's are -100."""
    return {"input_ids": [*prompt, *completion], "labels": [-100] * len(prompt) + list(completion)}


def generated_rows(texts: Sequence[dict[str, Any]]) -> list[dict[str, list[int]]]:
    """Training rows of self-generated texts: the generated token ids, not re-tokenized.

    Of a text that shows a habit (`span`) only the tokens that do have labels.
    """
    rows = []
    for text in texts:
        row, span = training_row(text["prompt_ids"], text["completion_ids"]), text.get("span")
        if span and any(span):
            start = len(text["prompt_ids"])
            chosen = zip(row["labels"][start:], span, strict=True)
            row["labels"][start:] = [label if shows else -100 for label, shows in chosen]
        rows.append(row)
    return rows


def chunks_by_length(
    prompts: Iterable[tuple[Record, list[int]]], size: int
) -> list[list[tuple[Record, list[int]]]]:
    """(record, prompt token ids) pairs in chunks of similar prompt length, which saves padding.

    Args:
        size: most pairs in a chunk; chunks of long prompts have fewer, as in `in_chunks_of`.
    """
    ordered = sorted(prompts, key=lambda pair: (len(pair[1]), pair[0].id))
    return in_chunks_of(ordered, [len(ids) for _, ids in ordered], size)


def in_chunks_of(items: Sequence[T], lengths: Sequence[int], size: int) -> list[list[T]]:
    """Items in their order, in chunks of at most `size` and of at most `MOST_TOKENS` tokens.

    Args:
        lengths: tokens of each item, in ascending order; an item of more tokens is alone.
    """
    chunks: list[list[T]] = []
    for item, length in zip(items, lengths, strict=True):
        count = len(chunks[-1]) if chunks else size
        if count < size and length * (count + 1) <= MOST_TOKENS:
            chunks[-1].append(item)
        else:
            chunks.append([item])
    return chunks


def batches_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Batches of at most `budget` tokens, padding included, in ascending order of length.

    An example that is longer than the budget is alone in its batch.

    Returns:
        lists of indices into `lengths` (tokens per example); every index occurs once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and lengths[index] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
