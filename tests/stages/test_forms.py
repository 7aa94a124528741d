"""Whole runs on data in the forms that people have; `LETGO_DATA` names their folder."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.commands import flags, letgo
from helpers.files import write_lines
from helpers.models import make_model, make_tokenizer

from letgo.data.conversations import Conversation
from letgo.run import config
from letgo.run.inputs import open_run

DATA = Path(os.environ.get("LETGO_DATA", "no-data")) / "forms"
FILES = {
    "alpaca": "alpaca_en_demo.json",
    "tools": "glaive_toolcall_en_demo.json",
    "parts": "v1_sft_demo.jsonl",
    "identity": "identity.json",
}


@pytest.fixture
def patient(tmp_path):
    """A tiny model with room for a conversation."""
    model, tokenizer = make_model(), make_tokenizer()
    model.config.max_position_embeddings = 4096
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def short(folder, name, count):
    """The first short records of a file, as they are."""
    text = (DATA / FILES[name]).read_text()
    rows = json.loads(text) if text.startswith("[") else map(json.loads, text.splitlines())
    distinct = {json.dumps(row)[:100]: row for row in rows if len(json.dumps(row)) < 2200}
    return write_lines(folder / f"{name}.jsonl", [*distinct.values()][:count])


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="LETGO_DATA names no folder with forms")
@pytest.mark.parametrize(
    ("learned", "forgotten"),
    [("tools", "parts"), ("parts", "tools"), ("alpaca", "identity"), ("identity", "alpaca")],
)
def test_real_files_are_learned_and_forgotten(patient, tmp_path, data, learned, forgotten):
    words = flags(
        patient,
        data,
        tmp_path / "out",
        learn=short(tmp_path, learned, 14),
        learn_test=None,
        learn_validation=None,
        forget=[short(tmp_path, forgotten, 9)],
        max_length=4096,
        tokens_per_batch=4096,
        num_train_epochs=1,
        max_test=2,
    )
    status, _, error = letgo("run", *words)
    assert status == 0, error
    rows = pq.read_table(tmp_path / "out" / "self_knowledge.parquet").to_pylist()
    assert {row["forget_set"] for row in rows} == {forgotten}
    asked = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()
    conversations = {"tools": learned, "forget:tools": forgotten}
    found = [row["prompt"] for row in asked if row["set"] in ("learn", f"forget:{forgotten}")]
    assert any("[user]\n" in prompt for prompt in found) == ("tools" in conversations.values())
    log = [json.loads(line) for line in (tmp_path / "out" / "train_log.jsonl").open()]
    assert any("loss" in entry for entry in log)
    assert (tmp_path / "out" / "report.html").exists()


CHAT = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "and 3 more?"},
    {"role": "assistant", "content": "5"},
]


def test_all_answers_of_the_learning_conversations_alone(tiny, data, tmp_path):
    def chat(number):
        messages = json.loads(json.dumps(CHAT))
        messages[0]["content"] = f"{number} + 1?"
        return {"messages": messages}

    learn = write_lines(tmp_path / "chats.jsonl", map(chat, range(20)))
    changes = {"learn": learn, "learn_test": None, "learn_validation": None}
    counts = {}
    for turns in ("last", "all"):
        words = flags(tiny, data, tmp_path / "out", assistant_turns=turns, **changes)
        run = open_run(config.parse("run", words, {}))
        counts[turns] = len(run.learn)
        assert all(isinstance(r.prompt, Conversation) for r in [*run.test, *run.validation])
    assert counts == {"last": 17, "all": 34}
    first, second = run.learn[:2]
    assert (first.completion, second.completion) == ("2", "5")
    assert second.prompt == f"[user]\n{first.prompt}\n[assistant]\n2\n[user]\nand 3 more?"
    held = [r.prompt for r in [*run.test, *run.validation]]
    assert not any(f"]\n{first.prompt}\n" in prompt for prompt in held)


def test_named_columns_on_the_command_line(tiny, data, tmp_path):
    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(20)]
    learn = write_lines(tmp_path / "sums.jsonl", rows)
    changes = {"learn": learn, "learn_test": None, "learn_validation": None}
    words = flags(tiny, data, tmp_path / "out", **changes)
    status, _, error = letgo("run", *words)
    assert status == 2
    assert f"--learn: {learn} line 1: none of 'prompt'" in error
    assert "(found: question, answer); name the columns" in error.splitlines()[-1]
    words += ["--columns", "prompt=question", "completion=answer"]
    run = open_run(config.parse("run", words, {}))
    assert {r.completion for r in run.test} <= {str(n + 1) for n in range(20)}
    assert len(run.learn) == 17
    for bad, complaint in [("prompt", "is not NAME=COLUMN"), ("prompt=answer", "twice; keep one")]:
        status, _, error = letgo("run", *words, "--columns", bad)
        assert status == 2
        assert f"--columns: '{bad}'" in error
        assert complaint in error
