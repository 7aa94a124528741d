"""What people decide over the score: the journal, the selection, and what training makes of it."""

import json
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset
from helpers.commands import environment, flags, letgo
from helpers.review_runs import selected, write_texts
from helpers.training import FORGET, unlearner

from letgo.errors import InputError
from letgo.review.session import Review
from letgo.run import decisions
from letgo.run.config import Config
from letgo.run.inputs import Run
from letgo.stages import train as third
from letgo.unlearning.texts import choose

EVERY = {"rescore_interval": 2, "rescore_texts": 3, "per_device_train_batch_size": 2}


@pytest.fixture
def run(tmp_path):
    return write_texts(tmp_path / "run", 200)


@pytest.fixture(scope="module")
def chosen(tiny, data, tmp_path_factory):
    """A real run up to its selection."""
    out = tmp_path_factory.mktemp("chosen") / "out"
    for stage in ("elicit", "probe", "fisher", "score", "select"):
        status, _, error = letgo(stage, *flags(tiny, data, out))
        assert status == 0, error
    return out


def rows_of(folder):
    return {row["id"]: row for row in pq.read_table(folder / "selection.parquet").to_pylist()}


def test_decisions_bind_and_the_rest_follows_the_score(run):
    review = Review(run)
    assert selected(run) == {review.ids[i] for i in review.order[:100]}
    kept, forced = review.order[3], review.order[150]
    review.decide(decisions.EXCLUDE, [kept], "keep one")
    review.decide(decisions.INCLUDE, [forced], "forget one")
    wanted = {review.ids[i] for i in [*review.order[:100], forced] if i != kept}
    assert selected(run) == wanted
    rows = rows_of(run)
    for place, said in ((kept, "excluded"), (forced, "included")):
        row = rows[review.ids[place]]
        assert (row["decided_by"], row["reason"]) == ("person", f"{said} by a person")
        assert row["decided_at"].endswith("Z")
    others = [row for row in rows.values() if row["decided_by"] == "score"]
    assert len(others) == 198
    assert {row["decided_at"] for row in others} == {None}
    review.move(0.8)  # the threshold moves past the forced text; what was kept stays out
    assert selected(run) == {review.ids[i] for i in review.order[:160] if i != kept}
    assert review.moved(0.5) == (0, 59)  # the forced one stays
    assert review.undo() == "50.0% -> 80.0% by the score"
    assert selected(run) == wanted
    review.decide(decisions.BY_SCORE, range(200), "all by score")
    assert selected(run) == {review.ids[i] for i in review.order[:100]}
    for _ in range(3):
        review.undo()
    assert review.decided.fingerprint is None
    with pytest.raises(InputError, match="nothing to undo"):
        review.undo()
    assert len((run / "review.jsonl").read_text().splitlines()) == 8  # nothing is struck out


def test_a_restarted_review_can_undo_what_the_last_one_did(run):
    first = Review(run)
    first.decide(decisions.EXCLUDE, first.order[:50], "half")
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
review.decide("exclude", review.order[:10], "ten")
if sys.argv[2] == "half a line":
    decisions.to_line = lambda act: '{"at": "2026", "act": "excl'
session.pq.write_table = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
session.Review._follow = {"half a line": lambda _: os.kill(os.getpid(), signal.SIGKILL)}.get(
    sys.argv[2], session.Review._follow)
