"""`letgo doctor`: a line per check, status 1 if one is an error."""

import json

import pytest
from helpers.commands import flags
from helpers.files import write_lines
from helpers.models import CHAT_TEMPLATE, make_model, make_tokenizer

from letgo.cli import doctor as command
from letgo.cli import model_checks
from letgo.cli.doctor import doctor


def lines(capsys, *arguments):
    """The exit status, and the lines by status."""
    status = 0
    try:
        doctor([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    out = capsys.readouterr().out.splitlines()
    found = {kind: [x for x in out if x.startswith(kind)] for kind in ("ok", "warning", "error")}
    assert sum(map(len, found.values())) == len(out), out
    return status, found


def test_without_settings_only_the_environment(capsys):
    status, found = lines(capsys)
    assert status == 0, found
    text = "\n".join(found["ok"])
    for subject in ("versions", "extras", "device", "bfloat16", "write access", "disk"):
        assert f" {subject}: " in text + "\n".join(found["warning"])
    assert "template" not in text


def test_a_run_folder(capsys, finished):
    status, found = lines(capsys, finished)
    assert status == 0, found
    text = "\n".join(found["ok"])
    for subject in ("memory", "template", "data", "masks", "padding"):
        assert f" {subject}: " in text
    assert "first: learn: <|user|>0 + 0?<|end|><|assistant|> ==> 0<|end|>" in text


def test_a_model_and_learning_data_are_enough(capsys, tiny, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, found = lines(capsys, "--model", tiny, "--learn", data / "learn.jsonl")
    assert status == 0, found
    assert "learn 20, learn_test 2" in "\n".join(found["ok"]) or found["ok"]
    status, found = lines(capsys, "--model", tiny)
    assert status == 0, found
    assert not list(tmp_path.iterdir())


def test_a_template_without_the_text_is_an_error(capsys, data, tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE.replace("{{ m['content'] }}", "")
    make_model(vocabulary=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = ["--model", tmp_path / "model", "--learn", data / "learn.jsonl"]
    status, found = lines(capsys, *words)
    assert status == 1
    assert "error    template: --model: neutral opening 1: the chat template drops" in "\n".join(
        found["error"]
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["none"], "none is not the folder of a run"),
        (["--nonsense", "3"], "unknown flag --nonsense"),
        (["--model", "no-such-folder/no/x"], "--model: cannot load"),
        (["--config", "none.yaml"], "cannot read none.yaml"),
    ],
)
def test_what_cannot_be_read_is_an_error_line(capsys, words, complaint):
    status, found = lines(capsys, *words)
    assert status == 1
    assert complaint in "\n".join(found["error"])


def test_bad_data_are_an_error_line_and_overlap_is_a_warning(capsys, tiny, data, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "a"}\n')
    status, found = lines(capsys, "--model", tiny, "--learn", broken)
    assert status == 1
    assert "line 1: no 'completion'" in found["error"][0]
    rows = [json.loads(line) for line in (data / "learn.jsonl").open()][:3]
    test = write_lines(tmp_path / "test.jsonl", rows)
    words = flags(tiny, data, tmp_path / "out", learn_test=test)
    status, found = lines(capsys, *words)
    assert status == 0
    assert "3 learning examples are also prompts of --learn_test" in "\n".join(found["warning"])


def test_little_memory_and_disk(capsys, tiny, monkeypatch):
    monkeypatch.setattr(model_checks, "free_memory", lambda: 1 << 10)
    monkeypatch.setattr(command.machine, "free_memory", lambda: 1 << 10)
    status, found = lines(capsys, "--model", tiny)
    assert status == 1
    assert "use a smaller model" in found["error"][0]
    monkeypatch.setattr(model_checks, "free_memory", lambda: model_checks_size(tiny) + 1)
    status, found = lines(capsys, "--model", tiny)
    assert status == 0
    assert "add --use_peft" in "\n".join(found["warning"])


def model_checks_size(model):
    from letgo.run.config import parse

    return model_checks.size(parse("run", ["--model", str(model)], {})).weights


def test_scores_that_depend_on_the_batch_are_an_error(capsys, tiny, monkeypatch):
    from letgo.models.inference import LanguageModel

    honest = LanguageModel.losses
    monkeypatch.setattr(
        LanguageModel,
        "losses",
        lambda self, rows: [loss + len(rows) for loss in honest(self, rows)],
    )
    status, found = lines(capsys, "--model", tiny)
    assert status == 1
    assert "padding: scores of 4 texts" in found["error"][0]
