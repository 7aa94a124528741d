"""Losses, doses, guards, schedules and texts of unlearning, each against something simpler."""

import json
import math

import pytest
import torch
from datasets import Dataset
from helpers.models import make_model, make_tokenizer
from helpers.training import FORGET, LEARN, Grads, Moves, config, same, train, unlearner, weights
from oracles import losses as oracle
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTTrainer

from letgo import LWFTrainer
from letgo.errors import InputError
from letgo.unlearning.checks import check_overlap, prompts
from letgo.unlearning.guards import risen, watch_learning
from letgo.unlearning.losses import BETAS, LOSSES
from letgo.unlearning.schedule import factor, plan
from letgo.unlearning.stream import MixedBatches
from letgo.unlearning.texts import choose, reference_log_probs
from letgo.unlearning.tracker import RunningMean, Tracker

# ---- losses


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients_are_those_of_the_formula(tmp_path, name):
    """On a padded, prompt-masked batch, through TRL's fused head, with learning rows if mixed."""
    trainer = unlearner(tmp_path, unlearning_loss=name)
    trainer.get_train_dataloader()
    trainer.kinds, trainer.forgotten_per_step = [True], 4
    trainer.model.train()
    rows = [
        {**r, "reference": -20.0 - i} for i, r in enumerate(trainer.forget_dataset.to_list()[:4])
    ]
    rows += LEARN[:4] if name == "graddiff" else []
    batch = MixedBatches(None, trainer.data_collator)(rows)
    learning, reference = batch["learning"].tolist(), batch["reference"].tolist()
    logits = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = oracle.loss(name, logits, batch["labels"], reference, learning, BETAS.get(name))
    expected.backward()
    gradients = {n: p.grad.clone() for n, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()
    tokens = (batch["labels"][:, 1:] != -100).sum()
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=tokens)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    for n, p in trainer.model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[n], rtol=1e-3, atol=1e-5, msg=n)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_trains(tmp_path, name):
    """And does to the texts what it is for; `replay` the opposite."""
    nll = {}
    for strength in (0.0, 1.0):
        arguments = config(
            tmp_path,
            unlearning_loss=name,
            unlearning_strength=strength,
            unlearning_interval=1,
            num_train_epochs=4,
        )
        trainer = train(LWFTrainer, arguments, FORGET)
        rows = trainer.forget_dataset.to_list()
        found = reference_log_probs(trainer.model, rows, 1, False)
        nll[strength] = -sum(found) / len(found)
    # Random tokens are less likely than under a uniform distribution, so `kl_uniform` raises them.
    assert (nll[1.0] > nll[0.0]) is (name not in ("replay", "kl_uniform"))


def test_the_reference_is_the_base_model_s(tmp_path):
    """Computed before the first step; from the elicited log-probability where there is one."""
    trainer = unlearner(tmp_path, unlearning_loss="npo")
    model = make_model()
    expected = reference_log_probs(model, FORGET, 1, False)
    assert trainer.forget_dataset["reference"][:] == pytest.approx(expected, rel=1e-5)
    elicited = [
        {
            "prompt_ids": r["input_ids"][:2],
            "completion_ids": r["input_ids"][2:],
            "mean_logprob": -1.5,
        }
        for r in FORGET
    ]
    trainer = unlearner(tmp_path, forget=elicited, unlearning_loss="npo")
    assert trainer.forget_dataset["reference"][:] == [
        -1.5 * (len(r["input_ids"]) - 2) for r in FORGET
    ]


def test_with_an_adapter_the_reference_is_without_it(tmp_path):
    adapter = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    trainer = unlearner(tmp_path, peft=adapter, unlearning_loss="npo")
    expected = reference_log_probs(make_model(), FORGET, 1, False)
    assert trainer.forget_dataset["reference"][:] == pytest.approx(expected, rel=1e-4)


