"""Re-scoring: the texts to unlearn are chosen again during training.

A score taken at the base model is out of date after a few learning steps. So the texts are scored
again by the same function, with numbers taken at the current weights and, where it needs one, a
new learning gradient. AdamW's first moment is no substitute for that gradient: early in training
the gradient changes faster than its running mean (measured by benchmarks/benefit.py).
"""

import math
import random
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerState

from letgo.errors import InputError
from letgo.models.inference import LanguageModel
from letgo.progress import log
from letgo.scoring.gradients import finite_batch
from letgo.scoring.measure import Product, along, gradient_products, plain_norms, summed_gradient
from letgo.scoring.scores import DEFAULT_SCORE, SCORES, LearningStats, Score, top_fraction
from letgo.scoring.weights import Weights, trained_weights
from letgo.unlearning.checks import check_deepspeed, examples
from letgo.unlearning.config import LWFConfig
from letgo.unlearning.current import CurrentAnswers
from letgo.unlearning.labels import Row
from letgo.unlearning.schedule import Step
from letgo.unlearning.stream import empty_row
from letgo.unlearning.texts import habit_names, prepare, score_name

if TYPE_CHECKING:
    from letgo.unlearning.trainer import LWFTrainer

COST = 0.1  # default cost, as a fraction of the learning steps' examples
# The numbers of a text that can be computed during training. The current model takes the place of
# the probe; the probe's own weights and the Fisher information are not available.
CURRENT_NUMBERS = frozenset({"learning", "norm", "loss_base", "loss_probe"})


