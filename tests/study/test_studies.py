"""The claims of studies/README.md follow from the studies' results, and its scripts work."""

import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from letgo.study.check import check
from letgo.study.markdown import page

STUDIES = Path(__file__).parents[2] / "studies"
RESULTS = sorted(STUDIES.glob("*/results.json"))
# A difference with its interval: +1.2 [-0.3, +2.7], or +3.4 % [-0.9, +7.7]
CLAIMED = re.compile(r"[+-]\d+\.\d+(?: %)? \[[+-]\d+\.\d+, [+-]\d+\.\d+\]")


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.parent.name)
def test_results_follow_from_the_runs(file):
    check(file)
    assert file.with_suffix(".md").read_text() == page(json.loads(file.read_text()))


def test_every_claimed_interval_is_in_some_results():
    """Every difference with an interval, in the README's sections on the studies and rank.py."""
    text = (STUDIES / "README.md").read_text().split("\n## doses.py")[0]
    claimed = CLAIMED.findall(" ".join(text.split()))  # also across line ends
    pages = [page(json.loads(file.read_text())) for file in RESULTS]
    ranked = json.loads((STUDIES / "rank.json").read_text())["tasks"].values()
    for effect in (one["accuracy"] for task in ranked for one in task["sets"].values()):
        low, high = effect["ci95"]
        pages.append(f"{100 * effect['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
    assert claimed
    assert [claim for claim in claimed if claim not in "\n".join(pages)] == []


def test_the_promise_of_a_forgetting_set(monkeypatch, tmp_path):
    """The mean of the top half, where negative cosines count as 0."""
    monkeypatch.syspath_prepend(str(STUDIES))
    from rank import rank

    scores = {"good": [0.4, 0.2, 0.1, -0.3], "bad": [0.1, -0.2, -0.3, -0.4]}
    rows = [
        {"forget_set": name, "confidence": value}
        for name, values in scores.items()
        for value in values
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "scores.parquet")
    ranked = rank(tmp_path / "scores.parquet", 0.5)
    assert [one.name for one in ranked] == ["good", "bad"]
    assert [one.promise for one in ranked] == pytest.approx([0.3, 0.05])
    assert [one.helpful for one in ranked] == [0.75, 0.25]


def test_agreement_of_a_ranking(monkeypatch):
    """Spearman's correlation; its interval is wide if those of the differences are."""
    monkeypatch.syspath_prepend(str(STUDIES))
    from rank import agreement

    def sets(spread):
        return {
            str(i): {
                "promise": i / 10,
                "promise_ci95": [i / 10, i / 10],
                "nll": {"difference": -i * i, "ci95": [-i * i - spread, -i * i + spread]},
            }
            for i in range(6)
        }

    sure, unsure = (agreement(sets(spread), "nll", -1) for spread in (0.0, 100.0))
    assert sure["rho"] == pytest.approx(1)
    assert sure["ci95"] == pytest.approx([1, 1])
    assert sure["p_value"] == pytest.approx(2 / 720)  # of all orders, this one and its reverse
    assert unsure["ci95"][0] < 0 < unsure["ci95"][1]


def test_steps_evaluates_after_learning_steps(monkeypatch):
    """Before training and after every tenth learning step, and an unlearning step that follows."""
    monkeypatch.syspath_prepend(str(STUDIES))
    import steps

    from letgo.unlearning.schedule import unlearning_steps

    evaluated_at = []
    monkeypatch.setattr(
        steps.Evaluation,
        "_evaluate",
        lambda self, learned, args, at: evaluated_at.append((learned, now)),
    )
    for interval, expected in (
        (0, [(0, 0), (10, 10), (20, 20)]),
        (4, [(0, 0), (10, 12), (20, 25)]),  # the 20th is followed by an unlearning step
    ):
        evaluated_at.clear()
        is_unlearning, now = unlearning_steps("periodic", 20, interval, 0), 0
        evaluation = steps.Evaluation([], is_unlearning)
        evaluation.on_train_begin(None, None, None)
        for now in range(1, len(is_unlearning) + 1):
            evaluation.on_step_end(None, SimpleNamespace(global_step=now), None)
        assert evaluated_at == expected


@pytest.mark.parametrize("script", sorted(file.stem for file in STUDIES.glob("*.py")))
def test_scripts_can_be_imported(script, monkeypatch):
    """The interfaces that they import from letgo exist."""
    monkeypatch.syspath_prepend(str(STUDIES))
    assert importlib.import_module(script).main


def test_committed_cells_are_converted():
    for file in STUDIES.glob("*/cells/*.json"):
        sets = json.loads(file.read_text())["answers"].values()
        for answers in (one for by_name in sets for one in by_name.values()):
            assert list(answers) == ["ids", "correct", "reference_nll"]
            assert len({len(column) for column in answers.values()}) == 1


def test_unnamed_metrics_of_cells_get_names(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(STUDIES))
    import convert_cells

    old = {"answers": {"sft": {"learn": {"a": [1, 0.5], "b": [0, None]}}}, "seconds": {"train": 1}}
    new = {"ids": ["a", "b"], "correct": [1, 0], "reference_nll": [0.5, None]}
    (tmp_path / "cell.json").write_text(json.dumps(old))
    monkeypatch.setattr(sys, "argv", ["convert_cells.py", str(tmp_path)])
    for _ in range(2):  # the second time there is nothing to convert
        convert_cells.main()
        cell = json.loads((tmp_path / "cell.json").read_text())
        assert cell == {**old, "answers": {"sft": {"learn": new}}}