def test_texts_above_the_ceiling_contribute_nothing(tmp_path):
    """The gradient is that of the texts below it alone; `ga` has no ceiling."""
    found = {}
    nll = [-v for v in reference_log_probs(make_model(), FORGET[:4], 1, False)]
    nll = [v / (len(r["input_ids"]) - 2) for v, r in zip(nll, FORGET, strict=False)]
    ceiling = sorted(nll)[1] + 1e-3  # two of four are below
    for name in ("ga", "bounded_ga"):
        trainer = unlearner(tmp_path, unlearning_loss=name, unlearning_ceiling=ceiling)
        trainer.get_train_dataloader()
        trainer.kinds = [True]
        trainer.model.train()
        batch = MixedBatches(None, trainer.data_collator)(
            [{**r, "reference": 0.0} for r in FORGET[:4]]
        )
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(30)).backward()
        found[name] = trainer.model.model.norm.weight.grad
        assert trainer.metrics._step[3] == (2 if name == "bounded_ga" else 0)
    kept = [r for r, v in zip(FORGET, nll, strict=False) if v < ceiling]
    trainer.model.zero_grad()
    batch = MixedBatches(None, trainer.data_collator)([{**r, "reference": 0.0} for r in kept])
    trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(30)).backward()
    torch.testing.assert_close(found["bounded_ga"], trainer.model.model.norm.weight.grad)
    assert not torch.allclose(found["ga"], found["bounded_ga"])


# ---- schedules


def test_plans_differ_only_in_the_places_of_unlearning():
    assert plan("early", 7, 3, 0) == [True] * 2 + [False] * 7
    drawn = plan("random", 40, 4, 1)
    assert (drawn.count(True), drawn.count(False)) == (10, 40)
    assert drawn == plan("random", 40, 4, 1) != plan("random", 40, 4, 2)
    for name in ("periodic", "warmup", "decay", "adaptive"):
        assert plan(name, 4, 2, 0) == [False, False, True] * 2
    assert all(plan(name, 5, 0, 0) == [False] * 5 for name in ("periodic", "early", "random"))


def test_warmup_and_decay_are_linear():
    assert [factor("warmup", k, 4) for k in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [factor("decay", k, 4) for k in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert factor("periodic", 3, 4) == 1


@pytest.mark.parametrize("schedule", ["early", "random", "warmup", "decay"])
def test_learning_steps_are_the_same_whatever_the_schedule(tmp_path, schedule):
    """With nothing to forget left (strength 0), any schedule gives plain fine-tuning."""
    arguments = config(tmp_path, unlearning_schedule=schedule, unlearning_strength=0.0)
    ours = train(LWFTrainer, arguments, FORGET)
    assert ours.kinds == plan(schedule, 12, 3, 5)
    assert same(weights(ours), weights(train(SFTTrainer, config(tmp_path))))


# ---- the dose


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd"])
@pytest.mark.parametrize("schedule", ["periodic", "warmup", "decay"])
def test_strength_is_a_fraction_of_recent_learning_updates(tmp_path, optim, schedule):
    moves = Moves()
    arguments = config(tmp_path, unlearning_strength=0.3, unlearning_schedule=schedule, optim=optim)
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
    recent, count = RunningMean(), 0
    for distance, unlearning in zip(moves.distances, trainer.kinds, strict=True):
        if unlearning:
            expected = 0.3 * factor(schedule, count, 4) * recent.value
            assert distance == pytest.approx(expected, rel=1e-3)
            count += 1
        else:
            recent.add(distance, 0.9)
    logged = [e["unlearn/strength"] for e in trainer.state.log_history if "unlearn/strength" in e]
    assert logged == pytest.approx([0.3 * factor(schedule, k, 4) for k in range(4)], rel=1e-4)


def test_separate_state_leaves_the_moments_alone_and_shared_state_does_not(tmp_path):
    for state, untouched in (("separate", True), ("shared", False)):
        moves = Moves()
        arguments = config(tmp_path, unlearning_state=state, unlearning_strength=0.5)
        trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
        for step, unlearning in enumerate(trainer.kinds):
            if unlearning:
                pairs = zip(moves.moments[step - 1], moves.moments[step], strict=True)
                assert all(torch.equal(a, b) for a, b in pairs) is untouched


def test_shared_strength_is_a_fraction_of_recent_learning_gradients(tmp_path):
    """What enters the moments: exp_avg changes by (1 - beta1) (g - exp_avg)."""
    moves = Moves()
    arguments = config(tmp_path, unlearning_state="shared", unlearning_strength=0.5)
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
    before, after = moves.moments[2], moves.moments[3]
    gradient = [(a - 0.9 * b) / 0.1 for a, b in zip(after, before, strict=True)]
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradient))
    assert norm == pytest.approx(0.5, rel=1e-3)  # learning gradients are clipped to 1
    assert trainer.state.log_history[3]["unlearn/strength"] == pytest.approx(0.5)


