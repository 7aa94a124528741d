"""The page: its numbers, and its behaviour on incomplete and old folders."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.report_runs import Page, make_run, write_lines

from letgo.errors import InputError
from letgo.report.page import render
from letgo.report.tables import person_decisions
from letgo.run.folder import read_texts


def test_page_has_the_numbers_of_the_run(tmp_path):
    folder = make_run(tmp_path / "my run")
    page = Page(render(folder))
    for part in (
        "SFT 50.0, n = 40). By these validation prompts model/ is that of plain fine-tuning",
        "LWF \u2212 SFT: +6.2 points (\u22126.2 to +7.5, p = 0.020; n = 40)",
        "LWF \u2212 SFT: \u221243.8 points (\u221256.2 to \u221242.5, p = 0.020; n = 40)",
        "LWF \u2212 SFT: +0.062 nats per token (\u22120.062 to +0.075, p = 0.020; n = 40)",
        "NLL of right answers, nats per token learned; lower is better; n = 40 3.000 2.950 to",
        "0.950 to 1.062 1.250 +0.250 nats per token NLL of old answers",
        "perplexity of neutral text kept; lower is better; n = 40 21.25 21.20 to 21.31",
        "+0.054 nats per token",
        "Headroom: of 40 validation examples plain fine-tuning errs on 9, on 4 of them with",
        "at most +10.0 points on the learning task [+4.0, +23.1].",
        "test set n = 321",
        "61.3 % 58.7 to 63.9",
        "validation set n = 77",
        "50.0 %",
        "forgetting set law n = 321",
        "25.0 %",
        "\u22122.3 \u22124.6 to +0.1, p = 0.012",
        "+0.048 \u2013 to \u2013, p = 1.000",
        "alpha = 1.5, constant = 0.25",
        "There were 8 unlearning steps.",
        "texts skipped because their loss was above the ceiling: 8;",
        "steps clipped to the gradient norm of unlearning: 6;",
        "steps left out because the learning loss had risen: 2;",
        "1 h 02 min",
        "2.0 GB",
        "sha256:abc",
        "letgo run --config '" + str(folder / "config.yaml") + "' --output_dir NEW",
    ):
        assert part in page.text.replace("\xa0", " "), part
    assert "Not measured" not in page.text
    assert "12.5 %" not in page.text  # validation prompts of forgetting sets only decide


def test_examples_of_what_was_let_go_and_kept(tmp_path):
    page = Page(render(make_run(tmp_path / "run", text="why")))
    let_go = page.text[page.text.index("Let go: examples") : page.text.index("Kept: examples")]
    prompts = [f"forget:{name} {i}? why" for i in (2, 0) for name in ("dental", "law")]
    places = [let_go.index(prompt) for prompt in prompts]
    assert places == sorted(places)
    assert "forgetting set dental forget:dental 2? why base says 2 why ✗ old answer sft" in let_go
    assert "sft says 2 why ✓ other answer lwf says 2 why" in let_go
    kept = page.text[page.text.index("Kept: examples") : page.text.index("Headroom")]
    assert "keep:daily 0? why base says 0 why ✓ as before sft says 0 why ✓ as before" in kept
    assert "✗ other answer lwf says 2 why" in kept
    assert "validation:" not in page.text
    # They are not listed once more among the questions that have a right answer.
    assert "forgetting set dental, question" not in page.text


def test_run_without_forgetting_sets(tmp_path):
    folder = make_run(tmp_path / "run", sets=())
    assert not (folder / "scores.parquet").exists()
    page = Page(render(folder))
    assert "Not measured: let go; the run has no such prompts." in page.text
    assert "no forgetting set, so no texts were written, scored or unlearned" in page.text
    assert "Confidence" not in page.text
    names = ["figure-learned", "figure-kept", "figure-training"]
    assert [a["id"] for _, a in page.tags if a.get("role") == "img"] == names


def test_run_without_a_baseline_or_intervals(tmp_path):
    folder = make_run(tmp_path / "run", sets=())
    metrics = json.loads((folder / "metrics.json").read_text())
    measured = metrics["outcomes"]
    for main in measured.values():
        for figure in (main, *main["more"].values()):
            del figure["sft"], figure["lwf_minus_sft"]
            figure["lwf"] = {"value": float("nan"), "n": 0, "ci95": [None, None]}
    metrics |= {"verdict": "no baseline", "sentence": "", "verdict_parts": {}, "headroom": {}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    text = Page(render(folder)).text
    assert "Nothing to compare LWF with" in text
    assert "n = 0; there is no SFT baseline to compare with" in text
    assert "Headroom" not in text


def test_run_that_is_plain_fine_tuning_says_why(tmp_path):
    folder = make_run(tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics |= {"sentence": "there is no headroom: it is the SFT baseline", "verdict_parts": {}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    text = Page(render(folder)).text
    assert "There is no headroom: it is the SFT baseline. model/ is that of plain" in text


@pytest.mark.parametrize(
    ("verdict", "models", "text"),
    [
        (
            "lwf",
            {"lwf": {"validation": {"accuracy": 0.5, "n": 2, "ci95": [0.1, 0.9]}}},
            "LWF gained on the validation set: model/ is LWF's.",
        ),
        ("sft", {}, "Nothing was unlearned: model/ is that of plain fine-tuning (SFT)."),
        ("no baseline", {}, "not run to its end (optimum lora). model/ is LWF's."),
    ],
)
def test_verdict_in_words(tmp_path, verdict, models, text):
    folder = make_run(tmp_path / "run")
    (folder / "metrics.json").write_text(json.dumps({"models": models, "verdict": verdict}))
    with (folder / "config.yaml").open("a") as config:
        config.write("optimum: lora\n")
    assert text in Page(render(folder)).text


def test_long_text_is_visibly_shortened(tmp_path):
    html = render(make_run(tmp_path / "run", count=1, text="word " * 3000))
    for part in ("<details>", "word…", "15,00"):
        assert part in html
    Page(html)
    assert len(html) < 500_000


def test_equal_folders_give_equal_pages(tmp_path):
    folder = make_run(tmp_path / "run")
    assert render(folder) == render(folder)


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("count", [0, 1, 3, 12])
def test_small_and_constant_data(tmp_path, count, equal):
    page = Page(render(make_run(tmp_path / "run", sets=("one",), count=count, equal=equal)))
    assert f"of {count} texts" in page.text


@pytest.mark.parametrize(
    "name",
    ["train_log.jsonl", "probe/train_log.jsonl", "metrics.json", "answers.parquet", "stages.json"],
)
def test_optional_file_may_be_missing(tmp_path, name):
    folder = make_run(tmp_path / "run")
    (folder / name).unlink()
    Page(render(folder))


def test_everything_optional_missing(tmp_path):
    folder = make_run(tmp_path / "run")
    for name in (
        "train_log.jsonl",
        "probe/train_log.jsonl",
        "metrics.json",
        "answers.parquet",
        "stages.json",
    ):
        (folder / name).unlink()
    (folder / "config.yaml").write_text("model: tiny\n")
    page = Page(render(folder))
    assert "have not been evaluated" in page.text
    assert "no training log" in page.text


def test_required_file_missing(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "scores.parquet").unlink()
    with pytest.raises(InputError, match=r"scores\.parquet"):
        render(folder)


def test_run_without_outcomes(tmp_path):
    page = Page(render(make_run(tmp_path / "run", old=True)))
    for part in (
        "No gain shown on the validation set: model/ is that of plain fine-tuning (SFT).",
        "On the test set LWF minus SFT is \u22122.3 percentage points",
        "interval \u22124.6 to +0.1, p = 0.012, n = 321",
        "neutral text perplexity 21.25 22.50 23.75",
        "forgetting set dental, question 0: both right",
    ):
        assert part in page.text.replace("\xa0", " "), part
    for part in ("Learned, let go, kept", "Let go: examples", "Headroom"):
        assert part not in page.text


def test_run_folder_of_an_older_version(tmp_path):
    folder = make_run(tmp_path / "run", old=True)
    table = pq.read_table(folder / "scores.parquet")
    nan = pa.array([float("nan")] * len(table))
    for name, column in (
        ("score", pa.array(["forgotten_score"] * len(table))),
        ("linear", nan),
        ("quadratic", nan),
    ):
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table.replace_schema_metadata(None), folder / "scores.parquet")
    assert "decided_by" not in pq.read_schema(folder / "selection.parquet").names
    assert not (folder / "fisher.safetensors").exists()
    page = Page(render(folder))
    assert "Confidence is forgotten_score. The higher" in page.text
    assert "alpha" not in page.text
    assert [a["id"] for _, a in page.tags if a.get("role") == "img"] == [
        "figure-training",
        "figure-confidence",
        "figure-confidence-tokens",
        "figure-confidence-loss_base",
    ]


def test_no_unlearning_steps_and_partial_metrics(tmp_path):
    folder = make_run(tmp_path / "run")
    write_lines(folder / "train_log.jsonl", [{"step": 1, "loss": 2.0}, {"step": 2}])
    cell = {"accuracy": 0.5, "n": 2, "ci95": [None, None]}
    metrics = {"models": {"sft": {"learn": cell}, "lwf": {"forget:law": cell}}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "no unlearning steps" in Page(render(folder)).text


def test_decisions_of_a_person_are_listed(tmp_path):
    folder = make_run(tmp_path / "run")
    assert "Decided by a person" not in render(folder)
    rows = pq.read_table(folder / "selection.parquet").to_pylist()
    for i, row in enumerate(rows):
        person = i in (3, 40)
        row["decided_by"] = "person" if person else "score"
        row["decided_at"] = f"2026-01-0{i % 9 + 1}T10:00:00+00:00" if person else None
    rows[3]["selected"], rows[40]["selected"] = False, True
    pq.write_table(pa.Table.from_pylist(rows), folder / "selection.parquet")
    text = Page(render(folder)).text
    table = text[text.index("Decided by a person") : text.index("Most confident")]
    assert "2 of 60 texts" in table
    assert 0 < table.index("forget2026-01-05T10:00") < table.index("keep2026-01-04T10:00")
    decisions = person_decisions(read_texts(folder).to_pylist())
    assert [(row["id"], row["selected"]) for row in decisions] == [
        ("law-10", True),
        ("dental-3", False),
    ]
