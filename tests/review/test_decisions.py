"""People's decisions: the journal, the selection, and their effect on training."""

import errno
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset
from helpers.commands import environment, flags, letgo
from helpers.review_runs import selected, write_texts
from helpers.training import FORGET, unlearner

from letgo.cli.flags import parse
from letgo.errors import InputError
from letgo.review.session import Review
from letgo.run import decisions
from letgo.run.inputs import open_run
from letgo.run.lock import exclusive
from letgo.stages import train
from letgo.unlearning.texts import choose

RESCORING = {"rescore_interval": 2, "rescore_texts": 3, "per_device_train_batch_size": 2}


@pytest.fixture
def run(tmp_path):
    return write_texts(tmp_path / "run", 200)


@pytest.fixture(scope="module")
def selected_run(tiny, data, tmp_path_factory):
    """A run of the real stages up to `select`."""
    out = tmp_path_factory.mktemp("selected") / "out"
    for stage in ("elicit", "keep", "probe", "fisher", "score", "select"):
        status, _, error = letgo(stage, *flags(tiny, data, out))
        assert status == 0, error
    return out


def rows_by_id(folder):
    return {row["id"]: row for row in pq.read_table(folder / "selection.parquet").to_pylist()}


def test_decisions_overrule_the_score_and_other_texts_follow_it(run):
    review = Review(run)
    assert selected(run) == {review.ids[i] for i in review.ranking[:100]}
    excluded, included = review.ranking[3], review.ranking[150]
    review.decide(decisions.EXCLUDE, [excluded], "keep one")
    review.decide(decisions.INCLUDE, [included], "forget one")
    expected = {review.ids[i] for i in [*review.ranking[:100], included] if i != excluded}
    assert selected(run) == expected
    rows = rows_by_id(run)
    for index, act in ((excluded, "excluded"), (included, "included")):
        row = rows[review.ids[index]]
        assert (row["decided_by"], row["reason"]) == ("person", f"{act} by a person")
        assert row["decided_at"].endswith("Z")
    others = [row for row in rows.values() if row["decided_by"] == "score"]
    assert len(others) == 198
    assert {row["decided_at"] for row in others} == {None}
    review.set_fraction(0.8)  # the included text is above the new threshold too
    assert selected(run) == {review.ids[i] for i in review.ranking[:160] if i != excluded}
    assert review.count_changes(0.5) == (0, 59)  # the included text stays
    assert review.undo() == "50.0% -> 80.0% by the score"
    assert selected(run) == expected
    review.decide(decisions.BY_SCORE, range(200), "all by score")
    assert selected(run) == {review.ids[i] for i in review.ranking[:100]}
    for _ in range(3):
        review.undo()
    assert review.decided.fingerprint is None
    with pytest.raises(InputError, match="nothing to undo"):
        review.undo()
    assert len((run / "review.jsonl").read_text().splitlines()) == 8  # undoing removes no line


def test_a_restarted_review_can_undo_earlier_actions(run):
    first = Review(run)
    first.decide(decisions.EXCLUDE, first.ranking[:50], "half")
    before = selected(run)
    first.close()
    second = Review(run)
    assert selected(run) == before
    assert second.undo() == "half"
    assert len(selected(run)) == 100


DIES = """
import os, signal, sys
from pathlib import Path
from letgo.run import decisions
from letgo.review import session
review = session.Review(Path(sys.argv[1]))
review.decide("exclude", review.ranking[:10], "ten")
if sys.argv[2] == "half a line":
    decisions.to_line = lambda action: '{"at": "2026", "act": "excl'
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
session.pq.write_table = die
if sys.argv[2] == "half a line":
    session.Review._update_selection = die
review.decide("exclude", review.ranking[10:30], "twenty more")
"""


@pytest.mark.parametrize(("moment", "excluded"), [("half a line", 10), ("between the files", 30)])
def test_killed_while_saving(run, moment, excluded):
    """Complete lines count, half a line does not, and the lock of the killed process is free."""
    done = subprocess.run([sys.executable, "-c", DIES, run, moment], env=environment())
    assert done.returncode == -signal.SIGKILL
    assert len(selected(run)) == 90  # selection.parquet is not updated yet
    review = Review(run)
    assert not review.read_only
    assert len(selected(run)) == 100 - excluded
    review.decide(decisions.EXCLUDE, review.ranking[60:61], "one more")
    assert len(decisions.read_actions(run)) == (2 if excluded == 10 else 3)


