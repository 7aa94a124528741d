"""A file of settings turns on no code of others, no upload and no connection."""

import json

import pytest
import yaml
from helpers.commands import letgo
from helpers.files import write_lines

from letgo.errors import InputError
from letgo.run import config, trust

URL = "https://example.org/a.jsonl"


@pytest.fixture
def foreign(tmp_path):
    """A run folder whose model brings its own code, which leaves a file when it runs."""
    model, folder = tmp_path / "model", tmp_path / "run"
    model.mkdir()
    mark = tmp_path / "it-ran"
    (model / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    names = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": "evil.T"}
    (model / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    learn = write_lines(
        tmp_path / "a.jsonl", [{"prompt": f"{n}?", "completion": "1"} for n in range(30)]
    )
    folder.mkdir()
    content = {"model": str(model), "learn": str(learn), "forget": [str(learn)]}
    content |= {"trust_remote_code": True, "provenance": {"model": "m"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder, mark


@pytest.mark.parametrize("command", ["report", "select", "elicit", "evaluate"])
def test_a_foreign_run_folder_runs_no_code(foreign, command):
    folder, mark = foreign
    status, _, error = letgo(command, "--output_dir", folder)
    assert (status, error.count("\n"), mark.exists()) == (2, 1, False)
    assert "add --trust_remote_code True to this command if you trust it" in error


def test_neither_does_its_config_file(foreign, tmp_path):
    folder, mark = foreign
    words = ["--config", folder / "config.yaml", "--output_dir", tmp_path / "new"]
    assert letgo("run", *words)[0] == 2
    assert not mark.exists()
    assert not (tmp_path / "new").exists()
    letgo("run", *words, "--trust_remote_code", "true")
    assert mark.exists()  # the test's own model does run code where that is allowed


@pytest.mark.parametrize(
    "content",
    [
        {"trust_remote_code": True},
        {"trust_remote_code": "yes"},
        {"model_init_kwargs": {"trust_remote_code": True}},
        {"model_init_kwargs": '{"trust_remote\\u005fcode": true}'},
        {"model_init_kwargs": {"attn_implementation": "someone/kernel"}},
        {"model_init_kwargs": {"use_kernels": True}},
        {"attn_implementation": "someone/kernel"},
    ],
)
@pytest.mark.parametrize("of_run", [False, True])
def test_code_of_others_needs_a_flag(content, of_run):
    with pytest.raises(InputError, match="and only a flag allows that; add --"):
        config.parse("run", [], content, "c.yaml", of_run=of_run)
    with pytest.raises(InputError, match="letgo review runs no such code"):
        config.parse("review", [], content, "c.yaml")
    (name,) = content
    value = content[name]
    flag = f"--{name}={value if isinstance(value, str) else json.dumps(value)}"
    config.parse("run", [flag], content, "c.yaml", of_run=of_run)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, URL) for name in ("learn", "learn_test", "learn_validation", "model", "shared")]
    + [("forget", [URL]), ("keep", ["a.jsonl", URL]), ("learn", "simplecache::" + URL)],
)
def test_a_run_folder_opens_no_url(name, value):
    parsed = config.parse("run", [], {name: value}, "c.yaml")
    assert getattr(parsed.settings, name) == value
    if name == "shared":  # changes no result
        assert config.parse("run", [], {name: value}, "c.yaml", of_run=True).settings.shared is None
        return
    with pytest.raises(InputError, match=f"c.yaml: {name} is the URL .*add --{name} .*{URL} to"):
        config.parse("run", [], {name: value}, "c.yaml", of_run=True)
    parsed = config.parse("run", [f"--{name}={URL}"], {name: value}, "c.yaml", of_run=True)
    assert URL in getattr(parsed.settings, name)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"push_to_hub": True, "hub_token": "secret"}, ["push_to_hub", "hub_token"]),
        ({"report_to": "wandb"}, ["report_to"]),
        ({"report_to": ["tensorboard", "mlflow"]}, ["report_to"]),
        ({"report_to": "all"}, ["report_to"]),
        ({"report_to": "tensorboard", "hub_strategy": "every_save", "push_to_hub": False}, []),
    ],
)
def test_uploads_and_trackers_of_a_file_are_ignored(content, named, monkeypatch):
    messages = []
    monkeypatch.setattr(trust.log, "warning", lambda text, *values: messages.append(text % values))
    parsed = config.parse("run", [], content, "c.yaml", of_run=True)
    assert not parsed.training.push_to_hub
    assert parsed.training.hub_token is None
    assert set(parsed.training.report_to) <= {"tensorboard"}
    assert [text.split()[1] for text in messages] == named
    assert "secret" not in str(messages)
