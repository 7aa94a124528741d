"""What base, SFT and LWF answer, and which model a run returns."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.commands import flags, letgo, same_files

from letgo.data.records import Record
from letgo.evaluation.asking import evaluated_sets
from letgo.evaluation.neutral import neutral_texts


def test_metrics_are_the_answers_counted(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    answers = pq.read_table(finished / "answers.parquet").to_pylist()
    assert set(metrics) == {"models", "lwf_minus_sft", "neutral_perplexity", "verdict"}
    assert set(metrics["models"]) == {"base", "sft", "lwf"}
    for model, sets in metrics["models"].items():
        decides = {"validation"} - ({"validation"} if model == "base" else set())
        assert set(sets) == {"learn", "forget:letters"} | decides  # the other has no references
        for name, score in sets.items():
            right = [a["correct"] for a in answers if (a["model"], a["set"]) == (model, name)]
            assert score["n"] == len(right)
            assert score["accuracy"] == sum(right) / len(right)
            assert score["ci95"][0] <= score["accuracy"] <= score["ci95"][1]
    # Answers without a right one are there to be looked at, a few of every model.
    shown = [a for a in answers if a["set"] == "forget:talk"]
    assert sorted(a["model"] for a in shown) == ["base"] * 4 + ["lwf"] * 4 + ["sft"] * 4
    assert all(a["correct"] is None and np.isnan(a["reference_nll"]) for a in shown)
    assert "without a right answer" in (finished / "report.html").read_text()
    paired = metrics["lwf_minus_sft"]["learn"]
    assert set(paired) == {"difference", "ci95", "p_value", "reference_nll"}
    for model, perplexity in metrics["neutral_perplexity"].items():
        read = [a["reference_nll"] for a in answers if (a["model"], a["set"]) == (model, "neutral")]
        assert len(read) == len(neutral_texts())
        assert perplexity == pytest.approx(np.exp(np.mean(read)))


def test_a_set_without_all_its_right_answers_is_not_judged():
    records = [Record(str(i), f"question {i}", None if i == 30 else "a", "") for i in range(40)]
    run = SimpleNamespace(
        test=records[:1],
        validation=[],
        forget={"some": records},
        training=SimpleNamespace(seed=0),
    )
    shown = evaluated_sets(run)["forget:some"]
    assert len(shown) == 4
    assert {record.completion for record in shown} == {None}


def test_the_model_that_is_kept_is_that_of_the_verdict(finished, tmp_path, monkeypatch):
    """`model/` is plain fine-tuning's unless the validation set shows a gain of LWF."""
    kept = {"sft": "probe", "lwf": "lwf"}
    metrics = json.loads((finished / "metrics.json").read_text())
    assert same_files(finished / "model", finished / kept[metrics["verdict"]])
    other = "lwf" if metrics["verdict"] == "sft" else "sft"
    monkeypatch.setattr("letgo.evaluation.statistics.verdict", lambda difference: other)
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    stages = json.loads((out / "stages.json").read_text())
    del stages["evaluate"]
    (out / "stages.json").write_text(json.dumps(stages))
    for name in ("metrics.json", "answers.parquet", "report.html"):
        (out / name).unlink()
    shutil.rmtree(out / "model")
    assert letgo("evaluate", "--output_dir", out)[0] == 0
    assert same_files(out / "model", out / kept[other])


def test_a_model_that_only_ends_its_answers(tiny, data, tmp_path):
    """A forgetting set from which nothing at all is generated."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny)
    head = torch.nn.Linear(16, model.config.vocab_size, bias=True)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.lm_head.weight))
    silent = tmp_path / "silent"  # equal logits: greedy takes token 0, the end of the turn
    model.save_pretrained(silent)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(silent)
    status, _, error = letgo("run", *flags(silent, data, tmp_path / "out"))
    assert status == 2
    assert "--forget: the model answers nothing to any prompt of letters" in error
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.yaml"}
