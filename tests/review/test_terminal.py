"""`letgo show` and `letgo runs`, and folders that the review cannot open."""

import json
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers.commands import letgo
from helpers.report_runs import make_run
from helpers.review_runs import HOSTILE, write_texts

from letgo.review.session import Review
from letgo.run import decisions


def test_show_prints_the_most_confident_texts_first(tmp_path):
    out = write_texts(tmp_path / "run", 200, special=HOSTILE)
    review = Review(out)
    review.decide(decisions.EXCLUDE, [review.ranking[0]], "one")
    status, output, error = letgo("show", out, "--top", 3)
    assert status == 0, error
    assert "99 of 200 texts will be forgotten (score: gradient)" in output
    assert "decided by a person: 0 in, 1 out" in output
    assert "no*" in output
    assert "197 more" in output
    status, output, _ = letgo("show", out, "--set", "sums", "--grep", "question (0|3) of")
    assert status == 0
    assert output.count(" sums ") == 2
    assert "onerror" in output
    status, output, _ = letgo("show", out, "--grep", "desrever")
    assert "\x1b[31m" not in output
    assert "\u202e" not in output
    for arguments, message in (
        (["--set", "none"], "it has letters, sums, trivia"),
        (["--grep", "("], "is not a valid regular expression"),
        (["--top", "0"], "--top must be 1 or more"),
    ):
        status, _, error = letgo("show", out, *arguments)
        assert (status, error.count("\n")) == (2, 1)
        assert message in error


def test_runs_lists_verdicts(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    make_run(tmp_path / "deep" / "done")
    make_run(tmp_path / "deep" / "without", sets=())
    make_run(tmp_path / "old", old=True)
    write_texts(tmp_path / "begun", 20)
    (tmp_path / "begun" / "stages.json").write_text('{"elicit": {}, "select": {}}')
    status, output, error = letgo("runs", tmp_path)
    assert status == 0, error
    assert "unfinished, after select" in output
    lines = {line.split()[0]: line.replace("\u2212", "-").split() for line in output.splitlines()}
    assert lines["run"] == ["run", "verdict", "learned", "let", "go", "kept", "date"]
    assert lines["deep/done"][1:5] == ["sft", "+6.2", "-43.8*", "+0.062"]
    assert lines["deep/without"][1:4] == ["sft", "+6.2", "+0.062"]
    assert re.fullmatch(r"old sft -2\.3 \d{4}-\d\d-\d\d \d\d:\d\d", " ".join(lines["old"]))
    assert "LWF - SFT on test prompts" in output


@pytest.mark.parametrize("command", ["show", "review"])
def test_folders_without_scores_are_rejected(command, tmp_path):
    (tmp_path / "config.yaml").write_text("mine: true\n")
    status, _, error = letgo(command, tmp_path)
    assert (status, error.count("\n")) == (2, 1)
    assert "is not a run of letgo" in error
    out = write_texts(tmp_path / "run", 20)
    (out / "scores.parquet").unlink()
    status, _, error = letgo(command, out)
    assert status == 2
    assert f"has no scores.parquet; run `letgo score --output_dir {out}` first" in error
    assert letgo("runs", tmp_path / "none")[0] == 2
    status, _, error = letgo(command, make_run(tmp_path / "plain", sets=()))
    assert (status, error.count("\n")) == (2, 1)
    assert "is a run without a forgetting set; it has no texts to unlearn" in error


def test_show_and_runs_import_no_torch(tmp_path):
    out = write_texts(tmp_path / "run", 20)
    code = (
        "import sys; sys.argv[0] = 'letgo'; import letgo.cli; letgo.cli.main(); "
        "assert not {'torch', 'gradio', 'transformers'} & {*sys.modules}"
    )
    for arguments in (["show", out], ["runs", tmp_path]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    out = write_texts(tmp_path / "run", 20)
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in [name for name in sys.modules if name.startswith("letgo.review.")]:
        monkeypatch.delitem(sys.modules, name)
    status, _, error = letgo("review", out)
    assert status == 2
    assert "pip install 'letgo[review]'" in error


def test_control_characters_never_reach_the_terminal(tmp_path):
    name = "a\x1b]0;pwned\x07\u202eb"
    out = write_texts(tmp_path / name, 30, special=HOSTILE)
    for file in ("scores.parquet", "self_knowledge.parquet"):
        table = pq.read_table(out / file)
        sets = pa.array([f"s\x1b[2J\u2066\r\n{i % 2}[red]" for i in range(len(table))])
        table = table.set_column(table.column_names.index("forget_set"), "forget_set", sets)
        if file == "scores.parquet":
            score = pa.array(["\x1b[31m[bold]x"] * len(table))
            table = table.set_column(table.column_names.index("score"), "score", score)
        pq.write_table(table, out / file)
    (out / "metrics.json").write_text(json.dumps({"verdict": "\x9b31m[red]mine", "outcomes": {}}))
    for words in (
        ["show", out, "--top", 9],
        ["show", out, "--set", "\x1b[2J"],
        ["show", out, "--grep", "(\x1b[2J\u202e"],
        ["show", tmp_path / "\x1b[2J"],
        ["runs", tmp_path],
        ["runs", tmp_path / "\x1b[2J"],
        ["headroom", out],
    ):
        _, output, error = letgo(*words)
        assert output + error
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", output + error
        )
    output = letgo("show", out)[1]
    assert r"(score: \x1b[31m[bold]x)" in output
    assert r"s\x1b[2J\u2066 0[red]" in output
    assert r"\x9b31m[red]mine" in letgo("runs", tmp_path)[1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b"\xff",
        b'{"a": 1}',
        b'{"verdict": "sft", "outcomes": 5}',
        b'{"verdict": "sft", "outcomes": {"learned": {"lwf_minus_sft": 5}}}',
        b"[" * 100_000,
    ],
    ids=lambda content: content[:20],
)
def test_a_damaged_run_hides_no_other(tmp_path, content):
    for name in ("one", "two"):
        make_run(tmp_path / name)
    (tmp_path / "one" / "metrics.json").write_bytes(content)
    status, output, error = letgo("runs", tmp_path)
    assert (status, error) == (0, "")
    assert re.search(r"^two +sft", output, re.MULTILINE)
    assert re.search(r"^one +damaged *$", output, re.MULTILINE)
    assert f"{tmp_path / 'one' / 'metrics.json'} is damaged" in output
    assert "makes it again" in output


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b'{"elicit": 5}'])
def test_a_damaged_list_of_stages_hides_no_other_run(tmp_path, content):
    make_run(tmp_path / "two")
    write_texts(tmp_path / "one", 9)
    (tmp_path / "one" / "stages.json").write_bytes(content)
    status, output, _ = letgo("runs", tmp_path)
    assert status == 0
    assert re.search(r"^two +sft", output, re.MULTILINE)
    assert "Traceback" not in output


