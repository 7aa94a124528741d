"""What the documentation's table says LWFTrainer works together with: it runs, and unlearns."""

import pytest
import torch
from conftest import make_model, make_tokenizer
from datasets import Dataset
from oracles import gradients as oracle
from peft import LoraConfig
from test_trainer import FORGET, LEARN, config, train, weights

from letgo import LWFTrainer
from letgo.errors import InputError

ADAPTED = ["q_proj", "up_proj"]


def unlearned(trainer):
    """The figures of the unlearning steps; checks that they are finite and moved something."""
    steps = [entry for entry in trainer.state.log_history if "unlearn/loss" in entry]
    assert len(steps) == trainer.kinds.count(True) > 0
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
def test_works_with(tmp_path, changes, peft):
    interval = 1 if "packing" in changes else 3
    arguments = config(tmp_path, **{"unlearning_interval": interval, **changes})
    unlearned(train(LWFTrainer, arguments, FORGET, peft=peft))


def test_packed_learning_data_and_padded_texts_to_forget(tmp_path):
    """Every text to forget has the NLL it has alone, although learning rows are packed."""
    arguments = config(
        tmp_path, packing=True, max_length=24, unlearning_interval=1, unlearning_strength=0.0,
        learning_rate=1e-12, per_device_train_batch_size=9, logging_steps=1,
    )  # fmt: skip
    trainer = train(LWFTrainer, arguments, FORGET)
    plain = train(LWFTrainer, config(
        tmp_path, unlearning_interval=1, unlearning_strength=0.0, learning_rate=1e-12,
        per_device_train_batch_size=9,
    ), FORGET)  # fmt: skip
    nll = [
        next(e["unlearn/nll"] for e in t.state.log_history if "unlearn/nll" in e)
        for t in (trainer, plain)
    ]
    assert nll[0] == pytest.approx(nll[1], rel=1e-5)


def test_assistant_only_loss_of_conversations(tmp_path):
    """A setting about learning data; the texts to forget are prompts and completions."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>{% generation %}"
        "{{ m['content'] }}<|end|>{% endgeneration %}{% else %}<|user|>{{ m['content'] }}<|end|>"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    turns = [
        {"messages": [{"role": "user", "content": f"sum {n}"},
                      {"role": "assistant", "content": f"{n} is two"}]} for n in range(12)
    ]  # fmt: skip
    texts = [{"prompt": f"what is {n}", "completion": " one and two"} for n in range(4)]
    trainer = LWFTrainer(
        model=make_model(), args=config(tmp_path, assistant_only_loss=True),
        train_dataset=Dataset.from_list(turns), forget_dataset=Dataset.from_list(texts),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    unlearned(trainer)


def test_torch_compile(tmp_path):
    """Captured as graphs, forward and backward; the code generator behind them takes minutes."""
    arguments = config(tmp_path, torch_compile=True, torch_compile_backend="aot_eager", max_steps=4)
    unlearned(train(LWFTrainer, arguments, FORGET))


def test_figures_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    arguments = config(tmp_path, report_to="tensorboard")
    train(LWFTrainer, arguments, FORGET)
    events = next(tmp_path.rglob("events.out.tfevents.*"))
    board = EventAccumulator(str(events.parent)).Reload()
    names = set(board.Tags()["scalars"])
    for name in ("loss", "nll", "grad_norm", "skipped", "strength"):
        assert any(tag.endswith(f"unlearn/{name}") for tag in names), names


# ---- regularizers


@pytest.mark.parametrize("name", ["bss", "l2_sp", "ewc"])
@pytest.mark.parametrize("interval", [0, 3])
def test_regularizers_hold_the_model_back(tmp_path, name, interval):
    """With and without unlearning; a large weight keeps what it measures smaller."""
    moved = {}
    for weight in (0.0, 1e4):
        arguments = config(
            tmp_path, regularizer=name, regularizer_weight=weight, learning_rate=1e-3,
            unlearning_interval=interval or 99,
        )  # fmt: skip
        trainer = train(LWFTrainer, arguments, FORGET)
        if name == "bss":
            batch = trainer.data_collator([dict(row) for row in LEARN[:4]])
            with torch.no_grad():
                trainer.model.base_model(batch["input_ids"], attention_mask=batch["attention_mask"])
            moved[weight] = float(trainer._penalty(batch["labels"])) / (weight or 1.0)
            if not weight:
                moved[weight] = torch.inf
        else:
            start = dict(make_model().named_parameters())
            moved[weight] = sum(
                float(((p - start[n]) ** 2).sum().detach())
                for n, p in weights(trainer).items()
                if "proj" in n
            )
    assert moved[1e4] < moved[0.0]


def test_the_penalties_are_those_of_their_formulas(tmp_path):
    from letgo.confidence.gradients import scored_weights
    from letgo.regularizers import penalty

    model, labels = make_model(), torch.tensor([[-100, 5, 6], [-100, -100, 7]])
    squared = penalty("l2_sp", 0.1, model, [], 1, False)
    weighted = penalty("ewc", 400.0, model, FORGET, 1, False)
    fisher = oracle.diagonal_fisher(model, scored_weights(model).layers, FORGET)
    assert squared(labels).item() == weighted(labels).item() == 0
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.01)
    moved = {name: (p - start[name]).detach() ** 2 for name, p in model.named_parameters()}
    assert squared(labels).item() == pytest.approx(
        0.05 * sum(float(m.sum()) for m in moved.values())
    )
    expected = 200 * sum(float((moved[f"{n}.weight"] * f).sum()) for n, f in fisher.items())
    assert weighted(labels).item() == pytest.approx(expected, rel=1e-3)
    shrink = penalty("bss", 1e-3, model, [], 1, False)
    ids = torch.tensor([[4, 5, 6], [8, 9, 7]])
    hidden = model.base_model(ids).last_hidden_state
    features = torch.stack([hidden[0, :2].mean(0), hidden[1, 1]])
    expected = 1e-3 * torch.linalg.matrix_norm(features, -2) ** 2  # the smallest singular value
    assert shrink(labels).item() == pytest.approx(expected.item(), rel=1e-4)


def test_regularizers_that_cannot_hold_a_model_say_so(tmp_path):
    adapter = LoraConfig(r=2, target_modules=ADAPTED)
    with pytest.raises(InputError, match=r"--regularizer l2_sp .* adapter"):
        train(LWFTrainer, config(tmp_path, regularizer="l2_sp"), FORGET, peft=adapter)
    with pytest.raises(InputError, match=r"--regularizer ewc .* give --forget"):
        train(LWFTrainer, config(tmp_path, regularizer="ewc"))
