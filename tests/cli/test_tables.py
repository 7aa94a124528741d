"""The tables and sentences that the commands print."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from letgo.cli.tables import harness_table, result_table, text_table, verdict

PARTS = {"learned": "better", "let_go": "more", "kept": "not less"}


def metrics(**changes):
    """The content of a `metrics.json`."""
    score = {"accuracy": 0.5, "n": 4, "ci95": [0.25, 0.75]}
    pair = {"difference": 0.25, "ci95": [-0.125, 0.5], "p_value": 0.5}
    return {
        "models": {
            "base": {"learn": score},
            "sft": {"learn": score, "validation": score},
            "lwf": {"learn": score, "validation": score},
        },
        "lwf_minus_sft": dict.fromkeys(("learn", "validation"), pair),
        "neutral_perplexity": {"base": 20.0, "sft": 21.0, "lwf": 22.0},
        "verdict": "sft",
        **changes,
    }


def figure(name, value, **more):
    """An outcome of `metrics.json`."""
    share = {"value": value, "n": 4, "ci95": [value - 0.125, value + 0.125]}
    return {
        "figure": name,
        **dict.fromkeys(("base", "sft", "lwf"), share),
        "lwf_minus_sft": {"difference": -0.25, "ci95": [-0.5, 0.0], "p_value": 0.01},
        "more": more,
    }


def test_a_result_table_begins_with_the_outcomes():
    perplexity = figure("neutral_perplexity", 20.0)
    perplexity["lwf_minus_sft"]["ci95"] = [None, None]  # too few values for an interval
    outcomes = {
        "learned": figure("accuracy", 0.5),
        "let_go": figure("old_answers", 0.25),
        "kept": figure("kl", 0.5, neutral_perplexity=perplexity),
    }
    headroom = {"errors": 3, "old_answers": 1, "n": 4, "share": 0.25, "ci95": [0.0, 0.7]}
    text = result_table(metrics(outcomes=outcomes, headroom=headroom))
    lines = [re.split("  +", line) for line in text.splitlines()]
    assert lines[0][0] == "outcome"
    assert lines[1] == [
        "learned: is the task learned?",
        "right answers, %",
        *["50.0 [37.5, 62.5]"] * 3,
        "-25.0 [-50.0, +0.0]",
        "4",
    ]
    assert lines[2][:2] == ["let go: is the old answer gone?", "old answers, %"]
    assert lines[3][1:3] == ["KL from the base model, nats per token", "0.500 [0.375, 0.625]"]
    assert lines[4][1:3] == ["perplexity of neutral text", "20.00 [19.88, 20.12]"]
    assert lines[4][-2:] == ["-0.250", "4"]
    rows = {line[0]: line[1:] for line in lines[6:]}
    assert rows["accuracy, 95 % interval"] == ["learn", "validation"]
    assert rows["base"] == ["0.500 [0.250, 0.750]", "-"]
    assert rows["n"] == ["4", "4"]
    assert rows["LWF - SFT, paired"] == ["+0.250 [-0.125, +0.500]"] * 2
    assert rows["p (McNemar, exact)"] == ["0.5", "0.5"]
    assert "errs on 3, on 1 of them with the base model's own answer" in text
    without = {"base": metrics()["models"]["base"], "lwf": metrics()["models"]["base"]}
    assert "SFT" not in result_table(metrics(models=without, lwf_minus_sft={}))


def test_tables_are_the_same_on_every_terminal(monkeypatch):
    many = {f"forget:set number {n}": metrics()["models"]["lwf"]["learn"] for n in range(40)}
    wide = metrics(models=dict.fromkeys(("base", "lwf"), many), lwf_minus_sft={})
    texts = set()
    for columns, colour in (("20", "1"), ("200", "")):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setenv("FORCE_COLOR", colour)
        texts.add(result_table(wide))
    (text,) = texts
    assert len(text.splitlines()) == 4
    assert all(name in text.splitlines()[0] for name in many)
    assert text.isascii()
    assert "\x1b" not in text


def test_a_harness_table_has_standard_errors():
    result = {
        model: {
            "qasc": {
                "acc": {"value": 0.5, "stderr": 0.125, "n": 3},
                "match (first)": {"value": 0.25, "stderr": None, "n": 3},
            }
        }
        for model in ("base", "sft", "lwf")
    }
    lines = harness_table({"models": result}).splitlines()
    assert lines[0].split() == ["task", "metric", "n", "base", "SFT", "LWF"]
    assert lines[1].split()[:3] == ["qasc", "acc", "3"]
    assert lines[1].count("0.500 +- 0.125") == 3
    assert lines[2].count("0.250") == 3
    assert "+-" not in lines[2]
    pair = {"difference": -0.25, "ci95": [-0.5, 0.125], "p_value": 0.03125, "p_holm": 0.0625}
    paired = {"qasc": {"acc": pair}}
    lines = harness_table({"models": result, "lwf_minus_sft": paired}).splitlines()
    assert lines[0].endswith("LWF - SFT, paired       p  p (Holm)")
    assert lines[1].endswith("-0.250 [-0.500, +0.125]  0.0312    0.0625")
    assert lines[2] == lines[2].rstrip()


def test_a_text_table_has_both_ends_of_the_ranking(tmp_path):
    ids = [str(n) for n in range(9)]
    scores = {"id": ids, "forget_set": ["[red]"] * 9, "confidence": [n / 10 for n in range(9)]}
    words = {"id": ids, "prompt": [f"{n}\n?" for n in ids], "completion": ["long " * 30] * 9}
    selection = {"id": ids, "selected": [True] * 9, "reason": ["selected"] * 9}
    for name, columns in (
        ("scores", scores),
        ("self_knowledge", words),
        ("selection", selection),
    ):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    lines = text_table(tmp_path, 2).splitlines()
    assert [line.split()[0] for line in lines] == ["confidence", "0.8", "0.7", "0.1", "0"]
    assert "[red]  8 ? -> long" in lines[1]
    assert lines[1].endswith("\N{HORIZONTAL ELLIPSIS}")
    assert len(lines[1]) == len("confidence  [red]  ") + 90


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "no verdict yet: run `letgo evaluate --output_dir"),
        (
            metrics(verdict="lwf", verdict_parts=PARTS, sentence="LWF learned better"),
            "verdict: LWF learned better, on validation prompts;",
        ),
        (metrics(verdict_parts=PARTS, sentence="LWF learned worse"), "is the SFT baseline (LWF's:"),
        (metrics(sentence="nothing was unlearned"), "verdict: nothing was unlearned;"),
        (metrics(), "verdict: by an earlier letgo;"),
        (metrics(verdict="no baseline"), "--optimum full would compare it with the SFT baseline"),
    ],
)
def test_a_verdict_is_a_sentence(tmp_path, content, sentence):
    if content:
        (tmp_path / "metrics.json").write_text(json.dumps(content))
    assert sentence in verdict(tmp_path)