def test_the_first_steps_of_all_have_a_length_too(tmp_path):
    """`early`, before any learning update: AdamW's under pure noise, 0.23 lr sqrt(weights)."""
    moves = Moves()
    arguments = config(
        tmp_path, unlearning_schedule="early", unlearning_strength=1.0, warmup_steps=4
    )
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
    count = sum(p.numel() for p in trainer.model.parameters())
    expected = 1e-2 * math.sqrt(count * 0.1 / 1.9)
    assert moves.distances[0] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(InputError, match="--unlearning_schedule: SGD"):
        train(LWFTrainer, config(tmp_path, unlearning_schedule="early", optim="sgd"), FORGET)


@pytest.mark.parametrize(
    "changes",
    [
        {"unlearning_state": "shared"},
        {"unlearning_rate": 1e-2},
        {"unlearning_rate": 1e-2, "unlearning_state": "separate"},
    ],
)
def test_before_the_first_learning_step_the_peak_of_the_schedule_counts(tmp_path, changes):
    """`early` with a warmup: the same way as with a constant rate, not none at all."""
    moved = []
    for schedule in ({"warmup_steps": 3}, {"lr_scheduler_type": "constant"}):
        moves = Moves()
        arguments = config(tmp_path, unlearning_schedule="early", **schedule, **changes)
        trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
        moved.append([d for d, kind in zip(moves.distances, trainer.kinds, strict=True) if kind])
        strengths = [e["unlearn/strength"] for e in trainer.state.log_history if "unlearn/nll" in e]
        assert all(strength > 0 for strength in strengths)
        if "warmup_steps" in schedule:  # which stands at 0 still, and the next step is above
            assert moves.distances[4] == 0 < moves.distances[5]
    assert moved[0] == moved[1]
    assert all(distance > 0 for distance in moved[0])


def test_a_rate_after_a_learning_update_of_no_length(tmp_path):
    """The first step of a warmup: nothing to compare with, but a step of its own length."""
    moves = Moves()
    arguments = config(
        tmp_path,
        unlearning_state="separate",
        unlearning_rate=1e-3,
        warmup_steps=3,
        unlearning_interval=1,
    )
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
    assert moves.distances[0] == 0
    assert moves.distances[1] == pytest.approx(1e-3 / 3, rel=1e-3)  # a third of the way up, clipped
    strengths = [e["unlearn/strength"] for e in trainer.state.log_history if "unlearn/nll" in e]
    assert strengths[0] == 0 < strengths[1]


def test_adaptive_follows_the_agreement_of_the_gradients(tmp_path):
    """Texts that learning drives away are forgotten; the learning task's own texts are not."""
    strengths = {}
    for name, loss in (("own", "bounded_ga"), ("replayed", "replay")):
        arguments = config(
            tmp_path,
            unlearning_schedule="adaptive",
            unlearning_loss=loss,
            forget_max_overlap=1.0,
            per_device_train_batch_size=11,
            num_train_epochs=6,
        )
        history = train(LWFTrainer, arguments, LEARN).state.log_history
        strengths[name] = [e["unlearn/strength"] for e in history if "unlearn/strength" in e]
    assert max(strengths["own"]) < 0.05  # ascent on the learning task does not agree with it
    assert sum(strengths["replayed"]) > 10 * sum(strengths["own"])


