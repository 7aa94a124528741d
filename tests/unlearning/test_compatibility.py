"""The features in the table of docs/training.md: training runs with them, and unlearns."""

import pytest
import torch
from datasets import Dataset
from helpers.models import make_model, make_tokenizer
from helpers.training import FORGET, LEARN, config, train, watched
from peft import LoraConfig
from transformers import DataCollatorForSeq2Seq
from trl import SFTTrainer

from letgo import LWFTrainer
from letgo.errors import InputError

ADAPTED = ["q_proj", "up_proj"]


def unlearned(trainer):
    """The log lines of the unlearning steps, which must be finite with a positive strength."""
    steps = [entry for entry in trainer.state.log_history if "unlearn/loss" in entry]
    assert len(steps) == trainer.plan.unlearned(99) > 0
    values = torch.tensor([[e["unlearn/nll"], e["unlearn/grad_norm"]] for e in steps])
    assert values.isfinite().all()
    assert all(e["unlearn/strength"] > 0 for e in steps)
    return steps


@pytest.mark.parametrize(
    ("changes", "peft"),
    [
        ({"bf16": True}, None),
        ({"gradient_checkpointing": True, "gradient_accumulation_steps": 2}, None),
        ({"optim": "adafactor"}, None),
        ({"loss_type": "dft"}, None),
        ({"lr_scheduler_type": "cosine", "warmup_steps": 3, "weight_decay": 0.1}, None),
        ({"neftune_noise_alpha": 5.0}, None),
        ({"activation_offloading": False, "max_steps": 5}, None),
        ({"packing": True, "max_length": 24}, None),
        ({"packing": True, "max_length": 24, "gradient_accumulation_steps": 2}, None),
        ({"padding_free": True, "max_length": None}, None),
        ({"dataloader_num_workers": 1}, None),
        ({}, LoraConfig(r=2, target_modules=ADAPTED)),
        ({"unlearning_loss": "npo"}, LoraConfig(r=2, target_modules=ADAPTED, use_dora=True)),
    ],
)
def test_unlearning_works_with(tmp_path, changes, peft):
    interval = 1 if "packing" in changes else 3
    arguments = config(tmp_path, **{"unlearning_interval": interval, **changes})
    unlearned(train(LWFTrainer, arguments, FORGET, peft=peft))


def test_packed_learning_data_and_padded_texts_to_forget(tmp_path):
    """Packing the learning data does not change the NLL of the texts."""
    arguments = config(
        tmp_path,
        packing=True,
        max_length=24,
        unlearning_interval=1,
        unlearning_strength=0.0,
        learning_rate=1e-12,
        per_device_train_batch_size=9,
        logging_steps=1,
    )
    trainer = train(LWFTrainer, arguments, FORGET)
    plain = train(
        LWFTrainer,
        config(
            tmp_path,
            unlearning_interval=1,
            unlearning_strength=0.0,
            learning_rate=1e-12,
            per_device_train_batch_size=9,
        ),
        FORGET,
    )
    nll = [
        next(e["unlearn/nll"] for e in t.state.log_history if "unlearn/nll" in e)
        for t in (trainer, plain)
    ]
    assert nll[0] == pytest.approx(nll[1], rel=1e-5)


