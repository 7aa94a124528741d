"""A folder belongs to one command at a time, and to nobody once that command is gone."""

import json
import os
import subprocess
import sys

import pytest

from letgo.errors import InputError
from letgo.run.lock import exclusive

HOLD = (
    "import sys, time; from pathlib import Path; from letgo.run.lock import exclusive\n"
    "with exclusive(Path(sys.argv[1]), 'letgo run'): print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_command_is_refused_by_name(tmp_path, holder):
    since = json.loads((tmp_path / ".lock").read_text())["since"]
    with pytest.raises(InputError) as refused, exclusive(tmp_path, "letgo review"):
        pass
    assert str(refused.value) == (
        f"{tmp_path} is in use by process {holder.pid} since {since} (letgo run); "
        f"wait for it or stop it"
    )
    assert (tmp_path / ".lock").exists()


def test_the_lock_of_a_dead_process_is_taken_over_and_removed(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with exclusive(tmp_path, "letgo run"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_an_error_frees_the_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "new", "letgo run"):
        raise ZeroDivisionError
    with exclusive(tmp_path / "new", "letgo run"), pytest.raises(InputError, match="in use by"):
        exclusive(tmp_path / "new", "letgo run").__enter__()
    assert not (tmp_path / "new").exists()


def test_a_folder_that_was_deleted_is_not_made_again(tmp_path):
    with exclusive(tmp_path / "new", "letgo run"):
        (tmp_path / "new" / ".lock").unlink()
        (tmp_path / "new").rmdir()
    assert not (tmp_path / "new").exists()


def test_only_the_first_of_several_processes_takes_the_lock(tmp_path, monkeypatch):
    with exclusive(tmp_path, "letgo score"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with exclusive(tmp_path, "letgo score"):
            pass


@pytest.mark.parametrize("content", ["", "{}", "[]", "half a li"])
def test_a_lock_that_does_not_say_whose_it_is(tmp_path, holder, content):
    (tmp_path / ".lock").write_text(content)
    with pytest.raises(InputError, match="is in use by another process"):
        exclusive(tmp_path, "letgo run").__enter__()
