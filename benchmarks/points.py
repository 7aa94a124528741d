"""SmolLM2-135M at two points of its fine-tuning, and every score of a text there.

Shared by the benchmarks that judge scores (benefit.py, conflict.py).
"""

import copy
import random
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from letgo.data.tokens import batches_by_tokens, example_ids, prompt_ids, training_row
from letgo.models.bundled import resolve
from letgo.models.inference import Batch, LanguageModel, autocast, example_losses, pad_rows
from letgo.models.loading import bf16_is_fast, load_model, load_tokenizer
from letgo.progress import track
from letgo.scoring.fisher import Information, estimate
from letgo.scoring.measure import along, fisher_norms, gradient_products, plain_norms
from letgo.scoring.scores import SCORES, LearningStats
from letgo.scoring.weights import scored_weights, values

BATCH, STEPS, EARLY = 8, 40, 15  # examples per step, steps, and the step of the early point
BF16 = bf16_is_fast()
Vectors = dict[str, Tensor]
Row = dict[str, list[int]]


def common_prompt(rows: Sequence[Row]) -> int:
    """Number of tokens that all rows begin with; leaves at least one prompt token of each row."""
    ids = [row["input_ids"] for row in rows]
    least = min(next(i for i, label in enumerate(row["labels"]) if label != -100) for row in rows)
    differing = (i for i in range(least - 1) if any(row[i] != ids[0][i] for row in ids))
    return next(differing, max(0, least - 1))


def dot(x: Vectors, y: Vectors) -> float:
    """Inner product over all matrices."""
    return sum(float(torch.dot(x[n].flatten().float(), y[n].flatten().float())) for n in x)


class Model:
    """The model, with functions of its scored weights."""

    def __init__(self) -> None:
        path = resolve("smollm2-135m")
        self.tokenizer, self.model = load_tokenizer(path), load_model(path).eval()
        self.lm = LanguageModel(self.model, self.tokenizer, BF16)
        self.weights = scored_weights(self.model)
        self.matrices = dict(values(self.weights))
        scored = {w.data_ptr() for w in self.matrices.values()}
        # Embeddings and norms are trained too, but not scored.
        self.others = {
            f"{name} (not scored)": p.detach()
            for name, p in self.model.named_parameters()
            if p.data_ptr() not in scored
        }

    def copy(self) -> Vectors:
        """A copy of all weights."""
        return {name: w.clone() for name, w in {**self.matrices, **self.others}.items()}

    @torch.no_grad()
    def put(self, theta: Vectors) -> None:
        """Set all weights."""
        for name, w in {**self.matrices, **self.others}.items():
            w.copy_(theta[name])

    def difference(self, start: Vectors, end: Vectors) -> Vectors:
        """`start - end`, for the scored weights."""
        return {name: start[name] - end[name] for name in self.matrices}

    @torch.no_grad()
    def move(self, direction: Vectors, size: float) -> None:
        """Add `size * direction` to the scored weights."""
        for name, w in self.matrices.items():
            w.add_(direction[name], alpha=size)

    def _batches(self, rows: Sequence[Row]) -> list[tuple[list[int], Batch]]:
        batches = batches_by_tokens([len(row["input_ids"]) for row in rows], 1024)
        pad = self.tokenizer.pad_token_id
        return [(some, pad_rows([rows[i] for i in some], pad)) for some in batches]

    @torch.no_grad()
    def losses(self, rows: Sequence[Row], bf16: bool = BF16) -> list[float]:
        """Mean NLL of every row.

        The same numbers as `inference.example_losses`, computed faster: the common beginning of the
        rows, often half of all tokens, passes through the model once, and logits are computed for
        completions only.
        """
        losses = [0.0] * len(rows)
        common = common_prompt(rows)
        start = torch.tensor([rows[0]["input_ids"][:common]], device=self.model.device)
        ends = [{key: values[common:] for key, values in row.items()} for row in rows]
        head = self.model.get_output_embeddings()
        with autocast(bf16):  # around all batches: the weights are rounded once
            cache = self.model(start, use_cache=True).past_key_values if common else None
            for indices, batch in self._batches(ends):
                past, prefix = copy.deepcopy(cache), start.expand(len(indices), -1)
                if past is not None:
                    past.batch_repeat_interleave(len(indices))
                mask = torch.cat([torch.ones_like(prefix), batch.attention_mask], 1)
                hidden = self.model.base_model(
                    batch.input_ids, mask, past_key_values=past, use_cache=past is not None
                ).last_hidden_state[:, :-1]  # (batch, tokens - 1, width)
                predicted = batch.labels[:, 1:] != -100
                targets = batch.labels[:, 1:][predicted]
                nll = cross_entropy(head(hidden[predicted]).float(), targets, reduction="none")
                means = predicted.float().masked_scatter(predicted, nll).sum(1) / predicted.sum(1)
                for i, loss in zip(indices, means.tolist(), strict=True):
                    losses[i] = loss
        return losses

    def gradient(self, rows: Sequence[Row], bf16: bool = BF16) -> Vectors:
        """The gradient of the mean over rows of the rows' mean NLL."""
        parameters = [layer.weight for layer in self.weights.layers.values()]
        total: list[Tensor] = []
        for _, batch in self._batches(rows):
            with autocast(bf16):
                loss = example_losses(self.model, batch).sum() / len(rows)
            parts = torch.autograd.grad(loss, parameters)
            total = [t + p for t, p in zip(total, parts, strict=True)] if total else list(parts)
        return dict(zip(self.weights.layers, total, strict=True))

    def fisher(self, rows: Sequence[Row], kind: str = "factored") -> dict[str, Information]:
        """The Fisher information of these examples at the current weights."""
        lengths = [len(row["input_ids"]) for row in rows]
        batches = self.weights.batches(lengths, 1024)
        return estimate(kind, self.lm, self.weights, rows, batches)[0]

    def products(
        self,
        rows: Sequence[Row],
        directions: dict[str, Vectors],
        fishers: dict[str, dict[str, Information]],
    ) -> list[dict[str, Any]]:
        """Products of each row's gradient with each direction, and its squared norms."""
        wanted = {name: along(vectors) for name, vectors in directions.items()}
        squares = {"norm": plain_norms, **{n: fisher_norms(f) for n, f in fishers.items()}}
        table: list[dict[str, Any]] = [{} for _ in rows]
        for indices, batch in self._batches(rows):
            numbers = gradient_products(
                self.model, self.weights, batch, {**wanted, **squares}, BF16
            )
            for position, i in enumerate(indices):
                table[i] = {name: float(numbers[name][position]) for name in squares}
                table[i]["dots"] = {name: float(numbers[name][position]) for name in wanted}
        return table

    def row(self, prompt: str, completion: str) -> Row:
        """Token ids and labels of a record."""
        return training_row(*example_ids(self.tokenizer, prompt, completion))

    def answer(self, prompts: Sequence[str], most: int, longest: int = 256) -> list[Row]:
        """The model's greedy answers to prompts, as training rows."""
        rows = []
        for start in range(0, len(prompts), 64):
            some = prompts[start : start + 64]
            ids = [prompt_ids(self.tokenizer, prompt)[-longest:] for prompt in some]
            answers = self.lm.generate(ids, most)
            rows += [training_row(i, a) for i, a in zip(ids, answers, strict=True)]
        return rows


