"""Texts of another tokenizer, texts on learning prompts, and warnings."""

import pytest
from helpers.models import make_tokenizer
from helpers.training import FORGET, LEARN, unlearner

from letgo.errors import InputError
from letgo.unlearning.checks import check_overlap, prompts


def test_texts_of_another_tokenizer_are_rejected(tmp_path):
    foreign = [{"input_ids": [5, 999], "labels": [-100, 999]}] * 4
    with pytest.raises(InputError, match="another tokenizer: they contain token 999"):
        unlearner(tmp_path, forget=foreign)
    tokenizer = make_tokenizer()
    ids = tokenizer("a b c")["input_ids"]
    fitting = {"prompt_ids": [9, 8], "completion_ids": ids, "completion": tokenizer.decode(ids)}
    unlearner(tmp_path, forget=[fitting] * 4)
    with pytest.raises(InputError, match=r"another tokenizer: the tokens of 'x y z' decode to"):
        unlearner(tmp_path, forget=[{**fitting, "completion": "x y z"}] * 4)
    with pytest.raises(InputError, match="the prompts have no answers"):
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


def test_warnings_about_few_texts_and_few_steps(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="letgo"):
        trainer = unlearner(tmp_path, forget=FORGET[:2], unlearning_interval=50)
        trainer.get_train_dataloader()
    assert "the 2 texts to unlearn are fewer than a batch of 4" in caplog.text
    assert "there will be no unlearning step: the run has 12 learning steps" in caplog.text