class Rescore(TrainerCallback):
    """Scores a sample of the texts again and chooses those that unlearning steps take.

    It does so before the first unlearning step, after every `interval` learning steps, and more
    often while no text helps.

    Attributes:
        learning_norm: norm of the latest mean learning gradient; None if the score needs none.

    Args:
        trainer: the trainer that it is a callback of.
        rows: all texts that may be chosen, with `input_ids`, `labels` and `reference`.
        score, weights: of `rescoring`.
        current: asks the model for the texts instead; None with `self_knowledge="base"`.
    """

    def __init__(
        self,
        trainer: "LWFTrainer",
        rows: Sequence[Row],
        score: Score,
        weights: Weights,
        current: CurrentAnswers | None,
    ):
        self.trainer, self.rows, self.score, self.weights = trainer, rows, score, weights
        self.current = current
        self.learning_norm: float | None = None
        forced = {*trainer.chosen.forced}
        self.forced = [i for i, index in enumerate(trainer.chosen.allowed) if index in forced]
        args = trainer.args
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        # A text and a learning example each cost about as much as an example of a learning step.
        automatic = math.ceil(2 * args.rescore_texts / COST / (batch * args.world_size))
        self.interval = args.rescore_interval or automatic

    def on_train_begin(
        self, args: LWFConfig, state: TrainerState, *_: object, **__: object
    ) -> None:
        """Ask the model at once if unlearning comes before learning."""
        plan, pool = self.trainer.plan, self.trainer.tracker.pool
        if self.current and pool is None and plan.is_unlearning(0):
            self._ask(self.current, random.Random(f"{args.seed} {state.global_step}"))

    def on_step_end(self, args: LWFConfig, state: TrainerState, *_: object, **__: object) -> None:
        """Score a sample, if it is time, and choose the texts with a positive score at its top.

        Texts that a person has selected are chosen whatever their score.
        """
        if not self._is_due(state.global_step):
            return
        trainer = self.trainer
        # Seeded by the step, so that a resumed run draws the same samples.
        draw = random.Random(f"{args.seed} {state.global_step}")
        if self.current:
            return self._ask(self.current, draw)
        needed = math.ceil(trainer.texts_per_step / args.forget_fraction)
        count = min(max(args.rescore_texts, needed), len(self.rows))
        indices = sorted(draw.sample(range(len(self.rows)), count))
        data = trainer.train_dataset
        drawn = draw.sample(range(len(data)), min(args.rescore_texts, len(data)))
        learning = list(islice(examples(data[i] for i in drawn), args.rescore_texts))
        score_of = dict(zip(indices, self.scores(indices, learning), strict=True))
        top = top_fraction(indices, list(score_of.values()), args.forget_fraction)
        # Unlearning a text with a negative score would raise the learning loss.
        helpful = sorted(index for index in top if score_of[index] > 0)
        trainer.tracker.pool = sorted({*helpful, *self.forced})
        trainer.metrics.rescored(
            list(score_of.values()), [score_of[index] for index in helpful], self.learning_norm
        )

    def _ask(self, current: CurrentAnswers, draw: random.Random) -> None:
        """Let unlearning steps take what the model says now.

        What a person selected stays, and so do texts for which it is not asked.
        """
        trainer, count = self.trainer, current.schedule.prompts
        drawn = draw.sample(range(len(current.prompts)), count)
        old, scores = current.ask(drawn)
        stay = list(current.others)
        if trainer.args.asks(""):
            forced = [self.rows[index] for index in self.forced]
            stay += [row for row in forced if not row.get("habit")]
        trainer.tracker.answers = [*old, *stay]
        trainer.tracker.pool = list(range(len(trainer.tracker.answers)))
        trainer.metrics.rescored(scores, [score for score in scores if score > 0], None)

    def _is_due(self, step: int) -> bool:
        """Whether the texts are scored before this step."""
        plan, pool = self.trainer.plan, self.trainer.tracker.pool
        if plan.step(step - 1) != Step.LEARN or plan.unlearned(step) == plan.unlearned(len(plan)):
            return False
        interval = self.current.schedule.interval if self.current else self.interval
        if plan.learned(step) % interval == 0:
            return True
        # While no text helps, score again before unlearning steps 1, 2, 4, 8, ...: which texts help
        # changes quickly early on, and this costs little in a long run.
        number = plan.unlearned(step) + 1
        power_of_2 = number & (number - 1) == 0
        again = number == 1 or (not pool and not self.current)  # asking costs more than scoring
        return plan.is_unlearning(step) and power_of_2 and again

    @property
    def texts_in_step(self) -> int:
        """Texts in an unlearning step now, of all processes together; at least 1."""
        planned, pool = self.trainer.texts_per_step, self.trainer.tracker.pool
        return planned if pool is None else min(planned, max(1, len(pool)))

    def batches(self, count: int) -> list[list[Row]]:
        """The rows of this process's `count` micro-batches in the current unlearning step."""
        trainer, args, pool = self.trainer, self.trainer.args, self.trainer.tracker.pool or []
        draw = random.Random(f"{args.seed} unlearn {trainer.state.global_step}")
        order = draw.sample(pool, min(trainer.texts_per_step, len(pool)))
        size = args.per_device_train_batch_size
        starts = [(i * args.world_size + args.process_index) * size for i in range(count)]
        empty = [empty_row(trainer._tokenizer.pad_token_id)]
        rows = trainer.tracker.answers if self.current else self.rows
        return [[rows[i] for i in order[start : start + size]] or empty for start in starts]

    def scores(self, indices: Sequence[int], learning: Sequence[Row]) -> list[float]:
        """The scores of `rows[indices]` at the current weights; 0 where a score is not finite.

        They are the same in every process. `learning` are the examples of the learning gradient.
        """
        model, args, reduce = self.trainer.model, self.trainer.args, self.trainer.accelerator.reduce
        lm = LanguageModel(model, self.trainer._tokenizer, bool(args.bf16))
        training = model.training
        model.eval()
        products: dict[str, Product] = {"norm": plain_norms} if "norm" in self.score.needs else {}
        if "learning" in self.score.needs:
            total, _ = summed_gradient(lm, self.weights, learning, self._own_batches(learning))
            total = {name: reduce(gradient) for name, gradient in total.items()}
            length = sum(float((g**2).sum()) for g in total.values()) ** 0.5
            self.learning_norm = length / len(learning)
            products["learning"] = along(total)
        squared = math.nan if self.learning_norm is None else self.learning_norm**2
        stats = LearningStats(math.nan, math.nan, squared, None)
        rows = [self.rows[index] for index in indices]
        scores = torch.zeros(len(rows), dtype=torch.float64)
        for batch in self._own_batches(rows):
            finite, numbers, _ = finite_batch(
                lm,
                rows,
                batch,
                lambda padded: gradient_products(model, self.weights, padded, products, lm.bf16),
            )
            for position, i in enumerate(finite):
                text = {name: float(column[position]) for name, column in numbers.items()}
                text["learning"] = text.get("learning", math.nan) / len(learning)
                text |= {"loss_probe": text["loss"], "loss_base": base_loss(rows[i])}
                score = self.score(text, stats)
                scores[i] = score if math.isfinite(score) else 0.0
        model.train(training)
        shared: Tensor = reduce(scores.float().to(self.trainer.accelerator.device))
        return [float(value) for value in shared]

    def _own_batches(self, rows: Sequence[Row]) -> list[list[int]]:
        """This process's share of the batches, as indices into the rows."""
        args, lengths = self.trainer.args, [len(row["input_ids"]) for row in rows]
        return self.weights.batches(lengths, 1024)[args.process_index :: args.world_size]