def test_assistant_only_loss_of_conversations(tmp_path):
    """The setting is about the learning data; the texts are prompts and completions."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{% generation %}"
        "{{ m['content'] }}<|end|>{% endgeneration %}{% else %}<|user|>{{ m['content'] }}<|end|>"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    turns = [
        {
            "messages": [
                {"role": "user", "content": f"sum {n}"},
                {"role": "assistant", "content": f"{n} is two"},
            ]
        }
        for n in range(12)
    ]
    texts = [{"prompt": f"what is {n}", "completion": " one and two"} for n in range(4)]
    trainer = LWFTrainer(
        model=make_model(),
        args=config(tmp_path, assistant_only_loss=True),
        train_dataset=Dataset.from_list(turns),
        forget_dataset=Dataset.from_list(texts),
        processing_class=tokenizer,
    )
    trainer.train()
    unlearned(trainer)


@pytest.mark.slow
def test_torch_compile(tmp_path):
    """With `aot_eager`, which captures both passes; the default backend compiles for minutes."""
    arguments = config(tmp_path, torch_compile=True, torch_compile_backend="aot_eager", max_steps=4)
    unlearned(train(LWFTrainer, arguments, FORGET))


def test_metrics_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    arguments = config(tmp_path, report_to="tensorboard")
    train(LWFTrainer, arguments, FORGET)
    events = next(tmp_path.rglob("events.out.tfevents.*"))
    board = EventAccumulator(str(events.parent)).Reload()
    names = set(board.Tags()["scalars"])
    for name in ("loss", "nll", "grad_norm", "skipped", "strength"):
        assert any(tag.endswith(f"unlearn/{name}") for tag in names), names


def strip(steps):
    """The examples of every step, without padding."""
    return [[[[i for i in row if i != 1] for row in micro] for micro in step] for step in steps]


@pytest.mark.parametrize(
    "changes",
    [
        {"train_sampling_strategy": "sequential"},
        {"dataloader_drop_last": True},
        {"dataloader_drop_last": True, "gradient_accumulation_steps": 2},
        {"data_seed": 11},
        {"num_train_epochs": 1.4},
        {"max_steps": 9},
    ],
)
def test_learning_steps_are_those_of_trl(tmp_path, changes):
    trainer, watch = watched(LWFTrainer, config(tmp_path, **changes), FORGET)
    _, plain = watched(SFTTrainer, config(tmp_path, **changes))
    learned = [step for step, kind in zip(watch.steps, trainer.plan.steps, strict=True) if not kind]
    nothing = [[trainer.processing_class.pad_token_id]]
    learned = [[micro for micro in step if micro != nothing] for step in learned]
    assert strip(learned) == strip(plain.steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ignore_data_skip": True}, "--ignore_data_skip: "),
        ({"train_sampling_strategy": "group_by_length"}, "--train_sampling_strategy group_by_len"),
        ({"train_sampling_strategy": "batch_rebalance"}, "--train_sampling_strategy batch_rebal"),
        ({"accelerator_config": {"split_batches": True}}, "--accelerator_config: "),
        ({"accelerator_config": {"use_seedable_sampler": False}}, "--accelerator_config: "),
        (
            {"dataloader_drop_last": True, "per_device_train_batch_size": 23, "max_steps": 3},
            "--dataloader_drop_last: no whole batch",
        ),
    ],
)
def test_settings_that_would_give_wrong_results_are_rejected(tmp_path, changes, message):
    """Only with unlearning; without it TRL decides."""
    with pytest.raises(InputError, match=message):
        train(LWFTrainer, config(tmp_path, **changes), FORGET)
    if "max_steps" not in changes:
        train(LWFTrainer, config(tmp_path, **changes, unlearning_interval=0), FORGET)


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_learning_rate_schedules_that_follow_an_evaluation(tmp_path, kind):
    """The rate falls as in TRL's trainer; unlearning steps do not count as evaluations."""
    arguments = {
        "lr_scheduler_type": kind,
        "eval_strategy": "epoch",
        "num_train_epochs": 4,
        "metric_for_best_model": "eval_loss",
        "unlearning_strength": 0.0,
    }
    rates = []
    for cls, forget in ((SFTTrainer, None), (LWFTrainer, FORGET)):
        kwargs = {"forget_dataset": Dataset.from_list(forget)} if forget else {}
        trainer = cls(
            model=make_model(),
            args=config(tmp_path, **arguments),
            train_dataset=Dataset.from_list(LEARN),
            eval_dataset=Dataset.from_list(LEARN[:4]),
            processing_class=make_tokenizer(),
            **kwargs,
        )
        trainer.train()
        history = trainer.state.log_history
        rates.append([e["learning_rate"] for e in history if "learning_rate" in e])
        assert sum("eval_loss" in e for e in history) == 4
    assert rates[0] == rates[1]


@pytest.mark.parametrize("loss", ["bounded_ga", "npo", "simnpo", "graddiff", "kl_uniform"])
def test_models_without_loss_arguments(tmp_path, loss):
    """The trainer counts no labels for them and divides by micro-batches; the loss is the same."""
    values = []
    for accepts, accumulation in ((True, 1), (False, 1), (False, 2)):
        model = make_model()
        model.accepts_loss_kwargs = accepts
        arguments = config(
            tmp_path,
            unlearning_loss=loss,
            gradient_accumulation_steps=accumulation,
            per_device_train_batch_size=4 // accumulation,
            unlearning_schedule="early",
        )
        steps = unlearned(train(LWFTrainer, arguments, FORGET, model=model))
        values.append([[e["unlearn/loss"], e["unlearn/grad_norm"]] for e in steps])
    for other in values[1:]:
        torch.testing.assert_close(
            torch.tensor(other), torch.tensor(values[0]), rtol=1e-3, atol=1e-5
        )


def test_a_custom_collator_gets_the_same_columns_as_in_trl(tmp_path):
    tokenizer = make_tokenizer()
    trainer = LWFTrainer(
        model=make_model(),
        args=config(tmp_path),
        train_dataset=Dataset.from_list([{**row, "source": "a book"} for row in LEARN]),
        forget_dataset=Dataset.from_list(FORGET),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.train()
    unlearned(trainer)
