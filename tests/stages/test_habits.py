"""Habits in whole runs: what they write, what they refuse, and that a killed run goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.commands import digest, environment, flags, letgo
from helpers.files import write_lines

from letgo.data.habits import closes_repeat, loops

KILLING = Path(__file__).parents[1] / "helpers" / "killing.py"
HABITS = {
    "forget": "self:loops",
    "forget_pattern": [r"\S", "(?i)W"],
    "forget_pattern_prompts": None,
    "unlearning_loss": "unlikelihood",
    "rescore_interval": 4,
    "max_new_tokens": 12,
}


@pytest.fixture(scope="module")
def words(tiny, data, tmp_path_factory):
    """The flags of a run with both habits, without its folder."""
    prompts = [{"prompt": f"say {n} words"} for n in range(12)]
    file = write_lines(tmp_path_factory.mktemp("prompts") / "say.jsonl", prompts)

    def of(out, **changes):
        return flags(tiny, data, out, **{**HABITS, "forget_pattern_prompts": file, **changes})

    return of


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    out = tmp_path_factory.mktemp("habits") / "out"
    status, text, error = letgo("run", *words(out))
    assert status == 0, error
    return out, text


def rows(out, name):
    return pq.read_table(out / name).to_pylist()


def test_the_texts_have_their_habit_and_its_tokens(whole):
    out, _ = whole
    texts = rows(out, "self_knowledge.parquet")
    assert {(t["forget_set"], t["habit"]) for t in texts} == {
        ("self-loops", "loops"),
        ("self-pattern", "pattern"),
    }
    for text in texts:
        if text["habit"] == "loops":
            assert text["span"] == closes_repeat(text["completion_ids"])
        assert len(text["span"]) == len(text["completion_ids"])
    scores = {s["id"]: s for s in rows(out, "scores.parquet")}
    assert {t["id"] for t in texts} == scores.keys()


def test_rates_of_all_models_are_measured_on_held_out_prompts(whole):
    out, text = whole
    found = json.loads((out / "metrics.json").read_text())["outcomes"]
    assert found["let_go"]["figure"] == "loops"
    figures = {"loops": found["let_go"], **found["let_go"]["more"]}
    answers = rows(out, "answers.parquet")
    for name in ("loops", "pattern", "endless"):
        for model in ("base", "sft", "sft_rule", "lwf"):
            sets = ("habit:self-pattern",) if name == "pattern" else ("learn",)
            values = [r[name] for r in answers if r["model"] == model and r["set"] in sets]
            assert None not in values
            assert figures[name][model]["value"] == pytest.approx(sum(values) / len(values))
    assert figures["loops"]["lwf"]["n"] == 6
    assert figures["pattern"]["lwf"]["n"] == 2
    assert {"old_answers", "old_nll"}.isdisjoint(figures)
    assert "let go: is the habit gone?" in text
    assert "SFT, rule [95 %]" in text
    assert "decoded by a rule" in (out / "report.html").read_text()


def test_a_decoding_rule_forbids_the_habit(whole):
    """And the answers of the same model without the rule show it."""
    out, _ = whole
    shown = {}
    for row in rows(out, "answers.parquet"):
        if (row["loops"], row["pattern"]) != (None, None):
            shown.setdefault(row["model"], []).append(bool(row["loops"] or row["pattern"]))
    assert len(shown["sft_rule"]) == len(shown["sft"])
    assert not any(shown["sft_rule"])
    assert any(shown["sft"])
    assert any(shown["base"])


def test_the_present_answers_are_unlearned(whole):
    """The log tells how many there were each time."""
    log = [json.loads(line) for line in (whole[0] / "train_log.jsonl").read_text().splitlines()]
    shares = [line["unlearn/helpful"] for line in log if "unlearn/helpful" in line]
    assert len(shares) == 3
    assert max(shares) > 0


def test_a_habit_counts_when_it_is_half_of_an_answer(whole):
    answers = [r for r in rows(whole[0], "answers.parquet") if r["set"] == "learn"]
    for row in answers:
        assert row["pattern"] is None  # measured on prompts of its own
        assert row["loops"] in (True, False)
    assert loops().least == 0.5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_killed_in_every_new_place_and_started_again(whole, words, tmp_path):
    out = tmp_path / "killed"
    for place in ("rule", "asking", "nowhere"):
        command = [sys.executable, KILLING, place, "run", *words(out)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == (0 if place == "nowhere" else -9), (place, done.stderr)
    assert digest(out) == digest(whole[0])


def test_base_answers_with_the_habit_alone(words, tmp_path):
    """Texts without it are left out before they are scored."""
    out = tmp_path / "out"
    changes = {"self_knowledge": "base", "forget": None, "forget_tokens": "span"}
    status, _, error = letgo("run", *words(out, **changes))
    assert status == 0, error
    assert all(any(text["span"]) for text in rows(out, "self_knowledge.parquet"))
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["outcomes"]["let_go"]["figure"] == "pattern"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"forget_pattern": "(a"}, "--forget_pattern: '(a' is no regular expression"),
        ({"forget_pattern": "zzzz"}, "--forget_pattern: none of the 8 answers of the base model"),
        (
            {"forget_pattern": r"(?s)(.|.)+$(?<!.)", "max_new_tokens": 60},
            "takes more than 1 s to search an answer",
        ),
        ({"forget_pattern": None}, "--forget_pattern_prompts needs --forget_pattern"),
        (
            {"forget": "self:pattern", "forget_pattern": None, "forget_pattern_prompts": None},
            "--forget self:pattern needs a regular expression",
        ),
        ({"forget_tokens": "some"}, "--forget_tokens must be one of all, conflict, span"),
        ({"self_knowledge": "new"}, "--self_knowledge must be one of base, current"),
    ],
)
def test_bad_input_is_refused_before_training(words, tmp_path, changes, message):
    status, _, error = letgo("run", *words(tmp_path / "out", **{"forget": None, **changes}))
    lines = error.strip().splitlines()
    assert status == 2
    assert message in lines[-1], error
    assert not (tmp_path / "out" / "probe").exists()


def test_mixed_with_other_sets_the_old_answers_decide(words, data, tmp_path):
    out, sets = tmp_path / "out", [data / "letters" / "train.jsonl", "self:loops"]
    status, _, error = letgo("run", *words(out, forget=sets, relearn=2))
    assert status == 0, error
    found = json.loads((out / "metrics.json").read_text())["outcomes"]["let_go"]
    assert found["figure"] == "old_answers"
    assert {"loops", "pattern", "endless", "relearned"} <= found["more"].keys()
    assert {t["habit"] for t in rows(out, "self_knowledge.parquet")} == {None, "loops", "pattern"}
