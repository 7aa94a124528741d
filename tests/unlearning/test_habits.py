"""What the model says during training is unlearned, held against one answer at a time."""

import copy

import pytest
import torch
from helpers.models import make_model, make_tokenizer
from helpers.training import FORGET, config, same, train, unlearner, weights

from letgo import LWFTrainer
from letgo.data.habits import predicted
from letgo.unlearning.rescore import Rescore

EVERY = {"rescore_interval": 2, "rescore_texts": 6, "unlearning_interval": 2}


def first_letters(tokens, text):
    """A habit of every answer with at least two characters: these two."""
    return [(0, 2)] if len(text) > 1 else []


@pytest.fixture
def seen(monkeypatch):
    """Every time that a model was asked."""
    asks, ask = [], Rescore._ask

    def watched(self, *args):
        ask(self, *args)
        trainer = self.trainer
        model = make_model()
        model.load_state_dict(trainer.model.state_dict())
        asks.append((trainer.state.global_step, model, copy.deepcopy(trainer.tracker.answers)))

    monkeypatch.setattr(Rescore, "_ask", watched)
    return asks


def run(folder, forget=FORGET, habit=None, resume=None, **changes):
    trainer = unlearner(folder, forget, habit=habit, **{**EVERY, **changes})
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def greedy(model, prompt, count):
    """The model's answer, token by token, each time from the whole text."""
    ids = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == 0:
            break
    return ids[len(prompt) :]


def loss(model, row):
    """The NLL of the labels of a text alone."""
    with torch.no_grad():
        logs = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    return -sum(float(logs[t - 1, k]) for t, k in enumerate(row["labels"]) if k != -100)


def test_the_marked_tokens_of_the_present_answers_are_unlearned(tmp_path, seen):
    trainer = run(tmp_path, habit=first_letters)
    longest = max(len(r["input_ids"]) - 2 for r in FORGET)
    prompts, find = {tuple(r["input_ids"][:2]) for r in FORGET}, predicted(first_letters)
    assert [step for step, *_ in seen] == [2, 5, 8, 11, 14, 17]  # before each unlearning step
    for _, model, texts in seen:
        assert texts
        for row in texts:
            prompt = row["input_ids"][:2]
            assert tuple(prompt) in prompts
            answer = greedy(model, prompt, longest)
            assert row["input_ids"] == [*prompt, *answer]
            mask = find.mask(make_tokenizer(), answer)
            inside = [i if m else -100 for i, m in zip(answer, mask, strict=True)]
            assert row["labels"] == [-100, -100, *inside]
    logged = [
        line["unlearn/helpful"] for line in trainer.state.log_history if "unlearn/steps" in line
    ]
    assert len(logged) == 6
    assert all(0 < share <= 1 for share in logged)


@pytest.mark.parametrize(
    "changes", [{}, {"unlearning_loss": "npo"}, {"unlearning_schedule": "early"}]
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, changes):
    settings = {"save_strategy": "steps", "save_steps": 1, **changes}
    whole = run(tmp_path, habit=first_letters, **settings)
    for step in (1, 3, 7):
        checkpoint = str(tmp_path / f"checkpoint-{step}")
        resumed = run(tmp_path, habit=first_letters, resume=checkpoint, **settings)
        assert same(weights(whole), weights(resumed)), step
        assert whole.tracker.answers == resumed.tracker.answers


def test_a_habit_that_no_answer_shows_changes_nothing(tmp_path):
    trainer = run(tmp_path / "a", habit=lambda tokens, text: [])
    plain = train(LWFTrainer, config(tmp_path / "b", unlearning_interval=0))
    assert trainer.tracker.answers == []
    assert same(weights(trainer), weights(plain))


def test_texts_of_both_kinds_are_unlearned_together(tmp_path, seen):
    forget = [{**r, "habit": "letters" if i < 5 else None} for i, r in enumerate(FORGET)]
    run(tmp_path, forget, habit={"letters": predicted(first_letters)}, forget_fraction=1.0)
    for _, _, texts in seen:
        others = [row for row in texts if not row["habit"]]
        assert [r["input_ids"] for r in others] == [r["input_ids"] for r in FORGET[5:]]
        assert len(texts) > len(others)


def test_right_answers_stay_with_their_prompts(tmp_path, seen):
    forget = [
        {**r, "right_input_ids": [*r["input_ids"][:2], 9, 8], "right_labels": [-100, -100, 9, 8]}
        for r in FORGET
    ]
    run(tmp_path, forget, habit=first_letters, unlearning_loss="pair")
    base = make_model()
    for _, _, texts in seen:
        for row in texts:
            assert row["right_input_ids"] == [*row["input_ids"][:2], 9, 8]
            assert row["reference"] == pytest.approx(-loss(base, row), rel=1e-4)


def test_who_is_asked(tmp_path):
    default, base = config(tmp_path, rescore_interval=None), config(tmp_path, self_knowledge="base")
    current = config(tmp_path, self_knowledge="current", rescore_interval=None)
    assert [default.asks(name) for name in ("loops", "")] == [True, False]
    assert not config(tmp_path).asks("loops")  # without re-scoring
    assert not base.asks("loops")
    assert current.asks("")
