"""`review.jsonl`: what is read of it, and what a review writes."""

import errno
import json
import os
import shutil

import pytest
from helpers.review_runs import selected, write_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from letgo.errors import InputError
from letgo.review import html
from letgo.review.session import Review
from letgo.run import decisions
from letgo.run.decisions import JOURNAL

AT = "2026-01-31T12:00:00Z"
WHOLE = f'{{"at": "{AT}", "act": "exclude", "ids": ["sums:000000"]}}'


@pytest.fixture
def run(tmp_path):
    return write_texts(tmp_path / "run", 60)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"act": "exlude", "ids": ["talk:000001"]}', "act must be one of include, exclude"),
        ('{"act": ["exclude"], "ids": []}', "act must be"),
        ('{"ids": ["a"]}', "act must be"),
        ('{"act": "exclude", "ids": "talk:000001"}', "ids must be a list of strings"),
        ('{"act": "exclude", "ids": 5}', "ids must be"),
        ('{"act": "exclude", "ids": null}', "ids must be"),
        ('{"act": "exclude", "ids": ["a", 5]}', "ids must be"),
        ('{"act": "exclude", "ids": {"a": 1}}', "ids must be"),
        ('{"act": "fraction"}', "fraction must be a number above 0 and at most 1"),
        ('{"act": "fraction", "fraction": NaN}', "fraction must be"),
        ('{"act": "fraction", "fraction": Infinity}', "fraction must be"),
        ('{"act": "fraction", "fraction": 1e999}', "fraction must be"),
        ('{"act": "fraction", "fraction": "0.5"}', "fraction must be"),
        ('{"act": "fraction", "fraction": true}', "fraction must be"),
        ('{"act": "fraction", "fraction": 0}', "fraction must be"),
        ('{"act": "fraction", "fraction": -0.1}', "fraction must be"),
        ('{"act": "fraction", "fraction": 1.01}', "fraction must be"),
        ('{"act": "fraction", "fraction": 1' + "0" * 400 + "}", "fraction must be"),
        ('{"act": "fraction", "fraction": 1' + "0" * 5000 + "}", "4300"),
        ('{"act": "undo", "at": 5}', "at must be a time"),
        ('{"act": "undo", "at": "yesterday"}', "at must be"),
        ('{"act": "undo", "at": null}', "at must be"),
        ('{"act": "undo", "what": 5}', "what must be a string"),
        ('{"act": "exclude", "ids": ["\\ud800"]}', "surrogates"),
        ('{"act": "undo", "what": "\\udfff"}', "surrogates"),
        ('{"act": "undo", "at": "\\udfff"}', "at must be"),
        ('{"act": "undo", "\\ud800": 1}', "unknown key"),
        ('{"act": "undo", "id": ["a"]}', "unknown key 'id'"),
        ('{"act": "undo", "' + "x" * 9999 + '": 1}', "unknown key 'xxxx"),
        ('{"act": "include", "act": "exclude", "ids": ["a"]}', "a key is there twice"),
        ('{"act": "undo", "ids": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("5", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("[]", "must be a JSON object"),
        ('"act"', "must be a JSON object"),
        ("mine", "not JSON: Expecting value, column 1"),
        ('{"act": "undo"', "not JSON"),
        ('{"act": "undo"} {"act": "undo"}', "not JSON: Extra data, column 17"),
        ("\x00\x00\x00", "not JSON"),
        (b"\xff\xfe{", "can't decode"),
        ('{"act": "undo"}'.encode("utf-16"), "can't decode"),
    ],
)
def test_a_line_that_is_no_action_is_refused_by_its_number(tmp_path, line, reason):
    line = line if isinstance(line, bytes) else line.encode()
    (tmp_path / JOURNAL).write_bytes(f"{WHOLE}\n\n".encode() + line + f"\n{WHOLE}\n".encode())
    with pytest.raises(InputError) as refused:
        decisions.read_actions(tmp_path)
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / JOURNAL} line 3 is not a valid review entry (")
    assert reason in message
    assert message.endswith("; fix it, or move the file away to start over")
    assert "\n" not in message
    assert len(message) < len(str(tmp_path)) + 400


@pytest.mark.parametrize(
    "line",
    [
        WHOLE,
        WHOLE + "\r",
        "  " + WHOLE + " ",
        "\ufeff" + WHOLE,
        '{"act": "include", "ids": ["é", "中", "\\ud83d\\ude00"], "fraction": null, "what": ""}',
        '{"act": "fraction", "fraction": 1}',
        '{"act": "fraction", "fraction": 1e-300, "at": "2026-01-31T12:00:00.5+02:00"}',
        '{"act": "by score", "ids": []}',
    ],
)
def test_an_action_is_read(tmp_path, line):
    (tmp_path / JOURNAL).write_text(f"{line}\n", encoding="utf-8", newline="")
    assert len(decisions.read_actions(tmp_path)) == 1


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([*decisions.ACTS, AT, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*decisions.Action._fields, "x"])


def of_learning_examples(action):
    """The action; a text cannot be dropped, so that one that drops is of learning examples."""
    if action.act != decisions.DROP:
        return action
    return action._replace(ids=[f"{decisions.WRONG}:{name}" for name in action.ids])


GOOD = st.builds(
    decisions.Action,
    at=st.just("") | st.datetimes().map(lambda time: time.isoformat()),
    act=st.sampled_from(decisions.ACTS),
    ids=st.lists(st.text(st.characters(codec="utf-8"))),
    fraction=st.floats(0, 1, exclude_min=True),
    what=st.text(st.characters(codec="utf-8")),
).map(of_learning_examples)
BAD = st.dictionaries(KEYS, VALUES).map(json.dumps) | VALUES.map(json.dumps) | st.text()


@settings(max_examples=1_000, deadline=None)
@given(st.lists(BAD | GOOD.map(decisions.to_line), max_size=4), st.booleans())
def test_random_lines_raise_nothing_but_input_errors(tmp_path_factory, lines, ended):
    folder = tmp_path_factory.getbasetemp()
    content = "\n".join(lines) + "\n" * ended
    (folder / JOURNAL).write_bytes(content.encode("utf-8", errors="surrogatepass"))
    try:
        decided = decisions.read(folder)
    except InputError:
        return
    decisions.selection_table([*decided.texts, "a"], [0], 0.5, "top", decided)


@settings(max_examples=1_000, deadline=None)
@given(st.lists(GOOD, max_size=4))
def test_every_action_is_read_as_it_was_written(tmp_path_factory, actions):
    folder = tmp_path_factory.getbasetemp()
    (folder / JOURNAL).write_text("".join(map(decisions.to_line, actions)))
    expected = []
    for action in actions:
        decisions.add(expected, action)
    assert decisions.read_actions(folder) == expected


def test_a_journal_that_cannot_be_read_is_named(run):
    (run / JOURNAL).mkdir()
    with pytest.raises(InputError, match=r"review.jsonl cannot be read \(Is a directory\)"):
        Review(run)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_whole_last_line_is_kept(run, end):
    (run / JOURNAL).write_text(WHOLE + end, newline="")
    assert decisions.read(run).texts == {"sums:000000": ("exclude", AT)}
    review = Review(run)
    assert not review.warnings
    review.decide(decisions.EXCLUDE, [0], "one more")
    assert (run / JOURNAL).read_bytes().startswith(WHOLE.encode() + (end or "\n").encode() + b'{"')
    assert len(decisions.read_actions(run)) == 2


@pytest.mark.parametrize("length", [1, 20, len(WHOLE) - 1])
def test_half_a_last_line_is_put_aside(run, caplog, length):
    half = WHOLE[:length].replace("sums", "süms").encode()[:length]
    (run / JOURNAL).write_bytes(WHOLE.encode() + b"\n" + half)
    assert len(decisions.read_actions(run)) == 1
    assert "ends in half a line, which is not a decision; it is ignored" in caplog.text
    review = Review(run)
    told = (
        "review.jsonl ended in half a line, which is not a decision; it is now in review.jsonl.torn"
    )
    assert review.warnings == [told]
    assert told in html.status(review)
    assert (run / f"{JOURNAL}.torn").read_bytes() == half + b"\n"
    assert (run / JOURNAL).read_text() == WHOLE + "\n"
    review.decide(decisions.EXCLUDE, [0], "one more")
    assert len(decisions.read_actions(run)) == 2


def delete(file):
    file.unlink()


def replace_by_another(file):
    file.with_name("new").write_text(WHOLE + "\n")
    file.with_name("new").replace(file)


def replace_by_a_copy(file):
    shutil.copy(file, file.with_name("new"))
    file.with_name("new").replace(file)


def empty(file):
    file.write_text("")


def add_a_line(file):
    with file.open("a") as stream:
        stream.write(WHOLE + "\n")


def change_in_place(file):
    text = file.read_text().replace("exclude", "include")
    with file.open("r+") as stream:
        stream.write(text)


@pytest.mark.parametrize(
    "change",
    [delete, replace_by_another, replace_by_a_copy, empty, add_a_line, change_in_place],
)
def test_a_journal_that_was_changed_under_the_review(run, change):
    review = Review(run)
    review.decide(decisions.EXCLUDE, [0], "first")
    change(run / JOURNAL)
    content = (run / JOURNAL).read_bytes() if (run / JOURNAL).exists() else b""
    assert review.is_stale()
    with pytest.raises(
        InputError, match=r"not saved: review\.jsonl was deleted or changed by some"
    ):
        review.decide(decisions.EXCLUDE, [3], "second")
    assert (run / JOURNAL).read_bytes() == content
    assert review.actions == decisions.read_actions(run)  # it shows what is on disk
    assert selected(run) == {review.ids[i] for i in review.selected.nonzero()[0]}
    review.decide(decisions.EXCLUDE, [3], "second")
    assert decisions.read_actions(run)[-1].what == "second"


def test_a_journal_that_became_invalid_under_the_review(run):
    review = Review(run)
    (run / JOURNAL).write_text("mine\n")
    for _ in range(2):
        with pytest.raises(InputError, match=r"review.jsonl line 1 is not a valid review entry"):
            review.decide(decisions.EXCLUDE, [0], "first")
    assert (run / JOURNAL).read_text() == "mine\n"
    (run / JOURNAL).write_text("")
    with pytest.raises(InputError, match="not saved"):
        review.decide(decisions.EXCLUDE, [0], "first")
    review.decide(decisions.EXCLUDE, [0], "first")


def test_a_journal_deleted_at_the_last_moment(run, monkeypatch):
    review = Review(run)
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (real(number), (run / JOURNAL).unlink()))
    with pytest.raises(InputError, match="the decision is not saved: "):
        review.decide(decisions.EXCLUDE, [0], "first")
    assert not review.actions


