"""Damaged files of a run folder: one line with the file and the command that makes it again."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from letgo.errors import InputError
from letgo.run import decisions
from letgo.run.digests import digests
from letgo.run.folder import (
    MODEL,
    SCORES,
    SELECTION,
    damage,
    read_config,
    read_json,
    read_log,
    read_schema,
    read_stages,
    read_table,
    require,
    write_json,
)

RUBBISH = [b"", b"\0\1\2", b"\xff\xfe", b"{", b"[]", b"5", b"[" * 100_000, b'"\xed\xa0\x80"']


@pytest.mark.parametrize("content", RUBBISH)
@pytest.mark.parametrize(
    ("name", "read", "command"),
    [
        ("metrics.json", read_json, "letgo evaluate --output_dir {}"),
        ("headroom.json", read_json, "letgo baseline --output_dir {}"),
        ("scores.parquet", read_table, "letgo score --output_dir {}"),
        ("scores.parquet", read_schema, "letgo score --output_dir {}"),
        ("train_log.jsonl", read_log, "letgo train --output_dir {}"),
        ("probe/train_log.jsonl", read_log, "letgo probe --output_dir {}"),
    ],
)
def test_a_damaged_file_names_its_command(tmp_path, name, read, command, content):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    if read == read_log and not content:
        assert read(file) == []
        return
    with pytest.raises(InputError) as error:
        read(file)
    assert str(error.value).startswith(f"{file} is damaged (")
    assert f"`{command.format(tmp_path)} --overwrite` makes it again" in str(error.value)


@pytest.mark.parametrize("content", [b"[", b"x: !!bool x", b"\xff", b"[" * 3000, b"- 1", b"a: *b"])
def test_damaged_settings_are_one_line(tmp_path, content):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"config.yaml is damaged"):
        read_config(tmp_path)


@pytest.mark.parametrize("cut", [4, 100, 0.5, -1])
def test_half_a_table_is_one_line(tmp_path, cut):
    file = tmp_path / "answers.parquet"
    pq.write_table(pa.table({"id": [str(i) for i in range(1000)]}), file)
    content = file.read_bytes()
    file.write_bytes(content[: int(cut * len(content)) if isinstance(cut, float) else cut])
    with pytest.raises(InputError, match=r"answers.parquet is damaged .*letgo evaluate"):
        read_table(file)


def record(folder, output):
    """Write `stages.json` as the stage of an output does."""
    before = read_stages(folder)
    before[output.stage] = {"inputs": {"forget_fraction": 0.5}}
    before[output.stage]["outputs"] = digests(folder, [output.name])
    write_json(folder / "stages.json", before)


def test_a_table_is_held_against_its_digest_before_it_is_read(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "confidence": [1.0]}), tmp_path / SCORES.name)
    record(tmp_path, SCORES)
    assert require(tmp_path, SCORES)
    pq.write_table(pa.table({"id": ["a"], "confidence": [2.0]}), tmp_path / SCORES.name)
    with pytest.raises(InputError, match=r"scores.parquet was changed after .*letgo score"):
        require(tmp_path, SCORES)


def test_a_user_may_change_his_model_but_not_its_weights_unseen(tmp_path, caplog):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("model.safetensors", "generation_config.json", "README.md"):
        (model / name).write_text("{}")
    record(tmp_path, MODEL)
    (model / "generation_config.json").write_text('{"top_k": 1}')
    (model / "model.gguf").write_text("converted")
    assert damage(tmp_path, MODEL) == ""
    (model / "model.safetensors").write_text("")
    problem = damage(tmp_path, MODEL)
    assert "model.safetensors was changed" in problem
    assert "letgo evaluate" in problem


def test_a_review_may_write_the_selection_anew(tmp_path):
    ids = list("abcd")
    confidence = [4.0, 3.0, 2.0, 1.0]
    pq.write_table(pa.table({"id": ids, "confidence": confidence}), tmp_path / SCORES.name)
    record(tmp_path, SCORES)

    def select():
        decided = decisions.read(tmp_path)
        ranking = decisions.rank(ids, confidence, "top", 42)
        return decisions.selection_table(ids, ranking, 0.5, "top", decided)

    pq.write_table(select(), tmp_path / SELECTION.name)
    record(tmp_path, SELECTION)
    action = decisions.Action(decisions.now(), "include", ["d"], None, "one")
    (tmp_path / "review.jsonl").write_text(decisions.to_line(action))
    table = select()
    pq.write_table(table, tmp_path / SELECTION.name)
    assert require(tmp_path, SELECTION)
    flipped = pa.array([not value for value in table["selected"].to_pylist()])
    damaged = table.set_column(1, "selected", flipped)
    pq.write_table(damaged, tmp_path / SELECTION.name)
    with pytest.raises(InputError, match=r"selection.parquet was changed after .*letgo select"):
        require(tmp_path, SELECTION)