@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd"])
def test_adaptive_is_the_cosine_with_the_gradient_of_the_step_before(tmp_path, optimizer):
    grads = Grads()
    arguments = config(tmp_path, unlearning_schedule="adaptive", optim=optimizer)
    trainer = train(LWFTrainer, arguments, FORGET, callbacks=[grads])
    for step, unlearning in enumerate(trainer.kinds):
        if unlearning:
            cosine = torch.cosine_similarity(grads.seen[step], grads.seen[step - 1], dim=0)
            logged = trainer.state.log_history[step]["unlearn/strength"]
            assert logged == pytest.approx(max(0.0, float(cosine)), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("at", [2, 3])
def test_a_checkpoint_before_an_adaptive_step_is_written_after_it(tmp_path, at):
    """The gradient that the step needs is in no checkpoint: the run can go on all the same."""
    kinds = [False, False, False, True]
    adaptive = {"unlearning_schedule": "adaptive", "save_strategy": "steps", "save_steps": at}
    whole = train(LWFTrainer, config(tmp_path, **adaptive), FORGET)
    assert whole.kinds[:4] == kinds
    saved = 4 if kinds[at] else at
    checkpoint = tmp_path / f"checkpoint-{saved}"
    assert checkpoint.exists()
    assert (tmp_path / f"checkpoint-{at}").exists() == (saved == at)
    arguments = config(tmp_path / "resumed", **adaptive)
    resumed = train(LWFTrainer, arguments, FORGET, resume=str(checkpoint))
    assert same(weights(resumed), weights(whole))


def test_rates_and_strengths_exclude_each_other(tmp_path):
    for changes, message in (
        ({"unlearning_rate": 1e-3, "unlearning_strength": 0.1}, "exclude each other"),
        ({"unlearning_schedule": "adaptive", "unlearning_rate": 1e-3}, "adaptive"),
        ({"unlearning_schedule": "sometimes"}, "--unlearning_schedule must be one of"),
        ({"unlearning_loss": "gradient"}, "--unlearning_loss must be one of"),
        ({"unlearning_state": "own"}, "--unlearning_state must be one of"),
        ({"unlearning_strength": -1.0}, "--unlearning_strength must be"),
        ({"unlearning_max_rise": 0.0}, "--unlearning_max_rise must be"),
        ({"regularizer": "dropout"}, "--regularizer must be one of"),
    ):
        with pytest.raises(InputError, match=message):
            config(tmp_path, **changes)


# ---- guards


def test_a_risen_learning_loss_pauses_unlearning(tmp_path, caplog):
    """Paused steps leave the weights where they are, are counted, and said once."""
    moves = Moves()
    arguments = config(
        tmp_path,
        unlearning_interval=1,
        unlearning_strength=5.0,
        unlearning_max_rise=0.2,
        num_train_epochs=4,
        unlearning_ceiling=1e9,
    )
    with caplog.at_level("WARNING", logger="letgo"):
        trainer = train(LWFTrainer, arguments, FORGET, callbacks=[moves])
    paused = [bool(e["unlearn/paused"]) for e in trainer.state.log_history if "unlearn/paused" in e]
    assert any(paused)
    assert not all(paused)
    unlearning = [d for d, kind in zip(moves.distances, trainer.kinds, strict=True) if kind]
    assert [distance == 0 for distance in unlearning] == paused
    assert trainer.tracker.acted["paused"] == sum(paused)
    assert sum("unlearning pauses" in record.message for record in caplog.records) == 1


def test_the_learning_loss_is_smoothed_before_it_is_judged():
    memory = Tracker()
    for loss in [2.0, 1.5, 1.2, 1.0]:
        watch_learning(memory, loss)
    assert not risen(memory, 0.1)  # too few to judge
    for loss in [1.0] * 20:
        watch_learning(memory, loss)
    watch_learning(memory, 3.0)  # one bad batch
    assert not risen(memory, 0.5)
    for _ in range(3):
        watch_learning(memory, 3.0)
    assert risen(memory, 0.5)


def test_memory_survives_json():
    memory = Tracker()
    for value in (0.1, 1 / 3, 0.7):
        memory.update.add(value, 0.9)
        watch_learning(memory, value)
    memory.acted["skipped"] = 4

    class State:
        stateful_callbacks = {"Tracker": json.loads(json.dumps(memory.state()))}

    again = Tracker()
    again.on_train_begin(None, State, None)
    assert again.state() == memory.state()
    assert again.update.value == memory.update.value


@pytest.mark.parametrize(
    "changes",
    [
        {"unlearning_schedule": "adaptive"},
        {"unlearning_state": "shared"},
        {"unlearning_schedule": "random", "unlearning_loss": "npo"},
        {"unlearning_rate": 1e-3},
        {"unlearning_loss": "graddiff", "unlearning_schedule": "decay"},
    ],
)
def test_resumed_equals_uninterrupted(tmp_path, changes):
    whole = train(LWFTrainer, config(tmp_path / "whole", **changes), FORGET)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == 6

    train(LWFTrainer, config(tmp_path / "cut", **changes), FORGET, callbacks=[Stop()])
    checkpoint = str(tmp_path / "cut" / "checkpoint-6")
    resumed = train(LWFTrainer, config(tmp_path / "cut", **changes), FORGET, resume=checkpoint)
    assert same(weights(resumed), weights(whole))
    assert resumed.tracker.state() == whole.tracker.state()


# ---- the texts


def test_texts_are_chosen_by_confidence_or_by_decision():
    rows = [{"confidence": float(i), "x": i} for i in range(10)]
    chosen = choose(Dataset.from_list(rows), 0.3, False)
    assert (chosen.known, chosen.places) == (10, [7, 8, 9])
    assert "10 self-generated texts, 3 of them unlearned" in chosen.describe()[0]
    decided = [{**row, "selected": row["x"] in (2, 4)} for row in rows]
    assert choose(Dataset.from_list(decided), 0.3, False).places == [2, 4]
    with pytest.raises(InputError, match="no text is selected"):
        choose(Dataset.from_list([{"selected": False}]), 0.3, False)


def test_texts_of_another_tokenizer_are_refused(tmp_path):
    strange = [{"input_ids": [5, 999], "labels": [-100, 999]}] * 4
    with pytest.raises(InputError, match="another tokenizer: they hold token 999"):
        unlearner(tmp_path, forget=strange)
    tokenizer = make_tokenizer()
    ids = tokenizer("a b c")["input_ids"]
    fitting = {"prompt_ids": [9, 8], "completion_ids": ids, "completion": tokenizer.decode(ids)}
    unlearner(tmp_path, forget=[fitting] * 4)
    with pytest.raises(InputError, match=r"another tokenizer: the tokens of 'x y z' stand for"):
        unlearner(tmp_path, forget=[{**fitting, "completion": "x y z"}] * 4)
    with pytest.raises(InputError, match="prompts without answers"):
        unlearner(tmp_path, forget=[{"prompt": "a"}] * 4)


def test_prompts_of_packed_rows_are_found():
    one = {"input_ids": [1, 2, 3], "labels": [-100, -100, 3]}
    other = {"input_ids": [4, 5], "labels": [-100, 5]}
    packed = {
        "input_ids": [1, 2, 3, 4, 5],
        "labels": [-100, -100, 3, -100, 5],
        "seq_lengths": [3, 2],
    }
    assert prompts([packed]) == prompts([one, other]) == [(1, 2), (4,)]
    assert prompts([{"input_ids": [1, 2], "labels": [1, 2]}]) == []


def test_overlap_with_learning_prompts_is_counted_and_bounded(tmp_path, caplog):
    shared = LEARN[:2] + FORGET
    with pytest.raises(InputError, match="2 of 11 texts to unlearn answer a learning prompt"):
        check_overlap(LEARN, shared, 0.1)
    with caplog.at_level("WARNING", logger="letgo"):
        check_overlap(LEARN, shared, 0.2)
    assert "2 of 11 texts" in caplog.text
    with pytest.raises(InputError, match="--forget_max_overlap"):
        unlearner(tmp_path, forget=LEARN)


def test_warnings_that_a_user_should_see(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="letgo"):
        trainer = unlearner(tmp_path, forget=FORGET[:2], unlearning_interval=50)
        trainer.get_train_dataloader()
    assert "2 texts to unlearn are fewer than a batch of 4" in caplog.text
    assert "no unlearning step will happen: the run has 12 learning steps" in caplog.text


def test_the_model_card_says_what_was_forgotten(tmp_path):
    rows = [{**row, "confidence": float(i)} for i, row in enumerate(FORGET)]
    trainer = train(LWFTrainer, config(tmp_path, unlearning_ceiling=6.3), rows)
    trainer.tracker.acted["paused"] = 2
    trainer.create_model_card(model_name="m")
    acted = trainer.tracker.acted
    assert acted["skipped"] > 0 < acted["clipped"]
    card = (tmp_path / "README.md").read_text()
    for said in (
        "9 self-generated texts, 4 of them unlearned",
        "quartiles): 5, 5.75, 6.5, 7.25, 8",
        "N_u = 3",
        "unlearned: 0.5",
        "seeds: training 5",
        "jiang2025graceful",
        "strength 0.1 of a learning update",
        f"skipped {acted['skipped']}, clipped {acted['clipped']}, paused 2",
    ):
        assert said in card, said


def test_the_length_of_an_update_is_measured_well_on_a_part_of_the_weights(monkeypatch):
    from letgo.unlearning import step_size as module

    monkeypatch.setattr(module, "_MEASURED", 1 << 10)
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((90, 301), (300, 200), (7,))]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    dose = module.StepSize(True, None, False, lambda tensor: tensor)
    dose.attach(optimizer)
    dose.prepare(memory := Tracker(), False, 0.0)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    length = sum(float((w.grad**2).sum()) for w in weights) ** 0.5
    optimizer.step()
    assert memory.update.value == pytest.approx(length, rel=0.1)