def learn(
    model: Model, rows: Sequence[Row], rate: float, seed: int, steps: int = STEPS
) -> dict[str, Any]:
    """Plain fine-tuning from the current weights; the model is at the optimum afterwards.

    Returns:
        "early" and "optimum", the weights at these points, and of the early point also "moment",
        AdamW's running mean of the gradient, and "update", the length of the last update.
    """
    parameters = [p for p in model.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, fused=True)
    result: dict[str, Any] = {}
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    for step in track(list(range(steps)), "learning", steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        batch = [rows[order[i % len(rows)]] for i in range(step * BATCH, (step + 1) * BATCH)]
        before = model.copy() if step == EARLY - 1 else None
        with autocast(BF16):
            loss = example_losses(model.model, pad_rows(batch, model.tokenizer.pad_token_id)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if before is not None:
            result["early"] = model.copy()
            update = model.difference(result["early"], before)
            result["update"] = dot(update, update) ** 0.5
            result["moment"] = {
                n: optimizer.state[layer.weight]["exp_avg"].clone()
                for n, layer in model.weights.layers.items()
            }
    return {**result, "optimum": model.copy()}


def gram(directions: dict[str, Vectors]) -> dict[str, dict[str, float]]:
    """Inner products of all pairs of directions."""
    pairs = {frozenset((a, b)) for a in directions for b in directions}
    products = {pair: dot(directions[min(pair)], directions[max(pair)]) for pair in pairs}
    return {a: {b: products[frozenset((a, b))] for b in directions} for a in directions}


def scores_of(rows: Sequence[dict[str, Any]], point: dict[str, Any]) -> dict[str, list[float]]:
    """Every score of every text, computed from the numbers of the text.

    Args:
        rows: from `Model.products`, with "interference", "loss" and "tokens" added.
        point: "constant" (<delta, F delta>), "gram" of the directions, "rate".
    """
    lengths = {name: point["gram"][name][name] for name in point["gram"]}
    learned = max(
        (n for n in lengths if re.fullmatch(r"\d+ learning examples", n)),
        key=lambda name: int(name.split()[0]),
    )
    scores: dict[str, list[float]] = {}
    for row in rows:
        dots = row["dots"]
        text = {
            "linear": dots["fisher_delta"],
            "quadratic": row["fisher_norm"],
            "inner": dots["delta"],
            "learning": dots[learned],
            "norm": row["norm"],
            "loss_base": 0.0,
            "loss_probe": row["interference"],
        }
        own = {
            name: score(
                text, LearningStats(point["constant"], lengths["delta"], lengths[learned], None)
            )
            for name, score in SCORES.items()
            if name != "fisher_distance"
        }
        for name, alpha in (("auto", None), ("rate", point["rate"]), ("0.01", 0.01)):
            task = LearningStats(point["constant"], lengths["delta"], lengths[learned], alpha)
            own[f"fisher_distance, alpha {name}"] = SCORES["fisher_distance"](text, task)
        for name in dots.keys() - {"delta", "fisher_delta"}:
            own[f"cosine with {name}"] = -dots[name] / (lengths[name] * row["norm"]) ** 0.5
        own |= {"loss (a confounder)": row["loss"], "length (a confounder)": row["tokens"]}
        for name, value in own.items():
            scores.setdefault(name, []).append(value)
    return scores


def interval(count: int, judge: Callable[[np.ndarray], np.ndarray]) -> list[float]:
    """95 % bootstrap interval of a statistic of `count` items.

    Args:
        count: the number of items.
        judge: from the indices of the drawn items, (draws, count), to the statistic, (draws,).
    """
    draws = np.random.default_rng(0).integers(0, count, (1000, count))
    low, high = np.nanquantile(judge(draws), [0.025, 0.975])
    return [float(low), float(high)]


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return statistics.fmean(values)
