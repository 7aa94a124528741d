"""From records to token ids, and from token ids to batches."""

from collections.abc import Iterable, Sequence
from typing import Any

from letgo.data.records import Record


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt, up to where the model's answer begins.

    With a chat template the prompt is the user's message: given the bare text, an instruct model
    often ends its answer at once.
    """
    if tokenizer.chat_template is None:
        ids = list(tokenizer(prompt)["input_ids"])
        # Some tokenizers append the end-of-text token; after a prompt the answer must follow.
        return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
    messages = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(ids["input_ids"])


def example_ids(tokenizer: Any, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """Token ids of a labelled example.

    With a chat template the completion is stripped of surrounding white space.

    Returns:
        (prompt ids, completion ids); the completion ends with the end-of-turn token. A token that
        contains the end of the prompt and the start of the answer belongs to the answer.
    """
    before = prompt_ids(tokenizer, prompt)
    if tokenizer.chat_template is None:
        text = prompt + completion + (tokenizer.eos_token or "")
        whole = list(tokenizer(text)["input_ids"])
        if whole[-2:] == [tokenizer.eos_token_id] * 2:  # the tokenizer appended a second one
            whole.pop()
    else:
        messages = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": completion.strip()},
        ]
        whole = list(tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"])
    pairs = zip(before, whole, strict=False)
    border = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(whole)))
    return whole[:border], whole[border:]


def training_row(prompt: Sequence[int], completion: Sequence[int]) -> dict[str, list[int]]:
    """A row for TRL's trainer; only the completion has labels, the prompt's are -100."""
    return {"input_ids": [*prompt, *completion], "labels": [-100] * len(prompt) + list(completion)}


def generated_rows(texts: Sequence[dict[str, Any]]) -> list[dict[str, list[int]]]:
    """Training rows of self-generated texts: the generated token ids, not re-tokenized."""
    return [training_row(text["prompt_ids"], text["completion_ids"]) for text in texts]


def chunks_by_length(
    prompts: Iterable[tuple[Record, list[int]]], size: int
) -> list[list[tuple[Record, list[int]]]]:
    """(record, prompt token ids) pairs in chunks of similar prompt length, which saves padding."""
    ordered = sorted(prompts, key=lambda pair: (len(pair[1]), pair[0].id))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


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