review.decide("exclude", review.order[10:30], "twenty more")
"""


@pytest.mark.parametrize(("place", "left_out"), [("half a line", 10), ("between the files", 30)])
def test_killed_while_it_saves(run, place, left_out):
    """What was written whole stands, half an act never was; the lock of the dead is free."""
    done = subprocess.run([sys.executable, "-c", DIES, run, place], env=environment())
    assert done.returncode == -signal.SIGKILL
    assert len(selected(run)) == 90  # the file is behind, or right
    review = Review(run)
    assert not review.read_only
    assert len(selected(run)) == 100 - left_out
    review.decide(decisions.EXCLUDE, review.order[60:61], "one more")
    assert len(decisions.read_actions(run)) == (2 if left_out == 10 else 3)


def test_one_review_decides_and_others_look_on(run):
    first, second = Review(run), Review(run)
    assert (first.read_only, second.read_only) == ("", "another review of this run is open")
    with pytest.raises(InputError, match="nothing can be decided here: another review"):
        second.decide(decisions.EXCLUDE, [0], "no")
    first.decide(decisions.EXCLUDE, [first.order[0]], "yes")
    second.load()
    assert second.person[first.order[0]] == -1
    first.close()
    assert not Review(run).read_only


def test_scores_made_again_are_looked_at_first(run):
    review = Review(run)
    write_texts(run, 200, seed=1)
    with pytest.raises(InputError, match="made anew"):
        review.decide(decisions.EXCLUDE, [0], "blindly")
    assert selected(run) == {review.ids[i] for i in review.order[:100]}  # has read them anew
    review.decide(decisions.EXCLUDE, [review.order[0]], "seen")


def test_a_selection_made_anew_is_looked_at_first(run):
    review = Review(run)
    settings = {"forget_fraction": 0.2, "seed": 0, "provenance": {}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))  # as `letgo select` does
    with pytest.raises(InputError, match="made anew"):
        review.decide(decisions.EXCLUDE, [review.order[0]], "blindly")
    review.decide(decisions.EXCLUDE, [review.order[0]], "seen")
    assert selected(run) == {review.ids[i] for i in review.order[1:40]}


def test_texts_without_a_score_cannot_be_forced(run):
    table = pq.read_table(run / "scores.parquet").to_pylist()
    table[5]["confidence"] = float("nan")
    schema = pq.read_schema(run / "scores.parquet")
    pq.write_table(decisions.pa.Table.from_pylist(table, schema), run / "scores.parquet")
    review = Review(run)
    with pytest.raises(InputError, match="no text to decide on"):
        review.decide(decisions.INCLUDE, [5], "odd")
    review.decide(decisions.INCLUDE, [4, 5], "one of two")
    assert decisions.read_actions(run)[0].ids == [review.ids[4]]


def test_a_journal_of_something_else_is_refused(run):
    (run / "review.jsonl").write_text('{"at": "x", "act": "exclude"}\nmine\n')
    with pytest.raises(InputError, match=r"review.jsonl line 2 is not a valid review entry"):
        Review(run)


@pytest.mark.parametrize("interval", [0, 4])
def test_training_takes_what_was_decided(chosen, tiny, data, tmp_path, monkeypatch, interval):
    """Exactly the selection without re-scoring; with it what nobody has kept out."""
    out = tmp_path / "out"
    shutil.copytree(chosen, out)
    review = Review(out)
    kept, forced = review.order[0], review.order[-1]
    review.decide(decisions.EXCLUDE, [kept], "keep one")
    review.decide(decisions.INCLUDE, [forced], "forget one")
    review.move(0.2)
    given = {}
    monkeypatch.setattr(third, "fit", lambda run, *rest: given.update(run=run, texts=rest[-1]))
    settings = SimpleNamespace(rescore_interval=interval, forget_fraction=0.5)
    run = Run(out, Config(None, settings, None), [], [], [], {}, None)
    third.train(run, tmp_path)
    texts = given["texts"]
    assert {review.ids[i] for i, row in enumerate(texts) if row["selected"]} == selected(out)
    assert [i for i, row in enumerate(texts) if row["forced"]] == [forced]
    allowed = {i for i, row in enumerate(texts) if row["allowed"]}
    assert len(allowed) == (len(texts) - 1 if interval else len(selected(out)))
    assert kept not in allowed
    assert given["run"].config.training.forget_fraction == 0.2
    assert settings.forget_fraction == 0.5


def test_a_review_of_a_trained_run_asks_for_another_training(chosen, tiny, data, tmp_path):
    """With nothing decided, inputs are what they were; a decision is noticed, and its undoing."""
    out = tmp_path / "out"
    shutil.copytree(chosen, out)
    assert letgo("train", "--output_dir", out)[0] == 0
    inputs = json.loads((out / "stages.json").read_text())["train"]["inputs"]
    assert "decisions" not in inputs
    review = Review(out)
    review.decide(decisions.EXCLUDE, [review.order[0]], "keep one")
    status, _, error = letgo("train", "--output_dir", out)
    assert status == 2
    assert "its lwf was made with decisions=None, now it is" in error
    assert "--overwrite" in error
    review.undo()
    status, _, error = letgo("train", "--output_dir", out)
    assert status == 0
    assert "train: done before, kept" in error
    review.decide(decisions.EXCLUDE, [review.order[0]], "keep one")
    status, _, error = letgo("train", "--output_dir", out, "--overwrite")
    assert status == 0, error
    card = (out / "lwf" / "README.md").read_text()
    assert f"{len(review.ids)} self-generated texts, {len(selected(out))} of them" in card
    assert f"re-scoring may choose among {len(review.ids) - 1} of them" in card


def test_selecting_again_keeps_what_people_decided(chosen, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(chosen, out)
    review = Review(out)
    review.decide(decisions.INCLUDE, review.order[-2:], "forget two")
    review.close()
    with (out / "review.jsonl").open("a") as journal:
        gone = decisions.Action("2026-01-01T00:00:00Z", decisions.EXCLUDE, ["gone:1"], None, "gone")
        journal.write(decisions.to_line(gone))
    words = ["--output_dir", out, "--forget_fraction", 0.2, "--overwrite"]
    status, _, error = letgo("select", *words)
    assert status == 0, error
    assert "decided in `letgo review` is kept: 2 texts (1 more are gone)" in error
    count = round(0.2 * len(review.ids))
    chosen_now = {review.ids[i] for i in [*review.order[:count], *review.order[-2:]]}
    assert selected(out) == chosen_now
    assert letgo("train", *words)[0] == 0


def test_a_decision_that_the_selection_lacks_is_named(chosen, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(chosen, out)
    act = decisions.Action("2026-01-01T00:00:00Z", decisions.EXCLUDE, ["talk:1"], None, "unseen")
    (out / "review.jsonl").write_text(decisions.to_line(act))
    status, _, error = letgo("train", "--output_dir", out)
    assert status == 2
    assert "selection.parquet lacks the last decision of review.jsonl" in error
    Review(out).close()
    assert letgo("train", "--output_dir", out)[0] == 0


def test_rescoring_never_drops_what_was_forced_nor_takes_what_was_kept():
    rows = [
        {"selected": i in (1, 2), "allowed": i != 0, "forced": i == 2, "confidence": float(9 - i)}
        for i in range(9)
    ]
    found = choose(Dataset.from_list(rows), 0.5, True)
    assert (found.indices, found.allowed, found.forced) == ([1, 2], list(range(1, 9)), [2])
    assert choose(Dataset.from_list(rows), 0.5, False).allowed == [1, 2]
    rows = [{**row, "selected": False} for row in rows]
    with pytest.raises(InputError, match="no text is selected"):
        choose(Dataset.from_list(rows), 0.5, True)


def test_a_forced_text_is_in_every_pool(tmp_path):
    """Also where the score has not looked at it, or would leave it out."""
    rows = [
        {**row, "selected": i < 2, "allowed": i != 3, "forced": i == 1, "confidence": 0.0}
        for i, row in enumerate(FORGET)
    ]
    trainer = unlearner(tmp_path, forget=rows, **EVERY, unlearning_interval=1)
    pools, draw = [], trainer.rescore.batches
    trainer.rescore.batches = lambda count: pools.append(trainer.tracker.pool) or draw(count)
    trainer.train()
    place = trainer.chosen.allowed.index(1)
    assert pools
    assert all(place in pool for pool in pools)
    assert len(trainer.rescore.rows) == len(FORGET) - 1