def test_nothing_else_changes_a_run_under_review(run):
    review = Review(run)
    for command in ("letgo run", "letgo review"):
        with pytest.raises(InputError, match=r"is in use by process \d+ since .*\(letgo review\)"):
            Review(run) if "review" in command else exclusive(run, command).__enter__()
    review.decide(decisions.EXCLUDE, [review.ranking[0]], "yes")
    review.close()
    assert not (run / ".lock").exists()
    assert Review(run).person[review.ranking[0]] == -1


def test_a_folder_that_cannot_be_written_to_is_read_only(run, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("letgo.review.session.exclusive", refuse)
    review = Review(run)
    assert review.read_only == f"{run} cannot be written to (Permission denied)"
    with pytest.raises(InputError, match="this review is read-only"):
        review.decide(decisions.EXCLUDE, [0], "no")
    assert not (run / "review.jsonl").exists()
    review.close()


def test_new_scores_must_be_seen_before_a_decision(run):
    review = Review(run)
    write_texts(run, 200, seed=1)
    with pytest.raises(InputError, match="have changed"):
        review.decide(decisions.EXCLUDE, [0], "blindly")
    assert selected(run) == {review.ids[i] for i in review.ranking[:100]}  # has reloaded them
    review.decide(decisions.EXCLUDE, [review.ranking[0]], "seen")


def test_a_new_selection_must_be_seen_before_a_decision(run):
    review = Review(run)
    settings = {"forget_fraction": 0.2, "seed": 0, "provenance": {}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))  # as `letgo select` does
    with pytest.raises(InputError, match="have changed"):
        review.decide(decisions.EXCLUDE, [review.ranking[0]], "blindly")
    review.decide(decisions.EXCLUDE, [review.ranking[0]], "seen")
    assert selected(run) == {review.ids[i] for i in review.ranking[1:40]}


def test_texts_without_a_score_cannot_be_included(run):
    table = pq.read_table(run / "scores.parquet").to_pylist()
    table[5]["confidence"] = float("nan")
    schema = pq.read_schema(run / "scores.parquet")
    pq.write_table(decisions.pa.Table.from_pylist(table, schema), run / "scores.parquet")
    review = Review(run)
    with pytest.raises(InputError, match="no text to decide on"):
        review.decide(decisions.INCLUDE, [5], "odd")
    review.decide(decisions.INCLUDE, [4, 5], "one of two")
    assert decisions.read_actions(run)[0].ids == [review.ids[4]]


def test_an_invalid_journal_is_rejected(run):
    (run / "review.jsonl").write_text('{"act": "exclude", "ids": []}\nmine\n')
    with pytest.raises(InputError, match=r"review.jsonl line 2 is not a valid review entry"):
        Review(run)


@pytest.mark.parametrize("interval", [0, 4])
def test_training_follows_the_decisions(selected_run, tiny, data, tmp_path, monkeypatch, interval):
    """Without re-scoring exactly the selection; with it, every text that was not excluded."""
    out = tmp_path / "out"
    shutil.copytree(selected_run, out)
    review = Review(out)
    excluded, included = review.ranking[0], review.ranking[-1]
    review.decide(decisions.EXCLUDE, [excluded], "keep one")
    review.decide(decisions.INCLUDE, [included], "forget one")
    review.set_fraction(0.2)
    review.close()
    passed = {}
    monkeypatch.setattr(train, "fit", lambda run, *rest: passed.update(run=run, texts=rest[3]))
    words = ["--config", str(out / "config.yaml"), "--rescore_interval", str(interval)]
    run = open_run(parse("train", [*words, "--keep", "none"])[1])
    train.train(replace(run, folder=out), tmp_path)
    texts = passed["texts"]
    assert {review.ids[i] for i, row in enumerate(texts) if row["selected"]} == selected(out)
    assert [i for i, row in enumerate(texts) if row["forced"]] == [included]
    allowed = {i for i, row in enumerate(texts) if row["allowed"]}
    assert len(allowed) == (len(texts) - 1 if interval else len(selected(out)))
    assert excluded not in allowed
    assert passed["run"].config.training.forget_fraction == 0.2
    assert run.training.forget_fraction == 0.5


