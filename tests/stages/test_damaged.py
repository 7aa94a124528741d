"""Finished runs whose files are damaged, in use, or edited by their user."""

import json
import os
import shutil

import pytest
from helpers.commands import STAGE_FILES, digest, flags, letgo

from letgo.run.folder import write_json
from letgo.run.lock import exclusive

MADE_BY = {
    "self_knowledge.parquet": "elicit",
    "kept.parquet": "keep",
    "probe/model.safetensors": "probe",
    "probe/train_log.jsonl": "probe",
    "scores.parquet": "score",
    "selection.parquet": "select",
    "baseline.parquet": "baseline",
    "headroom.json": "baseline",
    "lwf/config.json": "train",
    "train_log.jsonl": "train",
    "metrics.json": "evaluate",
    "model/model.safetensors": "evaluate",
    "report.html": "report",
}


def flip(file):
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.fixture
def out(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out")


@pytest.mark.parametrize("name", MADE_BY)
def test_a_damaged_output_is_not_kept(out, tiny, data, name):
    flip(out / name)
    status, _, error = letgo("run", *flags(tiny, data, out))
    assert status == 2
    last = error.splitlines()[-1]
    assert f"{out / name} was changed after letgo had written it" in last
    assert f"`letgo {MADE_BY[name]} --output_dir {out} --overwrite` makes it again" in last


def test_the_remedy_makes_the_same_again(finished, out):
    """Emptied weights, of a run that is not evaluated yet."""
    (out / "probe" / "model.safetensors").write_bytes(b"")
    for name in ("metrics.json", "answers.parquet"):
        (out / name).unlink()
    shutil.rmtree(out / "model")
    status, _, error = letgo("evaluate", "--output_dir", out)
    assert (status, "letgo probe --output_dir" in error) == (2, True)
    assert letgo("probe", "--output_dir", out, "--overwrite")[0] == 0
    assert letgo("evaluate", "--output_dir", out)[0] == 0
    assert digest(out) == digest(finished)
    assert {path.name for path in out.iterdir()} == STAGE_FILES


def test_damaged_records_are_one_line_and_all_is_made_again(finished, out, tiny, data):
    (out / "stages.json").write_bytes(b"")
    words = flags(tiny, data, out)
    status, _, error = letgo("run", *words)
    assert status == 2
    assert f"{out / 'stages.json'} is damaged" in error.splitlines()[-1]
    assert letgo("run", *words, "--overwrite")[0] == 0
    assert digest(out) == digest(finished)


def test_the_returned_model_is_a_copy(finished):
    """What its user does to it changes neither the run nor a shared store."""
    for file in (finished / "model").iterdir():
        assert file.stat().st_nlink == 1


def test_a_run_in_use_is_refused(out, tiny, data):
    before = sorted(path.stat().st_mtime_ns for path in out.iterdir())
    with exclusive(out, "letgo train"):
        for words in (["run", *flags(tiny, data, out)], ["report", "--output_dir", out]):
            status, _, error = letgo(*words)
            assert status == 2
            assert f"{out} is in use by process {os.getpid()} since" in error
            assert "(letgo train)" in error
    assert sorted(path.stat().st_mtime_ns for path in out.iterdir()) == before


def test_one_damaged_run_hides_no_other(out, finished, tmp_path):
    other = shutil.copytree(finished, tmp_path / "other")
    for content in ("", "{", '{"verdict": "lwf"}'):
        (out / "metrics.json").write_text(content)
        status, text, _ = letgo("runs", tmp_path)
        assert status == 0
        flat = " ".join(text.split())
        assert "other " in flat
        assert "out damaged" in flat
        assert "letgo evaluate --output_dir" in flat
    (other / "stages.json").write_text("")
    assert letgo("runs", tmp_path)[0] == 0


def test_scratch_of_a_finished_stage_is_removed_by_the_next_command(out):
    scratch = out / "train.part"
    (scratch / "checkpoints").mkdir(parents=True)
    write_json(
        scratch / "inputs.json", json.loads((out / "stages.json").read_text())["train"]["inputs"]
    )
    assert letgo("report", "--output_dir", out)[0] == 0
    assert {path.name for path in out.iterdir()} == STAGE_FILES


@pytest.mark.parametrize("command", ["show", "headroom"])
def test_commands_that_only_read_name_the_damaged_file(out, command):
    name = {"show": "scores.parquet", "headroom": "headroom.json"}[command]
    for content in (b"", (out / name).read_bytes()[:50]):
        (out / name).write_bytes(content)
        status, _, error = letgo(command, out)
        assert status == 2
        assert f"{out / name} was changed" in error
