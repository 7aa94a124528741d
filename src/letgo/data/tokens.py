"""From records to token ids, and from token ids to batches."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from letgo.data.records import Record

T = TypeVar("T")
# Of the prompts that are answered in one batch, padding included: what 32 prompts of 512 tokens
# take. More would need memory that no shorter data need.
MOST_TOKENS = 16_384


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt, up to where the model's answer begins.

    With a chat template the prompt is the user's message: given the bare text, an instruct model
    often ends its answer at once.
    """
    return all_prompt_ids(tokenizer, [prompt])[0]


def all_prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """`prompt_ids` of many prompts at once, which is faster."""
    if tokenizer.chat_template is None:
        return [_without_end(tokenizer, ids) for ids in _tokenized(tokenizer, prompts)]
    return _rendered(tokenizer, [[("user", prompt)] for prompt in prompts], asks=True)


def example_ids(tokenizer: Any, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """Token ids of a labelled example.

    With a chat template the completion is stripped of surrounding white space.

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
    if tokenizer.chat_template is None:
        end = tokenizer.eos_token or ""
        wholes = _tokenized(
            tokenizer, [prompt + completion + end for prompt, completion in examples]
        )
    else:
        turns = [[("user", p), ("assistant", completion.strip())] for p, completion in examples]
        wholes = _rendered(tokenizer, turns)
    prompts = prompts or all_prompt_ids(tokenizer, [prompt for prompt, _ in examples])
    return [_split(tokenizer, *pair) for pair in zip(prompts, wholes, strict=True)]


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


Turn = tuple[str, str]  # role ("user" or "assistant") and text


def _rendered(
    tokenizer: Any, conversations: Sequence[Sequence[Turn]], asks: bool = False
) -> list[list[int]]:
    """Token ids of conversations by the chat template; with `asks` the answer is to follow."""
    if not conversations:
        return []
    in_parts = _roles_in_parts(tokenizer)
    messages = [_messages(turns, in_parts) for turns in conversations]
    rows = tokenizer.apply_chat_template(messages, add_generation_prompt=asks, return_dict=True)
    return [list(ids) for ids in rows["input_ids"]]


def _messages(turns: Sequence[Turn], in_parts: frozenset[str]) -> list[dict[str, Any]]:
    """Messages of a chat; the content of some roles is a list of parts, as multimodal models do."""
    return [
        {"role": role, "content": [{"type": "text", "text": text}] if role in in_parts else text}
        for role, text in turns
    ]


_PROBE: list[Turn] = [("user", "qzxj"), ("assistant", "wvkf")]  # texts that no template has
_IN_PARTS: dict[str, frozenset[str]] = {}  # by chat template


def _roles_in_parts(tokenizer: Any) -> frozenset[str]:
    """The roles whose text the chat template drops unless the content is a list of parts."""
    template = tokenizer.chat_template
    if template not in _IN_PARTS:
        _IN_PARTS[template] = _find_roles_in_parts(tokenizer)
    return _IN_PARTS[template]


def _find_roles_in_parts(tokenizer: Any) -> frozenset[str]:
    for roles in ((), ("user",), ("assistant",), ("user", "assistant")):
        try:
            messages = _messages(_PROBE, frozenset(roles))
            text = tokenizer.apply_chat_template(messages, tokenize=False)
        except (
            Exception
        ):  # a template may raise anything; what no content suits raises again in use
            continue
        printed = "'type'" in text or '"type"' in text  # the list itself, as Python or JSON
        if all(word in text for _, word in _PROBE) and not printed:
            return frozenset(roles)
    return frozenset()


def training_row(prompt: Sequence[int], completion: Sequence[int]) -> dict[str, list[int]]:
    """A row for TRL's trainer; only the completion has labels, the prompt's are -100."""
    return {"input_ids": [*prompt, *completion], "labels": [-100] * len(prompt) + list(completion)}


def generated_rows(texts: Sequence[dict[str, Any]]) -> list[dict[str, list[int]]]:
    """Training rows of self-generated texts: the generated token ids, not re-tokenized."""
    return [training_row(text["prompt_ids"], text["completion_ids"]) for text in texts]


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
