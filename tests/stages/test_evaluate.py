"""What base, SFT and LWF answer, and which model a run returns."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.commands import flags, letgo, same_files

from letgo.evaluation.neutral import neutral_texts
from letgo.evaluation.verdict import Verdict


def test_metrics_are_the_answers_counted(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    answers = pq.read_table(finished / "answers.parquet").to_pylist()
    assert set(metrics) == {
        *("models", "lwf_minus_sft", "neutral_perplexity", "outcomes", "validation_outcomes"),
        *("verdict", "verdict_parts", "sentence", "headroom"),
    }
    assert set(metrics["models"]) == {"base", "sft", "lwf"}
    for model, sets in metrics["models"].items():
        judged = {"learn", "forget:letters"}  # the other sets have no references
        assert set(sets) == judged | {"validation", "validation:forget:letters"}
        for name, score in sets.items():
            right = [a["correct"] for a in answers if (a["model"], a["set"]) == (model, name)]
            assert score["n"] == len(right)
            assert score["accuracy"] == sum(right) / len(right)
            assert score["ci95"][0] <= score["accuracy"] <= score["ci95"][1]
    paired = metrics["lwf_minus_sft"]["learn"]
    assert set(paired) == {"difference", "ci95", "p_value", "reference_nll"}
    for model, perplexity in metrics["neutral_perplexity"].items():
        read = [a["reference_nll"] for a in answers if (a["model"], a["set"]) == (model, "neutral")]
        assert len(read) == len(neutral_texts())
        assert perplexity == pytest.approx(np.exp(np.mean(read)))


def test_the_outcomes_are_the_answers_counted(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    answers = pq.read_table(finished / "answers.parquet").to_pylist()
    columns = {"learned": "correct", "let_go": "old_answer", "kept": "kl"}
    starts = {"learned": "learn", "let_go": "forget:", "kept": "keep:"}
    for part, before in (("outcomes", ""), ("validation_outcomes", "validation:")):
        for outcome, column in columns.items():
            start = before + starts[outcome] if outcome != "learned" or not before else "validation"
            figure = metrics[part][outcome]
            for model in ("base", "sft", "lwf"):
                rows = [a for a in answers if a["model"] == model]
                values = [a[column] for a in rows if a["set"].startswith(start)]
                values = (
                    [v for v in values if v is not None]
                    if outcome != "learned"
                    else [a[column] for a in rows if a["set"] == start]
                )
                assert figure[model]["n"] == len(values)
                assert figure[model]["value"] == pytest.approx(np.mean(values))
            difference = figure["lwf"]["value"] - figure["sft"]["value"]
            assert figure["lwf_minus_sft"]["difference"] == pytest.approx(difference, abs=1e-9)
    assert metrics["outcomes"]["let_go"]["base"]["value"] == 1
    assert metrics["outcomes"]["kept"]["base"]["value"] == pytest.approx(0, abs=1e-3)
    wrong = [a for a in answers if (a["model"], a["set"]) == ("sft", "validation")]
    assert metrics["headroom"]["errors"] == sum(not a["correct"] for a in wrong)


def test_no_held_out_prompt_is_elicited_kept_or_learned(finished, data):
    answers = pq.read_table(finished / "answers.parquet").to_pylist()
    held = {a["prompt"] for a in answers if a["prompt"]}
    for name in ("self_knowledge.parquet", "kept.parquet"):
        assert not held & set(pq.read_table(finished / name)["prompt"].to_pylist())
    old = pq.read_table(finished / "held_out.parquet").to_pylist()
    assert {row["prompt"] for row in old} < held


def test_the_model_that_is_kept_is_that_of_the_verdict(finished, tmp_path, monkeypatch):
    """`model/` is plain fine-tuning's unless the validation set shows a gain of LWF."""
    kept = {"sft": "probe", "lwf": "lwf"}
    metrics = json.loads((finished / "metrics.json").read_text())
    assert same_files(finished / "model", finished / kept[metrics["verdict"]])
    other = "lwf" if metrics["verdict"] == "sft" else "sft"
    parts = {"lwf": ("not worse", "more", "not less"), "sft": ("worse", "more", "more")}
    decided = Verdict(*parts[other])
    monkeypatch.setattr("letgo.stages.evaluate.judge", lambda outcomes, margin: decided)
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
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.yaml",
        "first_examples.json",
    }
