"""Failures of a user's making are one line; a bug is a traceback with how to report it."""

import errno
import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from helpers.commands import letgo
from helpers.models import make_tokenizer
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors.torch import load_file

from letgo import cli
from letgo.cli.failures import explain
from letgo.data.tokens import prompt_ids
from letgo.errors import InputError


def failure(work):
    """The error that a piece of work raises."""
    try:
        work()
    except Exception as error:
        return error
    raise AssertionError("no error")


def templated(template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    return lambda: prompt_ids(tokenizer, "x")


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no system role') }}",
        "{% for m in messages %}",
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages[0]['content'] + 1 }}",
        "{{ messages[7]['content'] }}",
        "{{ 1 // 0 }}",
    ],
)
def test_a_template_that_fails(template):
    message = explain(failure(templated(template)), [])
    assert message.startswith("--model: its chat template fails: ")
    assert "--chat_template_path FILE" in message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ModuleNotFoundError("No module named 'wandb'", name="wandb.sdk"), "pip install wandb"),
        (RuntimeError("WandbCallback requires wandb. Run `pip install wandb`."), "pip install wan"),
        (ImportError("needs the accelerate library: `pip install accelerate`"), "pip install acc"),
        (OfflineModeIsEnabled("offline mode"), "check the connection, or name local files"),
        (LocalEntryNotFoundError("not in the cache"), "check the connection"),
        (ConnectionError("Couldn't reach the Hub"), "check the connection"),
        (MemoryError(), "out of memory"),
        (RuntimeError("can't allocate memory: you tried"), "out of memory"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), "--output_dir: "),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/x"), "/x: File name too long; mend"),
        (OSError(errno.EROFS, "Read-only file system", "/cache"), "/cache: Read-only file system"),
        (FileNotFoundError(errno.ENOENT, "No such", "out/stages.json"), "--output_dir: out cannot"),
        (
            FileNotFoundError("Failed to open local file"),
            "--output_dir: out cannot be made, or was",
        ),
        (FileNotFoundError(errno.ENOENT, "No such", "."), "--output_dir: out cannot be made"),
        (FileNotFoundError(errno.ENOENT, "No such", "/no/such/x"), "/no/such/x: it was removed"),
        (ValueError("embedded null byte"), "a path contains a NUL character"),
        (failure(lambda: json.loads("[")), "a file that letgo reads is damaged"),
        (RuntimeError("PytorchStreamReader failed"), "a file that letgo reads is damaged"),
    ],
)
def test_what_a_user_can_mend_is_a_line(error, expected):
    message = explain(error, ["--output_dir", "out"])
    assert expected in message
    assert "\n" not in message
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = error
    assert expected in explain(wrapped, ["--output_dir", "out"])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 cut short PAR1", b"{}"])
def test_damaged_files_are_a_line(tmp_path, content):
    file = tmp_path / "file"
    file.write_bytes(content)
    for read in (pq.read_table, load_file):
        assert "is damaged" in explain(failure(lambda read=read: read(file)), [])


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        TypeError("x"),
        ValueError("x"),
        AssertionError(),
        RecursionError("x"),
        ConnectionResetError("x"),
        FileNotFoundError(errno.ENOENT, "No such file", cli.__file__),
        ModuleNotFoundError("No module named 'letgo.x'", name="letgo.x"),
        failure(lambda: pq.write_table(1, "x")),
    ],
)
def test_a_bug_is_no_line(error, tmp_path):
    assert explain(error, ["--output_dir", str(tmp_path)]) is None
    assert explain(error, ["--output_dir"]) is None
    handled = KeyError("in a handler")
    handled.__context__ = PermissionError(errno.EACCES, "Permission denied", "x")
    assert explain(handled, []) is None


def test_a_bug_is_a_traceback_and_how_to_report_it(monkeypatch):
    def fail(arguments):
        raise KeyError("a\x1b]0;b\x07")

    monkeypatch.setattr(cli, "_execute", fail)
    words = ["run", "--hub-token", "secret", "--hub_token=secret", "--learn", "a b.jsonl"]
    status, _, error = letgo(*words)
    assert status == 1
    assert error.startswith("Traceback")
    assert "in fail" in error
    last = error.splitlines()[-1]
    assert "this is a bug in letgo" in last
    assert "open an issue" in last
    assert "`letgo run --hub-token HIDDEN --hub_token=HIDDEN --learn 'a b.jsonl'`" in last
    assert "secret" not in error
    assert "\x1b" not in error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("a\x1b[31m\u202e\n b"), 2, r"letgo: a\x1b[31m\u202e b"),
        (InputError("x" * 10_000_000), 2, "letgo: xxx"),
        (KeyboardInterrupt(), 130, "letgo: interrupted; run the same command again"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_every_end_has_its_status(monkeypatch, error, status, line):
    def fail(arguments):
        raise error

    monkeypatch.setattr(cli, "_execute", fail)
    ended, _, printed = letgo("run")
    assert ended == status
    assert printed.startswith(line)
    assert printed.count("\n") == bool(line)
    assert len(printed) < 5000


CODE = (
    "import sys, time, letgo.cli as cli; sys.argv = ['letgo', 'x']; cli._execute = lambda _: {}; "
)


def start(work, **more):
    """The command line in a process, with this work in place of a command."""
    code = CODE.format(work) + "cli.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
    )


def test_sigterm_is_a_line():
    process = start("(print('begun', flush=True), time.sleep(60))")
    assert process.stdout.readline() == b"begun\n"
    process.terminate()
    _, error = process.communicate()
    assert process.returncode == 143
    assert error == b"letgo: terminated; run the same command again to resume\n"


def test_a_reader_that_has_gone_is_no_error():
    process = start("(time.sleep(1), [print('x' * 100) for _ in range(9999)])")
    process.stdout.close()
    error = process.stderr.read()
    assert (process.wait(), error) == (141, b"")


def test_a_full_output_is_a_line():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        code = CODE.format("print('x')") + "cli.main()"
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_text_that_the_terminal_cannot_show_is_escaped():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = start("print('caf\\u00e9')", env=environment)
    out, error = process.communicate()
    assert (process.returncode, out, error) == (0, b"caf\\xe9\n", b"")


def test_arguments_that_are_no_text_are_refused():
    for more, remedy in (
        ({}, b"rename it"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"set PYTHONUTF8=1"),
    ):
        name = b"\xff" if not more else "\u4e2d".encode()
        done = subprocess.run(
            [sys.executable, "-m", "letgo", "run", "--output_dir", name],
            env={**os.environ, **more},
            capture_output=True,
        )
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
        assert remedy in done.stderr
