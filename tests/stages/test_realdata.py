"""The paper's kinds of data, where they are at hand: `LETGO_DATA` names their folder."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.commands import flags, letgo
from helpers.files import write_lines
from helpers.models import make_model, make_tokenizer

from letgo.data.records import read_records
from letgo.data.splits import set_names
from letgo.evaluation.answers import correct, exact, letter, number, reader

DATA = Path(os.environ.get("LETGO_DATA", "no-data"))


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="LETGO_DATA names no folder")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("gsm8k", number), ("qasc", letter), ("sst5", exact), ("dental", letter), ("psychol", letter)],
)
def test_every_data_set_is_read_and_understood(name, kind):
    file = str(DATA / name / "train.jsonl")
    records = read_records(file, "--learn", True)
    references = [record.completion for record in records]
    assert reader(references, [record.prompt for record in records]) is kind
    assert all(correct(kind, reference, reference) for reference in references)
    assert set_names([file]) == [name]


@pytest.fixture
def patient(tmp_path):
    """A tiny model with room for a page of text."""
    model, tokenizer = make_model(), make_tokenizer()
    model.config.max_position_embeddings = 2048
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def short(folder, task, part, count):
    """The first records of a task whose prompts have at most 600 characters."""
    records = read_records(str(DATA / task / f"{part}.jsonl"), "--learn", True)
    rows = [
        {"prompt": r.prompt, "completion": r.completion} for r in records if len(r.prompt) <= 600
    ]
    return write_lines(folder / task / f"{part}.jsonl", rows[:count])


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="LETGO_DATA names no folder")
@pytest.mark.parametrize(
    ("learned", "rule", "forgotten", "other"),
    [
        ("multi30k_en_fr", "chrf", "xquad_de", "f1"),
        ("xquad_es", "f1", "multi30k_en_fr", "bleu"),
    ],
)
def test_translation_and_questions_in_other_languages(
    patient, data, tmp_path, learned, rule, forgotten, other
):
    status, text, error = letgo(
        "run",
        *flags(
            patient,
            data,
            tmp_path / "out",
            learn=short(tmp_path, learned, "train", 16),
            learn_test=short(tmp_path, learned, "test", 6),
            learn_validation=None,
            forget=[short(tmp_path, forgotten, "train", 12)],
            answer=[f"learn={rule}", f"forget:{forgotten}={other}"],
            num_train_epochs=1,
        ),
    )
    assert status == 0, error
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["rules"] == {"learn": rule, f"forget:{forgotten}": other}
    assert metrics["outcomes"]["learned"]["figure"] == "score"
    assert "score" in metrics["outcomes"]["let_go"]["more"]
    rows = pq.read_table(tmp_path / "out" / "answers.parquet").to_pylist()
    judged = [row for row in rows if row["set"] in ("learn", f"forget:{forgotten}")]
    assert all(0 <= row["score"] <= 1 for row in judged)
    translations = "learn" if learned == "multi30k_en_fr" else f"forget:{forgotten}"
    assert {row["correct"] for row in judged if row["set"] == translations} == {None}
    assert set(metrics["corpus"][translations]) == {"base", "sft", "lwf"}
    assert "BLEU of the corpus" in text