def test_damaged_settings_are_named(tmp_path):
    out = write_texts(tmp_path / "run", 9)
    for settings in (
        {"forget_fraction": "much"},
        {"forget_fraction": float("nan")},
        {"forget_fraction": [0.5]},
        {"seed": "one"},
        {"seed": float("inf")},
        {"selection": "best"},
        {"selection": ["top"]},
    ):
        (out / "config.yaml").write_text(yaml.safe_dump({**settings, "provenance": {}}))
        for command in ("show", "review"):
            status, _, error = letgo(command, out)
            assert (status, error.count("\n")) == (2, 1)
            assert f"{out / 'config.yaml'}: forget_fraction must be" in error


@pytest.mark.parametrize("file", ["scores.parquet", "self_knowledge.parquet", "selection.parquet"])
def test_files_without_what_they_need_are_named(tmp_path, file):
    out = write_texts(tmp_path / "run", 9)
    table = pq.read_table(out / file)
    for name in {"id", "confidence", "prompt", "selected"} & {*table.column_names}:
        without = table.drop_columns([name])
        position = table.column_names.index(name)
        gaps = without.add_column(
            position, name, pa.nulls(len(table), table.schema.field(name).type)
        )
        numbers = without.add_column(position, name, pa.array([{"a": 1}] * len(table)))
        for broken in (without, gaps, numbers):
            pq.write_table(broken, out / file)
            for command in ("show", "review"):
                status, _, error = letgo(command, out)
                assert (status, error.count("\n")) == (2, 1), error
                assert "parquet" in error
    pq.write_table(table, out / file)
    assert letgo("show", out)[0] == 0
