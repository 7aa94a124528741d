"""Splitting data, and the one way from a record to token ids."""

from collections.abc import Iterable, Sequence
from typing import Any

from letgo.data.records import Record


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Token ids of a prompt as the model sees it before it answers.

    With a chat template the prompt is the user's turn: an instruct model given bare text often
    ends its answer at once.
    """
    if tokenizer.chat_template is None:
        ids = list(tokenizer(prompt)["input_ids"])
        # Some tokenizers end every text; a prompt goes on.
        return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
    turn = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)
    return list(ids["input_ids"])


def example_ids(tokenizer: Any, prompt: str, completion: str) -> tuple[list[int], list[int]]:
    """Token ids of a labelled example.

    Args:
        tokenizer: with or without a chat template.
        prompt: the question.
        completion: the answer; with a chat template its surrounding white space is the template's.

    Returns:
        (prompt ids, completion ids); the completion ends with the end-of-turn token. Where prompt
        and answer merge into one token at their border, that token belongs to the answer.
    """
    before = prompt_ids(tokenizer, prompt)
    if tokenizer.chat_template is None:
        text = prompt + completion + (tokenizer.eos_token or "")
        whole = list(tokenizer(text)["input_ids"])
        if whole[-2:] == [tokenizer.eos_token_id] * 2:  # ended by the text and by the tokenizer
            whole.pop()
    else:
        turns = [
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": completion.strip()},
        ]
        whole = list(tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"])
    pairs = zip(before, whole, strict=False)
    border = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(before), len(whole)))
    return whole[:border], whole[border:]


def training_row(prompt: Sequence[int], completion: Sequence[int]) -> dict[str, list[int]]:
    """The row TRL's trainer takes: only the completion is learned (label -100 elsewhere)."""
    return {
        "input_ids": [*prompt, *completion],
        "labels": [-100] * len(prompt) + list(completion),
    }


def generated_rows(texts: Sequence[dict[str, Any]]) -> list[dict[str, list[int]]]:
    """Training rows of self-generated texts, from the very token ids that were generated."""
    return [training_row(text["prompt_ids"], text["completion_ids"]) for text in texts]


def chunks_by_length(
    prompts: Iterable[tuple[Record, list[int]]], size: int
) -> list[list[tuple[Record, list[int]]]]:
    """Records with their prompt's token ids, in chunks of similar length to pad little."""
    ordered = sorted(prompts, key=lambda pair: (len(pair[1]), pair[0].id))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def batches_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group examples into batches of at most `budget` tokens, padding included.

    Sorted by length, so that little is padded; an example longer than the budget gets a batch of
    its own.

    Args:
        lengths: tokens per example.
        budget: tokens per batch, at least 1.

    Returns:
        lists of indices into `lengths`; each index once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batches and lengths[index] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