def base_loss(row: Row) -> float:
    """A text's mean NLL under the base model, nats per token, from its `reference`."""
    return -row["reference"] / max(1, sum(label != -100 for label in row["labels"][1:]))


def prepare_unlearning(trainer: "LWFTrainer", dataset: Dataset) -> None:
    """Give a trainer the texts to unlearn of a `forget_dataset`, and the way to choose them again.

    Raises:
        InputError: unsuitable texts or settings.
    """
    args, model, accelerator = trainer.args, trainer.model, trainer.accelerator
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        check_deepspeed(accelerator.state.deepspeed_plugin.deepspeed_config, args, model)
    habits = trainer.habits
    asks = any(map(args.asks, {*habit_names(dataset, habits)}))
    method = rescoring(args, model, score_name(dataset), trainer._sharded, asks)
    tokenizer, score = trainer._tokenizer, method[0] if method else None
    learning, tokenize = trainer.train_dataset, trainer._tokenize_texts
    trainer.forget_dataset, candidates, trainer.chosen = prepare(
        dataset, learning, model, tokenizer, args, tokenize, score, habits
    )
    if method:
        current = CurrentAnswers(trainer, list(candidates), habits) if asks else None
        trainer.rescore = Rescore(trainer, candidates, *method, current)


def rescoring(
    args: LWFConfig, model: PreTrainedModel, name: str, sharded: bool, asks: bool = False
) -> tuple[Score, Weights] | None:
    """The score and the weights to re-score by; None for a run without re-scoring.

    Args:
        args, model: of the training.
        name: the score that the texts were selected by; empty for the default score.
        sharded: whether the weights are split over processes.
        asks: whether the model in training is asked for texts.

    Raises:
        InputError: re-scoring is impossible and `rescore_interval` was set by the user.
    """
    if args.rescore_interval == 0:
        return None
    if asks:
        if sharded:
            raise InputError(
                "--self_knowledge current lets the model write during training, which needs whole "
                "weights in every process: it does not work with FSDP or DeepSpeed; use "
                "--self_knowledge base, or data parallelism without sharding"
            )
        return SCORES["interference"], Weights({}, {}, {})
    name = name or DEFAULT_SCORE
    possible = {key: score for key, score in SCORES.items() if score.needs <= CURRENT_NUMBERS}
    try:
        if sharded:
            raise InputError(
                "--rescore_interval needs whole weights in every process: it does not work with "
                "FSDP or DeepSpeed; set --rescore_interval 0"
            )
        if name not in possible:
            raise InputError(
                f"--rescore_interval: the score {name} cannot be computed during training; set "
                f"--rescore_interval 0, or score the texts by {' or '.join(possible)}"
            )
        return possible[name], trained_weights(model)
    except InputError as error:
        if args.rescore_interval:
            raise
        log.warning("training goes on without re-scoring the texts: %s", error)
        return None
