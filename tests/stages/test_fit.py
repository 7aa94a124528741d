"""Checkpoints that are damaged: an older one, or none."""

import json

import pytest
import torch
from safetensors.torch import save_file

from letgo.run.digests import digests
from letgo.run.folder import write_json
from letgo.stages.fit import DIGESTS, last_whole_checkpoint

FILES = ("model.safetensors", "optimizer.pt", "rng_state.pth", "config.json")


def checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in FILES:
        if name.endswith("safetensors"):
            save_file({"weight": torch.full((9,), step)}, path / name)
        elif name.endswith("json"):
            (path / name).write_text(f"[{step}]")
        else:
            torch.save({"step": step}, path / name)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    names = [file.name for file in path.iterdir()]
    write_json(path / DIGESTS, digests(path, names))
    return path


def test_the_newest_counts_by_its_number(tmp_path):
    checkpoint(tmp_path, 9)
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    checkpoint(tmp_path, 10)
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert last_whole_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("name", [*FILES, "trainer_state.json", DIGESTS])
@pytest.mark.parametrize("content", [b"", b"rubbish", b"[]", b"{}", b"\xff"])
def test_a_damaged_one_is_left_out_with_a_warning(tmp_path, name, content, caplog):
    older, newer = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    (newer / name).write_bytes(content)
    # Without digests it is one of an earlier version.
    is_whole = (name, content) == (DIGESTS, b"{}")
    assert last_whole_checkpoint(tmp_path) == str(newer if is_whole else older)
    assert newer.exists() == is_whole
    if not is_whole:
        assert "checkpoint-4 is damaged" in caplog.text
        (older / name).write_bytes(content)
        assert last_whole_checkpoint(tmp_path) is None


def test_one_without_its_best_model_is_of_no_use(tmp_path):
    """The best model so far is in a checkpoint of its own, wherever the run folder was."""
    steps = [checkpoint(tmp_path, step) for step in (2, 4, 6)]
    for path, best in ((steps[1], 4), (steps[2], 4)):
        state = path / "trainer_state.json"
        where = f"/elsewhere/checkpoint-{best}"
        content = {**json.loads(state.read_text()), "best_model_checkpoint": where}
        state.write_text(json.dumps(content))
        write_json(path / DIGESTS, digests(path, [*FILES, state.name]))
    assert last_whole_checkpoint(tmp_path) == str(steps[2])
    (steps[1] / "model.safetensors").write_bytes(b"")
    assert last_whole_checkpoint(tmp_path) == str(steps[0])


def test_a_missing_file_is_damage_and_a_missing_state_an_interrupted_writing(tmp_path, caplog):
    older, newer = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    (newer / "optimizer.pt").unlink()
    assert last_whole_checkpoint(tmp_path) == str(older)
    assert "optimizer.pt" in caplog.text
    caplog.clear()
    (older / "trainer_state.json").unlink()
    assert last_whole_checkpoint(tmp_path) is None
    assert not caplog.text


def test_checkpoints_of_an_earlier_version_have_no_digests(tmp_path):
    path = checkpoint(tmp_path, 3)
    (path / DIGESTS).unlink()
    assert last_whole_checkpoint(tmp_path) == str(path)


@pytest.mark.parametrize("name", [name for name in FILES if name != "config.json"])
@pytest.mark.parametrize("length", [0, 70])
def test_killed_before_the_digests_and_then_damaged(tmp_path, name, length, caplog):
    older, newer = checkpoint(tmp_path, 2), checkpoint(tmp_path, 4)
    (newer / DIGESTS).unlink()
    (newer / name).write_bytes((newer / name).read_bytes()[:length])
    assert last_whole_checkpoint(tmp_path) == str(older)
    assert f"checkpoint-4 is damaged ({name})" in caplog.text
