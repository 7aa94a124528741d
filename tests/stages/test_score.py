"""`letgo fisher` and `letgo score` from the command line: their choices, and what they refuse."""

import json
import math
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from helpers.commands import flags, letgo
from helpers.files import without_digests
from oracles.gradients import gradient_of_one
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, AutoTokenizer

from letgo.data.tokens import example_ids, training_row
from letgo.scoring.explain import block, kind
from letgo.scoring.weights import scored_weights


@pytest.fixture(scope="module")
def begun(tiny, data, tmp_path_factory):
    """A run up to its Fisher information."""
    out = tmp_path_factory.mktemp("begun") / "out"
    for command in ("elicit", "probe", "fisher"):
        status, _, error = letgo(command, *flags(tiny, data, out))
        assert status == 0, error
    return out


@pytest.fixture
def out(begun, tmp_path):
    """A copy of it."""
    return shutil.copytree(begun, tmp_path / "out")


def again(out, tiny, data, *commands, **changes):
    """Make stages of a run again with other settings, and read the scores."""
    for command in commands:
        words = flags(tiny, data, out, overwrite="true", **changes)
        status, _, error = letgo(command, *words)
        assert status == 0, error
    return pq.read_table(out / "scores.parquet")


@pytest.mark.parametrize(
    "score", ["fisher_distance", "linear", "gradient", "cosine", "fisher_cosine", "interference"]
)
def test_every_score_is_a_function_of_the_numbers_in_the_file(out, tiny, data, score):
    table = again(out, tiny, data, "score", score=score, alpha="auto")
    notes = {key.decode(): value for key, value in table.schema.metadata.items()}
    needs_gradient = score != "interference"
    assert ("length" in notes) == ("learning" in notes) == needs_gradient
    length, learning = float(notes.get("length", "nan")), float(notes.get("learning", "nan"))
    needs_fisher = score in ("fisher_distance", "linear", "fisher_cosine")
    assert ("constant" in notes) == needs_fisher
    constant = float(notes.get("constant", "nan"))
    for row in table.to_pylist():
        assert all(math.isnan(row[name]) != needs_fisher for name in ("linear", "quadratic"))
        gradients = ("learning", "inner", "norm")
        assert all(math.isnan(row[name]) != needs_gradient for name in gradients)
        fisher_cosine = row["linear"] / (constant * row["quadratic"]) ** 0.5
        expected = {
            "fisher_distance": constant * (1 - fisher_cosine),
            "linear": -row["linear"],
            "gradient": -row["learning"] / (learning * row["norm"]) ** 0.5,
            "cosine": -row["inner"] / (length * row["norm"]) ** 0.5,
            "fisher_cosine": -fisher_cosine,
            "interference": row["loss_probe"] - row["loss_base"],
        }[score]
        assert (row["score"], row["confidence"]) == (score, pytest.approx(expected))


def test_factored_ranks_as_diagonal_and_sampled_labels_are_other_ones(out, tiny, data):
    tables = {}
    for kind_, labels in [
        ("diagonal", "empirical"),
        ("factored", "empirical"),
        ("kfac", "empirical"),
        ("factored", "sampled"),
    ]:
        more = {"fisher_kind": kind_, "fisher_labels": labels, "score": "fisher_cosine"}
        table = again(out, tiny, data, "fisher", "score", **more)
        tables[kind_, labels] = table["confidence"].to_pylist()
        with safe_open(out / "fisher.safetensors", "pt") as file:
            metadata = file.metadata()
        assert (metadata["kind"], metadata["labels"]) == (kind_, labels)
    diagonal = tables["diagonal", "empirical"]
    assert spearmanr(diagonal, tables["factored", "empirical"]).statistic > 0.9
    assert tables["factored", "sampled"] != tables["factored", "empirical"]
    assert tables["kfac", "empirical"] != diagonal


@pytest.mark.parametrize("optimum", ["steps:3", "lora", "gradient"])
def test_every_optimum_gives_scores(out, tiny, data, optimum):
    full = again(out, tiny, data, "score")["confidence"].to_pylist()
    table = again(out, tiny, data, "probe", "fisher", "score", optimum=optimum)
    found = table["confidence"].to_pylist()
    assert all(value == value for value in found)
    assert spearmanr(full, found).statistic > 0.3
    missing = optimum == "gradient"  # there is no model at the optimum
    assert (out / "probe" / "gradient.safetensors").exists() is missing
    assert all((value != value) is missing for value in table["loss_probe"].to_pylist())
    words = flags(tiny, data, out, overwrite="true", optimum=optimum)
    status, printed, error = letgo("run", *words)
    assert status == 0, error
    assert "--optimum full would compare it with the SFT baseline" in printed
    metrics = json.loads((out / "metrics.json").read_text())
    assert (set(metrics["models"]), metrics["verdict"]) == ({"base", "lwf"}, "no baseline")
    assert "plain fine-tuning was not run to its end" in (out / "report.html").read_text()


