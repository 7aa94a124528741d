"""Whether the right answer is the likeliest option, per token and as a whole."""

import json

import pyarrow.parquet as pq
import pytest
from helpers.commands import flags, letgo
from helpers.files import write_lines
from helpers.models import language_model, make_model

from letgo.data.records import Record
from letgo.data.tokens import example_ids, training_row
from letgo.evaluation.likelihood import Likeliest, Question, likeliest, options_of_records


def test_the_likeliest_option_is_that_of_single_losses():
    lm = language_model(make_model())
    options = ["oaks", "rocks and stones of the sea", "a", "1 2 3", "no"]
    questions = [Question(f"which is {n}?", options[n % 5], options) for n in range(10)]
    questions.insert(4, Question("why?", "because", []))
    found = likeliest(lm, questions)
    assert found[4] == Likeliest(None, None)
    best = {"per_token": set(), "whole": set()}
    for question, result in zip(questions, found, strict=True):
        if not question.options:
            continue
        nll = {}
        for option in options:
            row = training_row(*example_ids(lm.tokenizer, question.prompt, option))
            count = sum(label != -100 for label in row["labels"])
            nll[option] = lm.losses([row])[0], count
        means = min(options, key=lambda option: nll[option][0])
        whole = min(options, key=lambda option: nll[option][0] * nll[option][1])
        assert result == Likeliest(means == question.right, whole == question.right)
        best["per_token"].add(means)
        best["whole"].add(whole)
    assert best["per_token"] != best["whole"]  # the length of options counts


def test_options_are_the_choices_of_a_record_or_follow_from_its_set():
    lettered = "Which?\nA. oaks\nB. rocks\nAnswer:"
    records = [
        Record("1", "tree?", " oak", "", choices=("elm", "oak")),
        Record("2", "tree?", "fir", "", choices=("elm", "oak")),
        Record("3", lettered, "B. rocks", ""),
    ]
    assert options_of_records(records) == [["elm", "oak"], [], ["A. oaks", "B. rocks"]]
    assert options_of_records([]) == []
    assert options_of_records([Record("4", "why?", "because", "")]) == [[]]


def test_an_option_that_does_not_fit_leaves_no_answer():
    lm = language_model(make_model())
    long = "1 " * 400
    question = Question("which?", "yes", ["yes", " ".join(long.split())])
    assert likeliest(lm, [question]) == [Likeliest(None, None)]


@pytest.mark.parametrize("is_on", [True, False])
def test_the_learning_task_is_measured_by_likelihood_if_it_is_asked(tiny, data, tmp_path, is_on):
    words = ["good", "bad", "so so"]
    for name, start, count in (("learn", 0, 16), ("test", 20, 9), ("validation", 30, 6)):
        rows = [
            {"prompt": f"film {n}?", "completion": words[n % 3]}
            for n in range(start, start + count)
        ]
        write_lines(tmp_path / f"{name}.jsonl", rows)
    status, text, error = letgo(
        "run",
        *flags(
            tiny,
            data,
            tmp_path / "out",
            learn=tmp_path / "learn.jsonl",
            learn_test=tmp_path / "test.jsonl",
            learn_validation=tmp_path / "validation.jsonl",
            likelihood_accuracy=is_on,
        ),
    )
    assert status == 0, error
    answers = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()
    more = json.loads((tmp_path / "out" / "metrics.json").read_text())["outcomes"]["learned"][
        "more"
    ]
    rows = [row for row in answers if (row["model"], row["set"]) == ("lwf", "learn")]
    for column, figure in (
        ("likeliest", "likelihood_accuracy"),
        ("likeliest_whole", "likelihood_accuracy_whole"),
    ):
        values = [row[column] for row in rows]
        if is_on:
            assert more[figure]["lwf"]["value"] == sum(values) / 9
            assert more[figure]["lwf"]["n"] == 9
        else:
            assert set(values) == {None}
            assert figure not in more
    assert ("right by likelihood, not per token" in text) is is_on
