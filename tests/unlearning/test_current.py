"""`self_knowledge="current"`: the texts to unlearn are what the model says now."""

import copy

import pytest
import torch
from helpers.models import make_model, make_tokenizer
from helpers.training import FORGET, config, same, train, unlearner, weights
from peft import LoraConfig
from transformers import TrainerCallback

from letgo import LWFTrainer
from letgo.errors import InputError
from letgo.unlearning.config import LWFConfig
from letgo.unlearning.current import COST, CurrentAnswers
from letgo.unlearning.rescore import rescoring

CURRENT = {"self_knowledge": "current", "rescore_interval": 3, "num_train_epochs": 3}


def answer(model, prompt, longest, stop=0):
    """A greedy answer, token by token from the full logits."""
    ids = list(prompt)
    for _ in range(longest):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == stop:
            break
    return ids[len(prompt) :]


def loss(model, prompt, ids):
    with torch.no_grad():
        log_probs = model(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
    return -sum(float(log_probs[len(prompt) + i - 1, t]) for i, t in enumerate(ids)) / len(ids)


def asked(monkeypatch):
    """The step, the model and the result of every asking."""
    seen, ask = [], CurrentAnswers.ask

    def ask_and_tell(self, indices):
        model = make_model()
        model.load_state_dict(self.trainer.model.state_dict())
        result = ask(self, indices)
        seen.append((self.trainer.state.global_step, model, sorted(indices), result))
        return result

    monkeypatch.setattr(CurrentAnswers, "ask", ask_and_tell)
    return seen


def test_old_answers_are_those_that_learning_has_made_less_likely(tmp_path, monkeypatch):
    """Every asking against a loop over prompts, tokens and whole logits."""
    seen, base, tokenizer = asked(monkeypatch), make_model(), make_tokenizer()
    trainer = train(LWFTrainer, config(tmp_path, **CURRENT), FORGET)
    longest = max(len(row["labels"]) - 2 for row in FORGET)
    assert [trainer.plan.learned(step) for step, *_ in seen] == [3, 6, 9, 12, 15, 18]
    kept = 0
    for _, model, indices, (old, scores) in seen:
        expected, differences = [], []
        for index in indices:
            prompt = FORGET[index]["input_ids"][:2]
            ids = answer(model, prompt, longest)
            if not tokenizer.decode(ids, skip_special_tokens=True).strip():
                continue
            before = loss(base, prompt, ids)
            differences.append(loss(model, prompt, ids) - before)
            if differences[-1] > 0:
                row = {"input_ids": prompt + ids, "labels": [-100] * 2 + ids, "habit": ""}
                expected.append({**row, "reference": pytest.approx(-before * len(ids), rel=1e-4)})
        assert scores == pytest.approx(differences, abs=1e-4)
        assert old == expected
        kept += len(old)
    assert 0 < kept < sum(len(scores) for *_, (_, scores) in seen)
    assert trainer.tracker.answers == seen[-1][3][0]


class Killed(Exception):
    pass


@pytest.mark.parametrize("peft", [None, LoraConfig(r=2, target_modules=["q_proj", "up_proj"])])
def test_resumed_inside_a_generation_equals_uninterrupted(tmp_path, monkeypatch, peft):
    """Killed while the model writes; the last checkpoint is from the step before."""

    class Save(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = True

    def run(folder, **options):
        arguments = config(folder, **CURRENT, save_total_limit=1)
        return train(LWFTrainer, arguments, FORGET, peft=peft and copy.copy(peft), **options)

    torch.manual_seed(0)
    whole = run(tmp_path / "whole")
    inner, calls = CurrentAnswers._answers, []

    def die(self, indices):
        result = inner(self, indices)
        calls.append(indices)
        if len(calls) == 3:
            raise Killed
        return result

    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(CurrentAnswers, "_answers", die)
        with pytest.raises(Killed):
            run(tmp_path / "cut", callbacks=[Save()])
    (checkpoint,) = (tmp_path / "cut").glob("checkpoint-*")
    torch.manual_seed(0)
    resumed = run(tmp_path / "cut", resume=str(checkpoint))
    assert same(weights(resumed), weights(whole))
    assert resumed.tracker.answers == whole.tracker.answers


def test_unlearning_steps_take_the_answers(tmp_path):
    trainer = unlearner(tmp_path, **CURRENT)
    batches, inner = [], trainer.rescore.batches

    def watch(count):
        batches.append((list(trainer.tracker.answers), inner(count)))
        return batches[-1][1]

    trainer.rescore.batches = watch
    trainer.train()
    assert any(answers for answers, _ in batches)
    for answers, rows in batches:
        taken = [
            row for batch in rows for row in batch if "reference" in row and row["labels"] != [-100]
        ]
        assert all(row in answers for row in taken)
        assert len(taken) == min(4, len(answers))


def test_by_default_asking_costs_a_tenth_of_the_learning(tmp_path):
    """By the estimate: in a short run fewer prompts are asked, in a long one more rarely."""
    changes = {"self_knowledge": "current", "rescore_interval": None}
    trainer = unlearner(tmp_path, **changes, num_train_epochs=20)
    trainer.get_train_dataloader()
    interval, prompts = trainer.rescore.current.schedule
    learned = trainer.plan.learned(len(trainer.plan))
    assert 1 <= prompts <= len(FORGET)
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset) / len(
        trainer.train_dataset
    )
    longest = trainer.rescore.current.longest
    text = 6 * longest + 2 * (2 + longest)
    assert prompts * text <= 1.01 * COST * interval * 3 * 4 * tokens or prompts == 1
    assert interval <= max(learned // 4, 1) or prompts == len(FORGET)
    trainer = unlearner(tmp_path, **{**changes, "rescore_interval": 7})
    trainer.get_train_dataloader()
    assert trainer.rescore.current.schedule == (7, len(FORGET))


def test_what_does_not_work(tmp_path):
    for changes, message in (
        ({"rescore_interval": 0}, "but it is 0"),
        (
            {"rescore_interval": None, "unlearning_loss": "graddiff"},
            "but --unlearning_loss graddiff",
        ),
        ({"self_knowledge": "now"}, "must be one of base, current, not now"),
    ):
        with pytest.raises(InputError, match=message):
            config(tmp_path, **{**CURRENT, **changes})
    rated = config(tmp_path, **{**CURRENT, "rescore_interval": None, "unlearning_rate": 1e-4})
    assert rated.rescore_interval is None
    with pytest.raises(InputError, match="does not work with FSDP or DeepSpeed"):
        rescoring(rated, make_model(), "", sharded=True, asks=True)
    whole = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in FORGET]
    with pytest.raises(InputError, match="no text to unlearn has a prompt"):
        unlearner(tmp_path, forget=whole, **CURRENT)


def test_a_model_that_says_nothing_is_refused(tmp_path, monkeypatch):
    from letgo.models.inference import LanguageModel

    monkeypatch.setattr(LanguageModel, "generate", lambda self, prompts, most: [[0]] * len(prompts))
    with pytest.raises(InputError, match="answers nothing to any of 9 forgetting prompts"):
        unlearner(tmp_path, **CURRENT).train()


def test_base_is_the_default_and_changes_nothing(tmp_path):
    assert not LWFConfig(output_dir=str(tmp_path)).asks("")
    trainer = unlearner(tmp_path, rescore_interval=2)
    assert trainer.rescore.current is None
