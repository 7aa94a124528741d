"""Self-knowledge of the current model: what it still says that the base model said more readily.

A text that the base model wrote before training is soon in the wrong form. So the model is asked
again as it is now; of its answers, those that learning has made less likely than they were under
the base model are old knowledge. Where a habit is to go, those that show it are what it is about.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedModel

from letgo.data.habits import Habit
from letgo.data.tokens import training_row
from letgo.errors import InputError
from letgo.models.inference import LanguageModel, autocast, label_log_probs, round_weights
from letgo.progress import log, track
from letgo.unlearning.checks import prompt
from letgo.unlearning.labels import RIGHT, Row, mark
from letgo.unlearning.losses import LOSSES

if TYPE_CHECKING:
    from letgo.unlearning.trainer import LWFTrainer

COST = 0.1  # of asking, as a fraction of the learning steps
ASKINGS = 4  # at least so many in a run, each with fewer prompts where the run is short
BATCH = 32  # prompts that are answered at once
# A generated token costs as much as so many tokens of a forward pass, a learned one as three.
GENERATED, LEARNED = 6, 3
SAMPLE = 1000  # learning examples whose mean length counts


class Schedule(NamedTuple):
    """How often the model is asked, in learning steps, and how many prompts each time."""

    interval: int
    prompts: int


class CurrentAnswers:
    """Asks the model in training for its answers, and compares it with the base model.

    Args:
        trainer: of the training, before its first step.
        rows: texts with `input_ids` and `labels`, and perhaps `habit`, the name of one. Their
            prompts are asked where the settings say so, and answers are at most as long as the
            longest of them.
        habits: by their names.

    Attributes:
        prompts: token ids of the prompts.
        others: the chosen texts for which the model is not asked.

    Raises:
        InputError: no text has a prompt.
    """

    def __init__(self, trainer: "LWFTrainer", rows: Sequence[Row], habits: Mapping[str, Habit]):
        self.trainer, self.habits, args = trainer, habits, trainer.args
        rows = [{"habit": "", **row} for row in rows]
        self.rows = [row for row in rows if prompt(row) and args.asks(row["habit"])]
        self.prompts = [list(prompt(row)) for row in self.rows]
        chosen = [{"habit": "", **row} for row in trainer.forget_dataset or []]
        self.others = [row for row in chosen if not args.asks(row["habit"])]
        if not self.prompts:
            raise InputError(
                "--self_knowledge current: no text to unlearn has a prompt that could be asked; "
                "give prompts and answers, or leave it out"
            )
        self.longest = max(len(row["input_ids"]) - len(prompt(row)) for row in self.rows)
        self.by_token = args.forget_tokens == "conflict"
        # Of a habit it does not matter what the base model thinks of it.
        self.compares = self.by_token or LOSSES[args.unlearning_loss].needs_reference
        self.compares |= not all(row["habit"] for row in self.rows)
        self.base = _frozen_base(trainer.model, bool(args.bf16)) if self.compares else None

    @cached_property
    def schedule(self) -> Schedule:
        """How often to ask; by default so that it costs about a tenth of the learning.

        Costs are estimated and not measured: a resumed run asks when an uninterrupted one does.
        """
        trainer, args = self.trainer, self.trainer.args
        count = min(args.rescore_texts, len(self.prompts))
        if args.rescore_interval:
            return Schedule(args.rescore_interval, count)
        sample = trainer.train_dataset.select(range(min(SAMPLE, len(trainer.train_dataset))))
        lengths = [len(ids) for ids in sample["input_ids"]]
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        step = LEARNED * batch * args.world_size * sum(lengths) / len(lengths)
        whole = sum(map(len, self.prompts)) / len(self.prompts) + self.longest
        text = GENERATED * self.longest + 2 * whole
        interval = -(-count * text // (COST * step))
        longest = max(1, trainer.plan.learned(len(trainer.plan)) // ASKINGS)
        if interval > longest:
            return Schedule(longest, max(1, int(COST * step * longest / text)))
        return Schedule(int(interval), count)

    def ask(self, indices: Sequence[int]) -> tuple[list[Row], list[float]]:
        """The answers to these prompts that are unlearned, and the scores of all answers.

        The same in every process. A score is the loss of an answer now minus that under the base
        model, nats per token; it is above 0 for old knowledge. Of a habit it is the fraction of the
        tokens that show it. Empty answers have no score.

        Returns:
            rows with `input_ids`, `labels` and `reference` (log-probability under the base model).

        Raises:
            InputError: the model answers nothing to any prompt, the first time it is asked.
        """
        start, trainer, args = time.monotonic(), self.trainer, self.trainer.args
        ordered = sorted(indices, key=lambda index: (len(self.prompts[index]), index))
        batches = [ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH)]
        own = batches[args.process_index :: args.world_size]
        training = trainer.model.training
        trainer.model.eval()
        found = [item for b in track(own, "self-knowledge", len(own)) for item in self._answers(b)]
        trainer.model.train(training)
        if args.world_size > 1:
            found = gather_object(found)
        found.sort(key=lambda item: item[0])
        if not found and trainer.tracker.pool is None:
            raise InputError(
                f"--self_knowledge current: the model answers nothing to any of {len(ordered)} "
                f"forgetting prompts; use other prompts, or --self_knowledge base"
            )
        old = [row for _, row, score in found if score > 0]
        log.info(
            "self-knowledge after %d steps: %d of %d answers are to go (%.1f s)",
            trainer.state.global_step,
            len(old),
            len(found),
            time.monotonic() - start,
        )
        return old, [score for _, _, score in found]

    def _answers(self, indices: Sequence[int]) -> list[tuple[int, Row, float]]:
        """Index, row and score of each answer that is not empty, to one batch of prompts."""
        trainer, args = self.trainer, self.trainer.args
        tokenizer, bf16 = trainer._tokenizer, bool(args.bf16)
        lm = LanguageModel(trainer.model, tokenizer, bf16, args.max_length)
        answers = lm.generate([self.prompts[index] for index in indices], self.longest)
        texts: list[tuple[int, Row]] = []
        shares: dict[int, float] = {}
        for index, answer in zip(indices, answers, strict=True):
            if not tokenizer.decode(answer, skip_special_tokens=True).strip():
                continue
            row, text = self.rows[index], training_row(self.prompts[index], answer)
            kept = {name: row[name] for name in ("habit", *RIGHT) if name in row}
            if row["habit"]:
                mask = self.habits[row["habit"]].mask(tokenizer, answer)
                shares[index] = sum(mask) / len(mask)
                text = mark(text, mask, args.forget_tokens) or text
            texts.append((index, {**text, **kept, "reference": 0.0}))
        if not texts or not self.compares:
            return [(index, row, shares[index]) for index, row in texts]
        rows = [row for _, row in texts]
        adapter: Any = trainer.model if self.base is None else None
        with torch.inference_mode(), autocast(bf16):
            batch = lm.pad(rows)
            now = label_log_probs(trainer.model, batch)
            with adapter.disable_adapter() if adapter is not None else nullcontext():
                before = label_log_probs(self.base or adapter, batch)
        found = []
        for (index, row), current, base in zip(texts, now, before, strict=True):
            row |= {"reference": sum(base)} | ({"base_log_probs": base} if self.by_token else {})
            difference = (sum(base) - sum(current)) / max(1, len(base))
            found.append((index, row, shares.get(index, difference)))
        return found


def _frozen_base(model: PreTrainedModel, bf16: bool) -> PreTrainedModel | None:
    """A copy of the base model, only to be evaluated; None if an adapter can be switched off."""
    if hasattr(model, "disable_adapter"):
        return None
    base = copy.deepcopy(model).eval().requires_grad_(False)
    # TRL has given the model a forward of its own, which even in a copy calls the model itself.
    vars(base).pop("forward", None)
    if bf16:
        round_weights(layer for layer in base.modules() if isinstance(layer, nn.Linear))
    return base
