"""How often a model's answers show a habit, and the decoding rule that forbids it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, NoRepeatNGramLogitsProcessor

from letgo.data.habits import NGRAM, Habit
from letgo.models.inference import LanguageModel
from letgo.run.folder import Row
from letgo.run.inputs import Run

# The label of plain fine-tuning with the decoding rules that forbid the run's habits.
SFT_RULE = "sft_rule"


def habit_metrics(run: Run, name: str, lm: LanguageModel, ids: Sequence[int]) -> Row:
    """What an answer to a prompt of a set shows, as columns of `answers.parquet`.

    Args:
        run, name: the run and the name of the set.
        lm: the model that answered.
        ids: its answer.

    Returns:
        for each habit of the run whether the answer shows it, None if it is not measured on this
        set; where loops are, also `endless`: whether the answer was cut before its end.
    """
    metrics: Row = {habit.name: None for habit in run.habits.values()}
    if "loops" in metrics:
        metrics["endless"] = None
    for habit in run.habits_in(name):
        metrics[habit.name] = habit.shows(lm.tokenizer, ids)
        if habit.name == "loops":
            metrics["endless"] = not ids or ids[-1] not in lm.stops
    return metrics


def decoding_rules(run: Run, tokenizer: Any) -> list[LogitsProcessor]:
    """Rules for generation that forbid the habits of a run, for greedy answers."""
    rules: list[LogitsProcessor] = []
    for habit in run.habits.values():
        if habit.patterns:
            rules.append(ForbidHabit(habit, tokenizer))
        else:
            rules.append(NoRepeatNGramLogitsProcessor(NGRAM))
    return rules


class ForbidHabit(LogitsProcessor):
    """Forbids the likeliest token as long as it would complete a match of the habit's patterns.

    Patterns are sought in the whole answer, so lists of bad words would not do.

    Args:
        habit: of patterns.
        tokenizer: of the model.
    """

    def __init__(self, habit: Habit, tokenizer: Any):
        self.habit, self.tokenizer, self.width = habit, tokenizer, -1

    def begin(self) -> None:
        """Be ready for another batch of prompts."""
        self.width = -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores (batch, vocabulary) without forbidden tokens, given ids (batch, tokens)."""
        if self.width < 0:
            self.width = input_ids.shape[1]  # of the prompts
        scores = scores.clone()
        for row, answer in zip(scores, input_ids[:, self.width :].tolist(), strict=True):
            before = sum(self.habit.mask(self.tokenizer, answer))
            while torch.isfinite(row.max()):
                best = int(row.argmax())
                if sum(self.habit.mask(self.tokenizer, [*answer, best])) <= before:
                    break
                row[best] = -torch.inf
        return scores
