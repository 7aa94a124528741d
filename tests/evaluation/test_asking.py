"""The models are asked as long as there is room, and judged by one rule for each task."""

import logging
import math

import pytest
from helpers.commands import flags
from helpers.files import write_lines
from helpers.models import language_model, make_model

from letgo.evaluation.asking import all_answers
from letgo.evaluation.held_out import base_answers, held_out_answers
from letgo.run import config as cfg
from letgo.run.inputs import open_run


@pytest.fixture
def ask(tiny, data, tmp_path, tmp_path_factory, caplog):
    """Asks an untrained model; returns its answers by (set, id) and the log."""

    def asked(label="base", **changes):
        caplog.clear()
        caplog.set_level(logging.INFO, "letgo")
        logging.getLogger("letgo").propagate = True
        run = open_run(cfg.parse("run", flags(tiny, data, tmp_path / "out", **changes), {}))
        lm = language_model(make_model())
        scratch = tmp_path_factory.mktemp("scratch")
        old = base_answers(run, scratch, lambda: lm)
        rows = all_answers(run, scratch, label, lambda: lm)
        rows += held_out_answers(run, scratch, label, lambda: lm, old)
        return {(row["set"], row["id"]): row for row in rows}, caplog.text

    return asked


def test_a_long_prompt_does_not_cut_the_answers_of_its_batch(ask, tmp_path):
    short = [{"prompt": f"{n} + 9?", "completion": "1 2 3 4 5 6 7"} for n in range(5)]
    long = {"prompt": "a b c d " * 24 + "?", "completion": "1 2 3 4 5 6 7"}
    alone, log = ask(learn_test=write_lines(tmp_path / "short.jsonl", short))
    assert "cut" not in log
    test = write_lines(tmp_path / "test.jsonl", [*short, long])
    together, log = ask(learn_test=test, generation_batch_size=6)
    for n in range(1, 6):
        key = ("learn", f"{n:06d}")
        assert together[key]["generated"] == alone[key]["generated"]
        assert together[key]["reference_nll"] == pytest.approx(alone[key]["reference_nll"])
    assert math.isnan(together["learn", "000006"]["reference_nll"])
    assert "learn: 1 of 6 prompts leave fewer than 18 of 128 tokens" in log
    assert "learn: 1 of 6 right answers do not fit into 128 tokens" in log


def test_a_long_reference_does_not_count_as_the_length_of_answers(ask, tmp_path):
    rows = [{"prompt": f"{n}?", "completion": "1 " * (200 if n == 3 else 2)} for n in range(4)]
    _, log = ask(learn_test=write_lines(tmp_path / "test.jsonl", rows))
    assert "learn: 1 of 4 right answers do not fit" in log
    assert "prompts leave fewer" not in log
    forget = write_lines(
        tmp_path / "talk.jsonl", [{"prompt": f"{n}!", "completion": "1 " * 200} for n in range(9)]
    )
    _, log = ask("sft", forget=forget)
    assert "forget:talk: 2 of 2 right answers have no likelihood" in log


def test_the_sets_of_a_task_have_one_rule(ask, tmp_path):
    marked = [{"prompt": f"{n} + 5?", "completion": f"so\n#### {n + 5}"} for n in range(6)]
    odd = [{"prompt": f"{n} + 6?", "completion": f"it is {n}"} for n in range(2)]
    _, log = ask(
        learn_test=write_lines(tmp_path / "test.jsonl", marked),
        learn_validation=write_lines(tmp_path / "validation.jsonl", odd),
    )
    lines = [line for line in log.splitlines() if "learn: an answer is right if" in line]
    assert len(lines) == 1
    assert "number after #### is the same, as 6 of 8 right answers end with such" in lines[0]
    assert "learn: 2 of 8 right answers are of another kind and compared word for word" in log
    _, log = ask("sft")
    assert "an answer is right if" not in log  # it was logged with the base model


@pytest.mark.parametrize("missing", [{}, {"completion": None}, {"completion": " "}])
def test_a_prompt_without_a_right_answer_is_not_judged_and_the_others_are(ask, tmp_path, missing):
    rows = [{"prompt": f"say {n} words", "completion": f"word {n}"} for n in range(30)]
    for row in rows[:12]:
        del row["completion"]
        row.update(missing)
    forget = write_lines(tmp_path / "talk.jsonl", rows)
    found, log = ask(forget=forget)
    judged = {row["id"]: row for (name, _), row in found.items() if "forget:talk" in name}
    assert len(judged) == 10
    for row in judged.values():
        has_reference = int(row["id"]) > 12
        assert (row["correct"] is not None) == has_reference
        assert (row["reference_nll"] is not None) == has_reference
        assert row["old_answer"]
    assert len({row["correct"] for row in judged.values()}) == 2
    assert "have no right answer and are not judged" in log
