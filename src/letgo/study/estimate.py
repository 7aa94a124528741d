"""What a study will cost, before it is begun: by a measurement of a few seconds."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from letgo.data.tokens import example_ids, prompt_ids, training_row
from letgo.models.inference import autocast, context_length, example_losses, generate, pad_rows
from letgo.run.base import load_base, load_base_tokenizer
from letgo.run.config import Config, parse
from letgo.run.inputs import Run, open_run
from letgo.study.plan import Cell, Study

START_SECONDS = 20.0  # of a process of its own, and small stages
ANSWER_TOKENS = 8  # measured; what is longer takes as many times longer
FORGETTING_IS = 2.0  # scoring and interference: forward and backward passes over the texts


class Cost(NamedTuple):
    """Seconds of all runs together, and bytes that stay on disk at most."""

    seconds: float
    bytes: float


def open_cell(study: Study, cell: Cell) -> Run:
    """The data of a cell, checked as `letgo run` would.

    Raises:
        InputError: what `letgo run` would refuse.
    """
    settings = {**study.flags(cell), "output_dir": f"(cell {cell.name})"}
    return open_run(parse("run", [], settings))


def estimate(study: Study, todo: Sequence[Cell], jobs: int) -> Cost:
    """Time and disk of the cells that are still to be run.

    What runs share is counted once: texts per forgetting set, plain fine-tuning and its answers per
    task and seed, scores per task, forgetting set and seed. The model is timed on the median
    example of the first cell's task.
    """
    runs = {(c.task, c.forget): open_cell(study, c) for c in todo}
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // jobs))  # as many as a run will have
    try:
        step, token, size = _speed(next(iter(runs.values())))
    finally:
        torch.set_num_threads(threads)
    total = START_SECONDS * len(todo)
    for forget in {c.forget for c in todo}:
        run = next(r for (_, name), r in runs.items() if name == forget)
        texts = sum(map(len, run.forget.values()))
        total += token * texts * run.settings.max_new_tokens
    for cell in {c.task: c for c in todo}.values():
        run = runs[cell.task, cell.forget]
        train = step * _examples(run.config, len(run.learn))
        answer = token * _answer_length(run)
        base = answer * len(run.test)
        tuned = base + answer * len(run.validation)  # the base model is not asked what decides
        seeds = len({c.seed for c in todo if c.task == cell.task})
        of_task = [c for c in todo if c.task == cell.task]
        total += seeds * (train + base + tuned) + len(of_task) * (train + tuned)
        for forget in {c.forget for c in of_task}:
            texts = sum(map(len, runs[cell.task, forget].forget.values()))
            total += seeds * FORGETTING_IS * step * texts
    kept = len({(c.task, c.seed) for c in todo}) + 4 * jobs  # optima; a run's model and optimizer
    return Cost(total / jobs, kept * size)


def _examples(config: Config, count: int) -> float:
    """Learning examples that a training sees."""
    training = config.training
    if training.max_steps > 0:
        return training.max_steps * training.per_device_train_batch_size
    return training.num_train_epochs * count


def _answer_length(run: Run) -> float:
    tokenizer = load_base_tokenizer(run.config)
    return max(len(example_ids(tokenizer, r.prompt, r.completion or "")[1]) for r in run.test[:64])


def _speed(run: Run) -> tuple[float, float, float]:
    """Seconds per learning example, seconds per generated token and prompt, bytes of the model."""
    config = run.config
    model, tokenizer = load_base(config), load_base_tokenizer(config)
    ids = [example_ids(tokenizer, r.prompt, r.completion or "") for r in run.learn[:256]]
    median = statistics.median_low(len(p) + len(c) for p, c in ids)
    middle = next(pair for pair in ids if len(pair[0]) + len(pair[1]) == median)
    limit = context_length(model.config, config.training.max_length)
    size = config.training.per_device_train_batch_size
    row = {name: values[:limit] for name, values in training_row(*middle).items()}
    batch, bf16 = pad_rows([row] * size, tokenizer.pad_token_id), bool(config.training.bf16)

    def learn() -> None:
        with autocast(bf16):
            loss = example_losses(model.train(), batch).mean()
        torch.autograd.backward(loss)
        model.zero_grad()

    prompts = [prompt_ids(tokenizer, r.prompt)[-limit + ANSWER_TOKENS :] for r in run.learn[:16]]

    def answer() -> Any:
        return generate(model.eval(), tokenizer, prompts, ANSWER_TOKENS, bf16)

    # AdamW reads and writes four numbers per weight: about a third of a small step again.
    step = 1.3 * _seconds(learn) / size
    weights: list[torch.Tensor] = list(model.parameters())
    return step, _seconds(answer) / (len(prompts) * ANSWER_TOKENS), sum(w.nbytes for w in weights)


def _seconds(work: Callable[[], Any]) -> float:
    """Of the second and third time, the shorter."""
    found = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return min(found[1:])


def told(cells: Sequence[Cell], done: Callable[[Cell], bool], cost: Cost | None) -> str:
    """The plan as text: one line per task, forgetting set and method, and what it will cost."""
    by = dict.fromkeys(cell[:3] for cell in cells)
    lines = [f"{'learn':14}{'forget':14}{'method':20}seeds (done: *)"]
    for task, forget, method in by:
        seeds = [
            f"{c.seed}{'*' if done(c) else ''}" for c in cells if c[:3] == (task, forget, method)
        ]
        lines.append(f"{task:14}{forget:14}{method:20}{' '.join(seeds)}")
    finished = sum(map(done, cells))
    lines.append(f"{len(cells)} runs, {finished} done")
    if cost:
        minutes = math.ceil(cost.seconds / 60)
        lines.append(f"about {minutes} minutes, and {cost.bytes / 1e9:.1f} GB of disk meanwhile")
    return "\n".join(lines)
