"""`letgo show` and `letgo runs`, and folders that the review cannot open."""

import re
import subprocess
import sys

import pytest
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
