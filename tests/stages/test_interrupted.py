"""Runs that are killed, fail or fill the disk go on where they stood."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.commands import STAGE_FILES, digest, environment, flags, letgo
from helpers.files import write_lines
from safetensors.torch import load_file

KILLING = Path(__file__).parents[1] / "helpers" / "killing.py"


def test_an_overwrite_that_fails_leaves_nothing_stale(finished, tiny, data, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    long = write_lines(tmp_path / "long.jsonl", [{"prompt": "long " * 200}])
    words = ["--output_dir", out, "--forget", long, "--overwrite"]
    assert letgo("elicit", *words)[0] == 2
    status, _, error = letgo("score", *words)
    assert status == 2
    assert "has no self_knowledge.parquet" in error


def test_save_only_model_does_not_change_a_resumed_run(tiny, data, tmp_path):
    words = flags(tiny, data, tmp_path / "out")
    command = [sys.executable, KILLING, "probe", "run", *words, "--save_only_model"]
    assert subprocess.run(command, env=environment(), capture_output=True).returncode == -9
    states = list((tmp_path / "out" / "probe.part" / "checkpoints").glob("*/optimizer.pt"))
    assert states


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_killed_in_every_stage_and_started_again(finished, tiny, data, tmp_path):
    """The same command again and again, killed at another place each time."""
    out = tmp_path / "killed"
    places = [
        "elicit",
        "keep",
        "probe",
        "probe checkpoint",
        "score",
        "baseline",
        "train",
        "train renames",
        "evaluate",
        "nowhere",
    ]
    for place in places:
        command = [sys.executable, KILLING, place, "run", *flags(tiny, data, out)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == (0 if place == "nowhere" else -9), (place, done.stderr)
        assert not (out / "metrics.json").exists() or place == "nowhere"
        if place in ("probe", "probe checkpoint", "train"):
            stage = place.split()[0]
            assert list((out / f"{stage}.part" / "checkpoints").glob("checkpoint-*"))
    assert {path.name for path in out.iterdir()} == STAGE_FILES
    assert digest(out) == digest(finished)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_killed_while_relearning(finished, tiny, data, tmp_path):
    outs = [tmp_path / "whole", tmp_path / "killed"]
    for out in outs:
        shutil.copytree(finished, out)
        words = flags(tiny, data, out, relearn=3, overwrite="true")
        place = "relearn" if out is outs[1] else "nowhere"
        command = [sys.executable, KILLING, place, "run", *words]
        killed = subprocess.run(command, capture_output=True, env=environment()).returncode
        assert killed == (-9 if place == "relearn" else 0)
    assert letgo("run", *flags(tiny, data, outs[1], relearn=3, overwrite="true"))[0] == 0
    answers = [(out / "relearned.parquet").read_bytes() for out in outs]
    assert answers[0] == answers[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_killed_while_the_model_in_training_writes(finished, tiny, data, tmp_path):
    outs = [tmp_path / "whole", tmp_path / "killed"]
    for out in outs:
        shutil.copytree(finished, out)
        words = flags(
            tiny, data, out, self_knowledge="current", rescore_interval=4, overwrite="true"
        )
        place = "asking" if out is outs[1] else "nowhere"
        command = [sys.executable, KILLING, place, "train", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == (-9 if place == "asking" else 0), done.stderr
        assert "self-knowledge after 4 steps" in done.stderr
    assert list((outs[1] / "train.part" / "checkpoints").glob("checkpoint-*"))
    assert letgo("train", *words)[0] == 0
    weights = [(out / "lwf" / "model.safetensors").read_bytes() for out in outs]
    assert weights[0] == weights[1]


def test_a_full_disk_is_said_and_the_run_goes_on(finished, tiny, data, tmp_path, monkeypatch):
    import errno

    from letgo.stages import score as scoring

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(scoring.pq, "write_table", full)
        patch.setattr("letgo.stages.elicit.pq.write_table", pq.write_table, raising=False)
        status, _, error = letgo("run", *flags(tiny, data, out))
    assert status == 2
    assert error.splitlines()[-1].startswith("letgo: the disk is full; free some space")
    assert "Traceback" not in error
    status, _, error = letgo("run", *flags(tiny, data, out))
    assert status == 0
    assert digest(out) == digest(finished)


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small disk")
@pytest.mark.parametrize("size", ["24k", "120k"])
def test_a_disk_that_is_really_full(tiny, data, tmp_path, size):
    """In the probe's checkpoint and in the final training; room is made, and the run goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        words = flags(tiny, data, disk / "out")
        status, _, error = letgo("run", *words)
        assert status == 2
        assert error.splitlines()[-1].startswith("letgo: the disk is full; free some space")
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        status, _, error = letgo("run", *words)
        assert status == 0, error
        assert {path.name for path in (disk / "out").iterdir()} == STAGE_FILES
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs SIGKILL")
def test_killed_while_the_fisher_information_is_written(finished, tmp_path):
    """A default run needs none; its own command makes it, whole or not at all."""
    out = shutil.copytree(finished, tmp_path / "out")
    command = [sys.executable, KILLING, "fisher", "fisher", "--output_dir", out]
    assert subprocess.run(command, capture_output=True, env=environment()).returncode == -9
    assert not (out / "fisher.safetensors").exists()
    status, _, error = letgo("fisher", "--output_dir", out)
    assert status == 0, error
    assert load_file(out / "fisher.safetensors")
    assert {path.name for path in out.iterdir()} == STAGE_FILES | {"fisher.safetensors"}