def test_gradient_as_optimum_is_the_mean_learning_gradient(out, tiny, data):
    """The same that the score `gradient` is the cosine with, whatever the optimum is."""
    examples = {"fisher_examples": 500, "tokens_per_batch": 40}
    measured = again(out, tiny, data, "fisher", "score", **examples).to_pylist()
    found = again(out, tiny, data, "probe", "fisher", "score", optimum="gradient", **examples)
    for ours, theirs in zip(measured, found.to_pylist(), strict=True):
        assert ours["confidence"] == pytest.approx(theirs["confidence"], rel=1e-4)
    stored = load_file(out / "probe" / "gradient.safetensors")
    model = AutoModelForCausalLM.from_pretrained(tiny)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    lines = [json.loads(line) for line in (data / "learn.jsonl").open()]
    rows = [training_row(*example_ids(tokenizer, r["prompt"], r["completion"])) for r in lines]
    each = [gradient_of_one(model, scored_weights(model).layers, row)[1] for row in rows]
    for name, gradient in stored.items():
        mean = sum(e[name] for e in each) / len(each)
        torch.testing.assert_close(gradient, mean, rtol=1e-3, atol=1e-6)
    texts = pq.read_table(out / "self_knowledge.parquet").to_pylist()
    for text, row in zip(texts, measured, strict=True):
        own = training_row(text["prompt_ids"], text["completion_ids"])
        gradient = gradient_of_one(model, scored_weights(model).layers, own)[1]
        product = sum(float((stored[name] * g).sum()) for name, g in gradient.items())
        assert row["learning"] == pytest.approx(product, rel=1e-3, abs=1e-6)


def test_explain_says_what_a_ranking_is_made_of(out, tiny, data):
    status, printed, error = letgo("score", *flags(tiny, data, out), "--explain")
    assert status == 0, error
    assert "score gradient, 11 texts" in printed
    assert "self_attn.q_proj" in printed
    assert "block 1" in printed
    assert printed.count("rank correlation with") == 2
    shares = json.loads(pq.read_schema(out / "scores.parquet").metadata[b"shares"])
    assert len(shares) == 14
    # A ranking by a confounder is called one.
    without_digests(out)
    table = pq.read_table(out / "scores.parquet")
    column = table.schema.names.index("confidence")
    table = table.set_column(column, "confidence", table["loss_base"])
    pq.write_table(table, out / "scores.parquet")
    assert (
        "WARNING: the ranking follows the loss of the base model"
        in letgo("score", *flags(tiny, data, out), "--explain")[1]
    )


def test_names_of_layers():
    assert kind("model.layers.3.self_attn.q_proj") == "self_attn.q_proj"
    assert kind("model.layers.3.mlp.experts.gate_up_proj[2]") == "mlp.experts.gate_up_proj"
    assert kind("lm_head") == block("lm_head") == "lm_head"
    assert block("transformer.h.11.mlp.c_fc") == "block 11"


def test_a_fisher_file_of_another_model_is_refused(out, tiny, data):
    without_digests(out)
    file, words = out / "fisher.safetensors", flags(tiny, data, out, score="linear")
    tensors = load_file(file)
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata()
    save_file(tensors, file, metadata={**metadata, "model": "another"})
    status, _, error = letgo("score", *words)
    assert (status, error.count("letgo: ")) == (2, 1)
    assert "belongs to another model (another, not" in error
    name = next(iter(tensors))
    save_file({**tensors, name: torch.zeros(3)}, file, metadata=metadata)
    status, _, error = letgo("score", *words)
    assert (status, error.count("letgo: ")) == (2, 1)
    assert "has no Fisher information of" in error
    assert not (out / "scores.parquet").exists()


def test_an_optimum_that_is_the_base_model_is_refused(out, tiny, data):
    without_digests(out)
    for file in (out / "probe").glob("model*.safetensors"):
        shutil.copy(tiny / file.name, file)
    status, _, error = letgo("score", *flags(tiny, data, out))
    assert status == 2
    assert "fine-tuning has not changed any scored weight" in error


def test_texts_without_a_finite_loss_stop_the_run_or_are_left_out(out, tiny, data, monkeypatch):
    from letgo.scoring import gradients

    losses = gradients.example_losses
    texts = pq.read_table(out / "self_knowledge.parquet").to_pylist()
    bad = texts[3]

    def ruined(model, batch):
        found = losses(model, batch)
        row = torch.tensor(bad["prompt_ids"] + bad["completion_ids"])
        for i, ids in enumerate(batch.input_ids):
            if ids[: len(row)].equal(row) and batch.attention_mask[i].sum() == len(row):
                found = found * torch.where(torch.arange(len(found)) == i, torch.nan, 1.0)
        return found

    monkeypatch.setattr(gradients, "example_losses", ruined)
    status, _, error = letgo("score", *flags(tiny, data, out))
    assert status == 2
    assert f"of 1 of {len(texts)} texts is not a finite number (first: {bad['id']};" in error
    assert not (out / "scores.parquet").exists()
    again(out, tiny, data, "fisher", "score", "select", skip_non_finite="true")
    rows = {row["id"]: row for row in pq.read_table(out / "selection.parquet").to_pylist()}
    kept = rows[bad["id"]]
    assert (kept["selected"], kept["reason"]) == (False, "no finite confidence")
    assert sum(row["selected"] for row in rows.values()) == round(0.5 * (len(texts) - 1))


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("score", "vibes", "--score must be one of fisher_distance"),
        ("fisher_kind", "full", "--fisher_kind must be one of diagonal"),
        ("fisher_labels", "none", "--fisher_labels must be one of empirical"),
        ("optimum", "steps:0", "--optimum must be full, steps:N, lora or gradient"),
        ("alpha", "much", "--alpha must be auto, or a number of 0 or more"),
    ],
)
def test_unknown_choices(tiny, data, tmp_path, flag, value, said):
    status, _, error = letgo("run", *flags(tiny, data, tmp_path / "out", **{flag: value}))
    assert (status, error.count("\n")) == (2, 1)
    assert said in error
