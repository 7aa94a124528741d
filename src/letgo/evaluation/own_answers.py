"""What the base model itself answers: to forgetting prompts, keep prompts and held-out prompts."""

import pyarrow as pa

from letgo.data.records import Record
from letgo.data.tokens import prompt_ids, training_row
from letgo.errors import InputError
from letgo.models.inference import LanguageModel
from letgo.progress import log
from letgo.run.folder import Row

FIELDS = (
    dict.fromkeys(("prompt", "completion"), pa.string())
    | dict.fromkeys(("prompt_ids", "completion_ids"), pa.list_(pa.int32()))
    | {"finish_reason": pa.string(), "mean_logprob": pa.float64()}
)
# Texts to keep, with the base model's likeliest tokens at each token of the answer.
KEPT_SCHEMA = pa.schema(
    {"id": pa.string(), "set": pa.string(), **FIELDS}
    | {"top_ids": pa.list_(pa.list_(pa.int32())), "top_log_probs": pa.list_(pa.list_(pa.float32()))}
)
Prompt = tuple[Record, list[int]]  # with its token ids


def fitting_prompts(
    lm: LanguageModel, flag: str, name: str, records: list[Record], max_new_tokens: int
) -> list[Prompt]:
    """The prompts of a set that leave room for an answer within the context.

    Args:
        flag: where the prompts came from; empty if there may be none that fits.

    Raises:
        InputError: there is none; names the flag and the set.
    """
    prompts = [(record, prompt_ids(lm.tokenizer, record.prompt)) for record in records]
    fitting = [p for p in prompts if len(p[1]) + max_new_tokens <= lm.limit]
    if flag and not fitting:
        raise InputError(
            f"{flag}: none of the {len(prompts)} prompts of {name} fits into {lm.limit} tokens "
            f"with {max_new_tokens} new ones; lower --max_new_tokens, raise --max_length (up to "
            f"the model's context) or use shorter prompts"
        )
    if len(fitting) < len(prompts):
        message = "%s: %d of %d prompts left out: with %d new tokens they do not fit into %d"
        count = len(prompts) - len(fitting)
        log.warning(message, name, count, len(prompts), max_new_tokens, lm.limit)
    return fitting


def own_answers(
    lm: LanguageModel, chunk: list[Prompt], max_new_tokens: int, top_k: int = 0
) -> list[Row]:
    """Greedy answers as rows, with their mean log-probability in nats per token.

    A text without a prompt is no answer: its own tokens take the place of one.

    Args:
        top_k: with 1 or more the rows also have `top_ids` and `top_log_probs`, (tokens, top_k).
    """
    questions = [prompt for record, prompt in chunk if record.prompt]
    answers = iter(lm.generate(questions, max_new_tokens) if questions else [])
    pairs = [
        (prompt, next(answers)) if record.prompt else _text_ids(lm, record)
        for record, prompt in chunk
    ]
    training = [training_row(*pair) for pair in pairs]
    tops = lm.top_log_probs(training, top_k) if top_k else []
    rows = [
        {
            "id": record.id,
            "prompt": record.prompt,
            "completion": lm.tokenizer.decode(ids, skip_special_tokens=True),
            "prompt_ids": prompt,
            "completion_ids": ids,
            "finish_reason": "stop" if ids[-1] in lm.stops else "length",
            "mean_logprob": -loss,
        }
        for (record, _), (prompt, ids), loss in zip(chunk, pairs, lm.losses(training), strict=True)
    ]
    for row, (ids, log_probs) in zip(rows, tops, strict=False):
        row |= {"top_ids": ids, "top_log_probs": log_probs}
    return rows


def _text_ids(lm: LanguageModel, record: Record) -> tuple[list[int], list[int]]:
    """The first token of a text as its prompt, and the others, cut at the context."""
    ids = lm.tokenizer(record.completion or "")["input_ids"][: lm.limit]
    return (ids[:1], ids[1:]) if len(ids) > 1 else ([*ids, *ids], ids)
