"""The claims of studies/README.md follow from the studies' results, and its scripts work."""

import importlib
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from letgo.study.check import check
from letgo.study.markdown import page

DATA = Path(os.environ.get("LETGO_DATA", "no-data"))
STUDIES = Path(__file__).parents[2] / "studies"
RESULTS = sorted(STUDIES.glob("*/results.json"))
# A difference with its interval: +1.2 [-0.3, +2.7], or +3.4 % [-0.9, +7.7]
CLAIMED = re.compile(r"[+-]\d+\.\d+(?: %)? \[[+-]\d+\.\d+, [+-]\d+\.\d+\]")


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.parent.name)
def test_results_follow_from_the_runs(file):
    check(file)
    assert file.with_suffix(".md").read_text() == page(json.loads(file.read_text()))


def test_every_claimed_interval_is_in_some_results():
    """Every difference with an interval, in the README's sections on the studies and rank.py."""
    text = (STUDIES / "README.md").read_text().split("\n## doses.py")[0]
    claimed = CLAIMED.findall(" ".join(text.split()))  # also across line ends
    pages = [page(json.loads(file.read_text())) for file in RESULTS]
    ranked = json.loads((STUDIES / "rank.json").read_text())["tasks"].values()
    for effect in (one["accuracy"] for task in ranked for one in task["sets"].values()):
        low, high = effect["ci95"]
        pages.append(f"{100 * effect['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
    assert claimed
    assert [claim for claim in claimed if claim not in "\n".join(pages)] == []


def test_data_of_the_hub_are_written_as_local_ones(tmp_path, monkeypatch):
    """Prompts have the same form; none occurs twice, or in both training and test set."""
    monkeypatch.syspath_prepend(str(STUDIES))
    import hub

    options = {"label": list("ABCDEFGH"), "text": ["rocks", "oaks", *"cdefgh"]}
    sum_of = {"question": "What is 1+2? ", "answer": "1+2=<<1+2=3>>3\n#### 3"}
    rows = {
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


def test_the_promise_of_a_forgetting_set(monkeypatch, tmp_path):
    """The mean of the top half, where negative cosines count as 0."""
    monkeypatch.syspath_prepend(str(STUDIES))
    from rank import rank

    scores = {"good": [0.4, 0.2, 0.1, -0.3], "bad": [0.1, -0.2, -0.3, -0.4]}
    rows = [
        {"forget_set": name, "confidence": value}
        for name, values in scores.items()
        for value in values
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "scores.parquet")
    ranked = rank(tmp_path / "scores.parquet", 0.5)
    assert [one.name for one in ranked] == ["good", "bad"]
    assert [one.promise for one in ranked] == pytest.approx([0.3, 0.05])
    assert [one.helpful for one in ranked] == [0.75, 0.25]


def test_agreement_of_a_ranking(monkeypatch):
    """Spearman's correlation; its interval is wide if those of the differences are."""
    monkeypatch.syspath_prepend(str(STUDIES))
    from rank import agreement

    def sets(spread):
        return {
            str(i): {
                "promise": i / 10,
                "promise_ci95": [i / 10, i / 10],
                "nll": {"difference": -i * i, "ci95": [-i * i - spread, -i * i + spread]},
            }
            for i in range(6)
        }

    sure, unsure = (agreement(sets(spread), "nll", -1) for spread in (0.0, 100.0))
    assert sure["rho"] == pytest.approx(1)
    assert sure["ci95"] == pytest.approx([1, 1])
    assert sure["p_value"] == pytest.approx(2 / 720)  # of all orders, this one and its reverse
    assert unsure["ci95"][0] < 0 < unsure["ci95"][1]


def test_steps_evaluates_after_learning_steps(monkeypatch):
    """Before training and after every tenth learning step, and an unlearning step that follows."""
    monkeypatch.syspath_prepend(str(STUDIES))
    import steps

    from letgo.unlearning.schedule import unlearning_steps

    evaluated_at = []
    monkeypatch.setattr(
        steps.Evaluation,
        "_evaluate",
        lambda self, learned, args, at: evaluated_at.append((learned, now)),
    )
    for interval, expected in (
        (0, [(0, 0), (10, 10), (20, 20)]),
        (4, [(0, 0), (10, 12), (20, 25)]),  # the 20th is followed by an unlearning step
    ):
        evaluated_at.clear()
        is_unlearning, now = unlearning_steps("periodic", 20, interval, 0), 0
        evaluation = steps.Evaluation([], is_unlearning)
        evaluation.on_train_begin(None, None, None)
        for now in range(1, len(is_unlearning) + 1):
            evaluation.on_step_end(None, SimpleNamespace(global_step=now), None)
        assert evaluated_at == expected


@pytest.mark.parametrize("script", sorted(file.stem for file in STUDIES.glob("*.py")))
def test_scripts_can_be_imported(script, monkeypatch):
    """The interfaces that they import from letgo exist."""
    monkeypatch.syspath_prepend(str(STUDIES))
    assert importlib.import_module(script).main


def test_committed_cells_are_converted():
    for file in STUDIES.glob("*/cells/*.json"):
        sets = json.loads(file.read_text())["answers"].values()
        for answers in (one for by_name in sets for one in by_name.values()):
            assert list(answers) == ["ids", "correct", "reference_nll"]
            assert len({len(column) for column in answers.values()}) == 1


def test_unnamed_metrics_of_cells_get_names(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(STUDIES))
    import convert_cells

    old = {"answers": {"sft": {"learn": {"a": [1, 0.5], "b": [0, None]}}}, "seconds": {"train": 1}}
    new = {"ids": ["a", "b"], "correct": [1, 0], "reference_nll": [0.5, None]}
    (tmp_path / "cell.json").write_text(json.dumps(old))
    monkeypatch.setattr(sys, "argv", ["convert_cells.py", str(tmp_path)])
    for _ in range(2):  # the second time there is nothing to convert
        convert_cells.main()
        cell = json.loads((tmp_path / "cell.json").read_text())
        assert cell == {**old, "answers": {"sft": {"learn": new}}}
