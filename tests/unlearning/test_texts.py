"""Which texts are unlearned, and which of their tokens, for every form of the data."""

import pytest
from datasets import Dataset
from helpers.models import make_model, make_tokenizer
from helpers.training import FORGET, LEARN, config, unlearner

from letgo import LWFTrainer
from letgo.data.tokens import training_row
from letgo.errors import InputError
from letgo.scoring.scores import DEFAULT_SCORE
from letgo.stages.train import may_be_unlearned
from letgo.unlearning.checks import check_overlap
from letgo.unlearning.schedule import Step
from letgo.unlearning.texts import choose

PAIRS = [{"prompt": f"what is {n}", "completion": " one and two"} for n in range(4)]
TALKS = [
    {
        "messages": [
            {"role": "user", "content": f"sum {n}"},
            {"role": "assistant", "content": f"{n} is two"},
        ]
    }
    for n in range(12)
]
RESCORED = {"rescore_interval": 2, "forget_fraction": 0.5}


def prepared(folder, learn, forget, **changes):
    return LWFTrainer(
        model=make_model(),
        args=config(folder, **changes),
        train_dataset=Dataset.from_list(learn),
        forget_dataset=Dataset.from_list(forget),
        processing_class=make_tokenizer(),
    )


def decoded(row):
    """A row's text before and after its first label."""
    tokenizer = make_tokenizer()
    border = row["labels"].count(-100)
    assert row["labels"][border:] == row["input_ids"][border:]
    return tokenizer.decode(row["input_ids"][:border]), tokenizer.decode(row["input_ids"][border:])


@pytest.mark.parametrize("learn", [LEARN, TALKS, PAIRS * 3], ids=["tokens", "messages", "prompts"])
def test_prompts_are_masked_whatever_the_learning_data_mask(tmp_path, learn):
    forget = [{**row, "prompt": row["prompt"] + "!"} for row in PAIRS]
    trainer = prepared(tmp_path, learn, forget, completion_only_loss=None)
    assert [decoded(row) for row in trainer.forget_dataset] == [
        (f"what is {n}!", " one and two<|end|>") for n in range(4)
    ]
    assert ("prompt" in learn[0]) is trainer.completion_only_loss  # unchanged


def test_the_last_answer_of_a_conversation_is_unlearned(tmp_path):
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    trainer = prepared(tmp_path, LEARN, [{"messages": talk}] * 4)
    assert decoded(trainer.forget_dataset[0]) == (
        "<|user|>a<|end|><|assistant|>b<|end|><|user|>c<|end|><|assistant|>",
        "d<|end|>",
    )
    for wrong in (talk[:1], talk[1:2], talk[:3]):
        with pytest.raises(InputError, match="must end with an answer"):
            prepared(tmp_path, LEARN, [{"messages": wrong}] * 4)


def test_prompts_of_whole_conversations_are_learning_prompts(tmp_path):
    """Their prompts are not masked, so the texts' prompts are compared with how examples begin."""
    with pytest.raises(InputError, match="12 of 12 texts to unlearn answer a learning prompt"):
        prepared(tmp_path, TALKS, TALKS)
    unmasked = [{"input_ids": [7, 8, 9, 5], "labels": [7, 8, 9, 5]}]
    with pytest.raises(InputError, match="1 of 1"):
        check_overlap(unmasked, [training_row([7, 8], [4])], 0.0)
    for other in ([7, 9], [7], [7, 8, 9, 5]):  # another prompt, a single token, no answer after it
        check_overlap(unmasked, [training_row(other, [4])], 0.0)


