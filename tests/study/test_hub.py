"""studies/hub.py writes data sets of the Hugging Face Hub as the local copies are."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from datasets import Dataset

DATA = Path(os.environ.get("LETGO_DATA", "no-data"))
STUDIES = Path(__file__).parents[2] / "studies"


def hub_rows():
    """Rows of the data sets, in the form that the Hub has."""
    options = {"label": list("ABCDEFGH"), "text": ["rocks", "oaks", *"cdefgh"]}
    sum_of = {"question": "What is 1+2? ", "answer": "1+2=<<1+2=3>>3\n#### 3"}
    return {
        "openai/gsm8k": [sum_of, sum_of],
        "allenai/qasc": [{"question": "Of wood?", "choices": options, "answerKey": "B"}],
        "SetFit/sst5": [{"text": "Fine .", "label_text": "very positive"}],
        "openlifescienceai/medmcqa": [
            {
                "question": q,
                "opa": "w",
                "opb": "x",
                "opc": "y",
                "opd": "z",
                "cop": 3,
                "subject_name": name,
            }
            for q, name in (("Tooth?", "Dental"), ("Eye?", "Other"))
        ],
        "cais/mmlu": [
            {"question": f"Who {i}?", "choices": list("wxyz"), "answer": 2} for i in range(302)
        ],
    }


def test_data_of_the_hub_are_written_as_local_ones(tmp_path, monkeypatch):
    """Prompts have the same form; none occurs twice, or in both training and test set."""
    monkeypatch.syspath_prepend(str(STUDIES))
    import hub

    rows = hub_rows()
    loaded = []

    def load_dataset(repository, configuration, split):
        loaded.append((repository, configuration, split))
        examples = rows[repository]
        return Dataset.from_list(
            examples
            if split in ("train", "dev")
            else [
                {**row, "question" if "question" in row else "text": f"{split} {i}"}
                for i, row in enumerate(examples)
            ]
        )

    monkeypatch.setattr(hub, "load_dataset", load_dataset)
    monkeypatch.setattr(sys, "argv", ["hub.py", str(tmp_path)])
    hub.main()
    files = {
        task: [
            [json.loads(line) for line in (tmp_path / task / f"{part}.jsonl").open()]
            for part in ("train", "test")
        ]
        for task in hub.SOURCES
    }
    first = {
        task: (parts[0][0]["prompt"], parts[0][0]["completion"]) for task, parts in files.items()
    }
    assert first["gsm8k"] == (
        "Solve the following math problem step by step.\nQuestion: What is 1+2?\nAnswer:",
        " 1+2=3\n#### 3",
    )
    assert first["qasc"] == (
        "Answer the following multiple-choice science question.\nQuestion: Of wood?\n"
        "A. rocks\nB. oaks\nC. c\nD. d\nE. e\nF. f\nG. g\nH. h\nAnswer:",
        " B. oaks",
    )
    assert first["sst5"] == (
        "Classify the sentiment of the movie review as very negative, negative, neutral, positive, "
        "or very positive.\nReview: Fine .\nSentiment:",
        " very positive",
    )
    assert len(files["gsm8k"][0]) == 1
    assert [row["completion"] for row in files["dental"][0]] == [" D. z"]
    train, test = ({row["prompt"] for row in part} for part in files["psychol"])
    assert (len(train), len(test), train & test) == (304, 300, set())
    count = len(loaded)
    hub.main()
    assert len(loaded) == count  # existing files are kept


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="LETGO_DATA names no folder")
@pytest.mark.parametrize("task", ["gsm8k", "qasc", "sst5", "dental", "psychol"])
def test_the_local_copies_have_that_form(task, monkeypatch):
    """A row of the Hub rebuilt from a line of the local copy becomes that line again."""
    monkeypatch.syspath_prepend(str(STUDIES))
    import hub

    for line in (DATA / task / "train.jsonl").read_text().splitlines()[:50]:
        local = json.loads(line)
        end = "\nSentiment:" if task == "sst5" else "\nAnswer:"
        text = local["prompt"].partition(": ")[2].removesuffix(end)
        question, *options = re.split(r"\n[A-H]\. ", text)
        answer = ord(local["completion"].strip()[0]) - ord("A")
        row = {
            "gsm8k": {"question": text, "answer": local["completion"]},
            "sst5": {"text": text, "label_text": local["completion"]},
            "qasc": {
                "question": question,
                "answerKey": chr(answer + ord("A")),
                "choices": {"label": list("ABCDEFGH"), "text": options},
            },
            "dental": {
                "question": question,
                "cop": answer,
                "subject_name": "Dental",
                **dict(zip(("opa", "opb", "opc", "opd"), options, strict=False)),
            },
            "psychol": {"question": question, "choices": options, "answer": answer},
        }[task]
        assert hub.SOURCES[task][2](row) == local
