"""Short trainings of a tiny model, and records of their steps."""

import math

import torch
from datasets import Dataset
from transformers import TrainerCallback

from helpers.models import make_model, make_tokenizer
from letgo import LWFConfig, LWFTrainer
from letgo.unlearning.labels import base_log_probs


def example_rows(count, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(count):
        ids = torch.randint(4, 300, (5 + i % 7,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * 2 + ids[2:]})
    return rows


LEARN, FORGET, KEEP = example_rows(22, 0), example_rows(9, 1), example_rows(7, 2)


def config(folder, **changes):
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "bf16": False,
        "gradient_checkpointing": False,
        "unlearning_interval": 3,
        "seed": 5,
        "unlearning_ceiling": 100.0,
        "disable_tqdm": True,
        "rescore_interval": 0,
    }
    return LWFConfig(**{**settings, **changes})


def train(cls, arguments, forget=None, callbacks=(), resume=None, peft=None, model=None, keep=None):
    texts = {"forget_dataset": forget, "keep_dataset": keep}
    kwargs = {name: Dataset.from_list(rows) for name, rows in texts.items() if rows}
    trainer = cls(
        model=model or make_model(),
        args=arguments,
        train_dataset=Dataset.from_list(LEARN),
        processing_class=make_tokenizer(),
        callbacks=list(callbacks),
        peft_config=peft,
        **kwargs,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


class Watch(TrainerCallback):
    """The token ids and the learning rate of every optimizer step."""

    def __init__(self):
        self.steps, self.rates = [], []

    def attach(self, trainer):
        inner = trainer.training_step

        def training_step(model, inputs, *rest):
            step = trainer.state.global_step
            self.steps += [[] for _ in range(step + 1 - len(self.steps))]
            self.steps[step].append(inputs["input_ids"].tolist())
            return inner(model, inputs, *rest)

        trainer.training_step = training_step

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append(optimizer.param_groups[0]["lr"])


def watched(cls, arguments, forget=None, keep=None):
    watch = Watch()
    texts = {"forget_dataset": forget, "keep_dataset": keep}
    kwargs = {name: Dataset.from_list(rows) for name, rows in texts.items() if rows}
    trainer = cls(
        model=make_model(),
        args=arguments,
        train_dataset=Dataset.from_list(LEARN),
        processing_class=make_tokenizer(),
        callbacks=[watch],
        **kwargs,
    )
    watch.attach(trainer)
    trainer.train()
    return trainer, watch


def unlearner(folder, forget=FORGET, learn=LEARN, peft=None, habit=None, **changes):
    return LWFTrainer(
        model=make_model(),
        args=config(folder, **changes),
        train_dataset=Dataset.from_list(learn),
        forget_dataset=Dataset.from_list(forget),
        processing_class=make_tokenizer(),
        peft_config=peft,
        habit=habit,
    )


class Moves(TrainerCallback):
    """The length of each optimizer step's update, and AdamW's first moments after it."""

    def __init__(self):
        self.distances, self.moments = [], []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.before = [p.detach().clone() for p in model.parameters()]

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        moved = [p.detach() - b for p, b in zip(model.parameters(), self.before, strict=True)]
        self.distances.append(math.sqrt(sum(float((m * m).sum()) for m in moved)))
        states = [s["exp_avg"].clone() for s in optimizer.state.values() if "exp_avg" in s]
        self.moments.append(states)


class Grads(TrainerCallback):
    """The clipped gradient of every optimizer step, all weights in one vector."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        parameters = [p for g in optimizer.param_groups for p in g["params"]]
        self.seen.append(torch.cat([p.grad.flatten().clone() for p in parameters]))


def text_log_probs(model, rows):
    """The log-probability of the labels of each row, without an adapter."""
    return [sum(values) for values in base_log_probs(model, rows, 1, False)]