def test_indices_are_those_of_the_dataset(tmp_path):
    """Also if the learning data are shuffled and a text without room for its answer is dropped."""
    texts = [{"prompt": f"what is {n}", "completion": " one", "confidence": n} for n in range(6)]
    texts[5]["prompt"] = "what is " * 60
    for interval in (0, 2):
        trainer = prepared(
            tmp_path,
            PAIRS * 3,
            texts,
            shuffle_dataset=True,
            max_length=40,
            forget_fraction=0.5,
            rescore_interval=interval,
            per_device_train_batch_size=2,
            forget_max_overlap=1.0,
        )
        assert trainer.chosen.indices == [3, 4]
        first = [decoded(row)[0] for row in trainer.forget_dataset]
        assert first == ["what is 3", "what is 4"]
    assert [decoded(row)[0][-1] for row in trainer.rescore.rows] == list("01234")
    with pytest.raises(InputError, match="no text has an answer within --max_length"):
        prepared(tmp_path, PAIRS * 3, texts[5:] * 4, max_length=40)


def test_texts_that_are_not_selected_are_never_unlearned(tmp_path):
    """Re-scoring chooses among the selected texts; before it, the most confident are chosen."""
    rows = [{**row, "selected": i % 2 == 0, "confidence": -i} for i, row in enumerate(FORGET)]
    allowed = choose(Dataset.from_list(rows), 0.4, True)
    assert (allowed.indices, allowed.allowed) == ([0, 2], [0, 2, 4, 6, 8])
    assert choose(Dataset.from_list(rows), 0.4, False).indices == [0, 2, 4, 6, 8]
    odd = [{**row, "confidence": float("nan")} for row in rows[:2]] + rows[2:]
    assert choose(Dataset.from_list(odd), 0.4, True).indices == [2, 4]  # NaN comes last
    seen = set()
    trainer = unlearner(tmp_path, forget=rows, **RESCORED, unlearning_interval=1)
    step = trainer.training_step

    def watched(model, inputs, *rest):
        if trainer.step_now == Step.UNLEARN:
            seen.update(tuple(i for i in row if i != 1) for row in inputs["input_ids"].tolist())
        return step(model, inputs, *rest)

    trainer.training_step = watched
    trainer.train()
    seen.discard(())  # steps in which no text would help
    assert len(seen) > 2  # re-scoring has chosen other texts than before
    assert seen <= {tuple(row["input_ids"]) for row in rows[::2]}


def test_rescoring_may_choose_texts_that_only_the_score_left_out():
    """But not texts that a person has left out."""
    for selected, reason, allowed in (
        (True, "top 0.5 by confidence", (True, True)),
        (False, "below the top 0.5 by confidence", (False, True)),
        (False, "top 0.5 by confidence", (False, False)),
        (False, "no finite confidence", (False, False)),
        (False, "private", (False, False)),
        (True, "asked for", (True, True)),
    ):
        row = {"id": "a", "selected": selected, "reason": reason}
        assert tuple(may_be_unlearned(row, on) for on in (False, True)) == allowed, reason


def test_tokens_without_labels_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"`input_ids` need `labels`"):
        unlearner(tmp_path, forget=[{"input_ids": row["input_ids"]} for row in FORGET])


def test_the_card_names_the_score_and_the_candidates_of_rescoring(tmp_path):
    rows = [{**row, "confidence": i, "score": DEFAULT_SCORE} for i, row in enumerate(FORGET)]
    lines = unlearner(tmp_path, forget=rows, **RESCORED).chosen.describe()
    assert lines[0] == "9 self-generated texts, 4 of them unlearned"
    assert lines[1:3] == ["re-scoring may choose among 9 of them", f"score: {DEFAULT_SCORE}"]


def test_texts_are_chosen_by_confidence_or_by_decision():
    rows = [{"confidence": float(i), "x": i} for i in range(10)]
    chosen = choose(Dataset.from_list(rows), 0.3, False)
    assert (chosen.total, chosen.indices) == (10, [7, 8, 9])
    assert "10 self-generated texts, 3 of them unlearned" in chosen.describe()[0]
    decided = [{**row, "selected": row["x"] in (2, 4)} for row in rows]
    assert choose(Dataset.from_list(decided), 0.3, False).indices == [2, 4]
    with pytest.raises(InputError, match="no text is selected"):
        choose(Dataset.from_list([{"selected": False}]), 0.3, False)
