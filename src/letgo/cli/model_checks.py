"""What `letgo doctor` checks of a model and of the data that it is to learn."""

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM

from letgo.cli.machine import ERROR, OK, WARNING, Finding, free_memory
from letgo.cli.machine import size as bytes_in_words
from letgo.data.openings import neutral_openings
from letgo.data.tokens import example_ids, training_row
from letgo.evaluation.asking import open_judged
from letgo.models.inference import Row as TokenRow
from letgo.models.loading import load_config
from letgo.run.base import load_base
from letgo.run.config import Config
from letgo.run.first_examples import as_lines
from letgo.run.seen import load_prompts

# A score alone and in a padded batch may differ by so much, relative to a loss of at least 1.
TOLERANCE = {"float32": 1e-3, "half": 5e-2}
EXAMPLES = 4  # are scored alone and together


class Size(NamedTuple):
    """Bytes of a model's weights, of what training holds in memory, and of a run's folder."""

    weights: int
    training: int
    folder: int = 0


def size(config: Config) -> Size:
    """How much memory and disk a run takes, from the model's configuration alone.

    Raises:
        InputError: there is no such model.
    """
    flags, trust = config.adapter, config.training.trust_remote_code
    architecture = load_config(
        config.settings.model, revision=flags.model_revision, trust_remote_code=trust
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture, trust_remote_code=trust)
    count = sum(parameter.numel() for parameter in model.parameters())
    dtype = getattr(torch, flags.dtype) if flags.dtype != "auto" else architecture.dtype
    width = (dtype or torch.float32).itemsize
    loaded = 0.5 if flags.load_in_4bit else 1 if flags.load_in_8bit else width
    weights = int(count * loaded)
    if flags.use_peft:  # adapters and their optimizer's state are small
        return Size(weights, weights, count * width // 10)
    # Gradients, and AdamW's two moments; on disk three models, and one with the optimizer's state.
    return Size(weights, 4 * count * width, 6 * count * width)


def memory(config: Config, needed: Size) -> Iterator[Finding]:
    """Whether the model can be loaded and trained in the memory that is free."""
    free = free_memory()
    text = (
        f"{config.settings.model}: {bytes_in_words(needed.weights)} of weights, "
        f"{bytes_in_words(needed.training)} with gradients and AdamW's state, before activations; "
        f"{bytes_in_words(free)} free"
    )
    if needed.weights > free:
        yield Finding(ERROR, "memory", f"{text}; use a smaller model, or --dtype bfloat16")
    elif needed.training > free:
        yield Finding(WARNING, "memory", f"{text}; add --use_peft, or use a smaller model")
    else:
        yield Finding(OK, "memory", text)


def template(config: Config) -> Iterator[Finding]:
    """Whether the chat template renders a prompt and an answer as they are."""
    prompts = load_prompts(config)
    records = [record._replace(completion="Yes.") for record in neutral_openings()[:20]]
    prompts.unified("--model", records)
    prompts.check_answers("--model", records)
    tokenizer = prompts.tokenizer
    stops = ", ".join(map(str, tokenizer.convert_ids_to_tokens(sorted(prompts.stops))))
    kind = "no chat template" if tokenizer.chat_template is None else "the chat template is used"
    padding = f"pads with {tokenizer.pad_token}"
    yield Finding(OK, "template", f"{kind}; answers end with {stops}; {padding}")


def data(config: Config, rows: list[TokenRow]) -> Iterator[Finding]:
    """What the model would see and learn of the data.

    Args:
        config: of the run.
        rows: gets some learning examples, or other ones if there are no learning data.
    """
    tokenizer, records = load_prompts(config).tokenizer, neutral_openings()
    records = [record._replace(completion=record.prompt) for record in records[:100]]
    if config.settings.learn:
        run = open_judged(_complete(config))
        sets = {"learn": run.learn, "learn_validation": run.validation, "learn_test": run.test}
        counts = {name: len(found) for name, found in {**sets, **run.forget, **run.keep}.items()}
        text = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        yield Finding(OK, "data", f"{text}; no held-out prompt is trained on, by its tokens")
        text = "prompts are masked; answers are learned, and a stop token after each"
        yield Finding(OK, "masks", text)
        for line in as_lines(run.first_examples):
            yield Finding(OK, "first", line)
        records = run.learn[:100]
    found = [training_row(*example_ids(tokenizer, r.prompt, r.completion or "")) for r in records]
    by_length = sorted(found, key=lambda row: len(row["input_ids"]))
    step = max(1, len(by_length) // EXAMPLES)
    rows += by_length[::step][: EXAMPLES - 1] + by_length[-1:]


def padding(config: Config, rows: list[TokenRow]) -> Iterator[Finding]:
    """Whether a text's score is the same alone and in a padded batch."""
    lm = load_base(config)
    rows = [row for row in rows if len(row["input_ids"]) <= lm.limit]
    if not rows:
        yield Finding(WARNING, "padding", f"no example is within {lm.limit} tokens: nothing tried")
        return
    alone, together = [lm.losses([row])[0] for row in rows], lm.losses(rows)
    if not all(map(math.isfinite, alone + together)):
        text = f"losses are not finite: {alone}; use --dtype float32 --bf16 false"
        yield Finding(ERROR, "padding", text)
        return
    kind = "float32" if lm.model.dtype == torch.float32 and not lm.bf16 else "half"
    apart = max(abs(a - b) / max(1, a) for a, b in zip(alone, together, strict=True))
    text = f"scores of {len(rows)} texts alone and in a padded batch differ by at most {apart:.1g}"
    if apart <= TOLERANCE[kind]:
        yield Finding(OK, "padding", text)
    else:
        remedy = "--per_device_train_batch_size 1 --tokens_per_batch 1 --generation_batch_size 1"
        yield Finding(ERROR, "padding", f"{text}; the model reads its padding: use {remedy}")


def _complete(config: Config) -> Config:
    """The settings with which the data can be read although others are missing."""
    training = copy.copy(config.training)
    training.output_dir = training.output_dir or "."
    if not config.settings.forget:
        training.unlearning_interval = 0
    return config._replace(training=training)