def test_a_run_deleted_under_the_review(run):
    review = Review(run)
    shutil.rmtree(run)
    with pytest.raises(InputError, match="No such file or directory"):
        review.decide(decisions.EXCLUDE, [0], "first")
    assert not run.exists()
    review.close()


def test_a_full_disk(run, monkeypatch):
    """Nothing of a decision that could not be saved is left, also after the next one."""
    review = Review(run)
    review.decide(decisions.EXCLUDE, [0], "first")
    before = (run / JOURNAL).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="the decision is not saved: No space left on device"):
            review.decide(decisions.EXCLUDE, [3], "second")
    assert (run / JOURNAL).read_bytes() == before
    with monkeypatch.context() as patch:
        patch.setattr("letgo.review.session.pq.write_table", full)
        with pytest.raises(InputError, match=r"the decisions are in review\.jsonl: put that right"):
            review.decide(decisions.EXCLUDE, [6], "third")
    assert [action.what for action in decisions.read_actions(run)] == ["first", "third"]
    review.decide(decisions.EXCLUDE, [9], "fourth")
    assert not selected(run) & {review.ids[i] for i in (0, 6, 9)}
    assert not review.is_stale()
    review.close()
    assert len(decisions.read_actions(run)) == 3


def test_decisions_on_texts_that_the_run_does_not_have(run):
    gone = decisions.Action(AT, "exclude", ["sums:000000", "x:1", "x:2"], None, "gone")
    (run / JOURNAL).write_text(decisions.to_line(gone))
    review = Review(run)
    assert review.warnings == [
        "2 decisions in review.jsonl are on texts that this run does not have; they have no effect"
    ]
    assert "2 decisions in review.jsonl are on texts" in html.status(review)


@pytest.mark.parametrize(
    "damage", ["selection.parquet", "scores.parquet", "self_knowledge.parquet"]
)
def test_damaged_files_of_a_run_are_named(run, damage):
    content = (run / damage).read_bytes()
    for broken in (b"", content[: len(content) // 2], b"PAR1" + bytes(40) + b"PAR1"):
        (run / damage).write_bytes(broken)
        with pytest.raises(InputError, match=rf"{damage}.*makes it again"):
            Review(run)
    assert not (run / ".lock").exists()


def test_a_selection_that_disappears_is_written_again(run):
    review = Review(run)
    (run / "selection.parquet").unlink()
    review.decide(decisions.EXCLUDE, [0], "first")
    assert selected(run) == {review.ids[i] for i in review.selected.nonzero()[0]}