def test_decisions_after_training_require_another_training(selected_run, tiny, data, tmp_path):
    """A decision changes the inputs of `train`; undoing it restores them."""
    out = tmp_path / "out"
    shutil.copytree(selected_run, out)
    assert letgo("train", "--output_dir", out)[0] == 0
    inputs = json.loads((out / "stages.json").read_text())["train"]["inputs"]
    assert "decisions" not in inputs
    review = Review(out)
    review.decide(decisions.EXCLUDE, [review.ranking[0]], "keep one")
    review.close()
    status, _, error = letgo("train", "--output_dir", out)
    assert status == 2
    assert "its lwf was made with decisions=None, now it is" in error
    assert "--overwrite" in error
    review = Review(out)
    review.undo()
    review.close()
    status, _, error = letgo("train", "--output_dir", out)
    assert status == 0
    assert "train: done before, kept" in error
    review = Review(out)
    review.decide(decisions.EXCLUDE, [review.ranking[0]], "keep one")
    review.close()
    status, _, error = letgo("train", "--output_dir", out, "--overwrite")
    assert status == 0, error
    card = (out / "lwf" / "README.md").read_text()
    assert f"{len(review.ids)} self-generated texts, {len(selected(out))} of them" in card
    assert f"re-scoring may choose among {len(review.ids) - 1} of them" in card


def test_selecting_again_keeps_decisions(selected_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(selected_run, out)
    review = Review(out)
    review.decide(decisions.INCLUDE, review.ranking[-2:], "forget two")
    review.close()
    with (out / "review.jsonl").open("a") as journal:
        missing = decisions.Action(
            "2026-01-01T00:00:00Z", decisions.EXCLUDE, ["gone:1"], None, "gone"
        )
        journal.write(decisions.to_line(missing))
    arguments = ["--output_dir", out, "--forget_fraction", 0.2, "--overwrite"]
    status, _, error = letgo("select", *arguments)
    assert status == 0, error
    assert "decisions of `letgo review` apply to 2 texts (1 more texts no longer exist)" in error
    count = round(0.2 * len(review.ids))
    expected = {review.ids[i] for i in [*review.ranking[:count], *review.ranking[-2:]]}
    assert selected(out) == expected
    assert letgo("train", *arguments)[0] == 0


def test_training_rejects_a_selection_without_the_last_decision(selected_run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(selected_run, out)
    act = decisions.Action("2026-01-01T00:00:00Z", decisions.EXCLUDE, ["talk:1"], None, "unseen")
    (out / "review.jsonl").write_text(decisions.to_line(act))
    status, _, error = letgo("train", "--output_dir", out)
    assert status == 2
    assert "selection.parquet lacks the last decision of review.jsonl" in error
    Review(out).close()
    assert letgo("train", "--output_dir", out)[0] == 0


def test_rescoring_keeps_included_texts_and_never_takes_excluded_ones():
    rows = [
        {"selected": i in (1, 2), "allowed": i != 0, "forced": i == 2, "confidence": float(9 - i)}
        for i in range(9)
    ]
    chosen = choose(Dataset.from_list(rows), 0.5, True)
    assert (chosen.indices, chosen.allowed, chosen.forced) == ([1, 2], list(range(1, 9)), [2])
    assert choose(Dataset.from_list(rows), 0.5, False).allowed == [1, 2]
    rows = [{**row, "selected": False} for row in rows]
    with pytest.raises(InputError, match="no text is selected"):
        choose(Dataset.from_list(rows), 0.5, True)


def test_included_texts_are_in_every_pool(tmp_path):
    """Also when re-scoring did not sample the text, or would not choose it."""
    rows = [
        {**row, "selected": i < 2, "allowed": i != 3, "forced": i == 1, "confidence": 0.0}
        for i, row in enumerate(FORGET)
    ]
    trainer = unlearner(tmp_path, forget=rows, **RESCORING, unlearning_interval=1)
    pools, draw = [], trainer.rescore.batches
    trainer.rescore.batches = lambda count: pools.append(trainer.tracker.pool) or draw(count)
    trainer.train()
    index = trainer.chosen.allowed.index(1)
    assert pools
    assert all(index in pool for pool in pools)
    assert len(trainer.rescore.rows) == len(FORGET) - 1
