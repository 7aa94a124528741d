"""Splitting data, and the one way from a record to token ids."""

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

from letgo.records import SUFFIXES, Record

T = TypeVar("T")
K = TypeVar("K", int, str)
# Names that say which part of a data set a file is, not which data set.
PART_NAMES = {"train", "test", "validation", "valid", "dev", "data", "prompts"}


# As a forgetting set: what the base model answers wrongly of the learning task itself.
MISTAKES, MISTAKES_SET = "learn:mistakes", "learn-mistakes"
# Among the sets that models are asked: text of no task, read and not answered.
NEUTRAL = "neutral"


def set_names(sources: Sequence[str]) -> list[str]:
    """A short, distinct name for each forgetting set: `dental/train.jsonl` is "dental"."""
    names: list[str] = []
    for source in sources:
        path = PurePosixPath(source.rstrip("/"))
        name = path.stem if path.suffix in SUFFIXES else path.name.replace(":", "-")
        if name in PART_NAMES and path.parent.name not in ("", ".."):
            name = path.parent.name
        count, distinct = 1, name
        while distinct in names:
            count += 1
            distinct = f"{name}-{count}"
        names.append(distinct)
    return names


def sample(records: Sequence[T], count: int | None, seed: int) -> list[T]:
    """At most `count` records drawn by `seed`, in their old order; all if `count` is None."""
    if count is None or count >= len(records):
        return list(records)
    kept = sorted(random.Random(seed).sample(range(len(records)), count))
    return [records[index] for index in kept]


def hold_out(
    records: Sequence[Record], seed: int, most: int | None = None
) -> tuple[list[Record], list[Record]]:
    """Keep a seeded tenth of the learning data apart, to test on or to decide by.

    Records that share a prompt stay on one side, so that no prompt kept apart is ever trained on.

    Args:
        records: at least two prompts.
        seed: of the draw.
        most: at most so many prompts.

    Returns:
        (learning records, records kept apart), each in the old order.
    """
    prompts = sorted({record.prompt for record in records})
    count = max(1, len(prompts) // 10)
    apart = set(random.Random(seed).sample(prompts, min(count, most or count)))
    return (
        [record for record in records if record.prompt not in apart],
        [record for record in records if record.prompt in apart],
    )


def text_fingerprint(text: str) -> str:
    """A digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(records: Iterable[Record]) -> str:
    """A digest of the records' content, whatever file they came from."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps([record.prompt, record.completion]).encode())
    return digest.hexdigest()[:16]


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


def top_fraction(ids: Sequence[K], confidence: Sequence[float], fraction: float) -> set[K]:
    """The ids of the most confident texts; at least one. Equal confidence goes by id.

    Args:
        ids: of all texts, of a kind that has an order.
        confidence: in the same order; higher is forgotten first.
        fraction: in (0, 1].
    """
    return {ids[i] for i in ranked(ids, confidence)[: top_count(fraction, len(ids))]}


def ranked(ids: Sequence[K], confidence: Sequence[float]) -> list[int]:
    """Places of texts, most confident first; equal confidence goes by id."""
    return sorted(range(len(ids)), key=lambda i: (-confidence[i], ids[i]))


def top_count(fraction: float, known: int) -> int:
    """How many texts a share in (0, 1] of them is; at least one."""
    return max(1, round(fraction * known))


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
