"""STUDY.yaml, the grid it describes, and what `--plan` shows of it."""

import pytest
import yaml
from helpers.commands import letgo
from helpers.study import SETTINGS, synthetic, write_study

from letgo.study.estimate import expected_seconds
from letgo.study.plan import Cell, open_cell, read_study


def test_a_mixed_set_leaves_out_the_tasks_own_data(tmp_path):
    sets = {"mixed": ["a.jsonl", "b.jsonl"]}
    learn = {n: {"learn": f"{n}.jsonl", "learn_test": "t.jsonl"} for n in ("a", "b", "c")}
    file = tmp_path / "study.yaml"
    file.write_text(
        yaml.safe_dump({"learn": learn, "forget": sets, "methods": {"lwf": {}}, "seeds": [0]})
    )
    study = read_study(file)
    forget = {cell.task: study.flags(cell)["forget"] for cell in study.cells()}
    assert forget == {"a": ["b.jsonl"], "b": ["a.jsonl"], "c": ["a.jsonl", "b.jsonl"]}


def test_environment_variables_are_replaced_in_every_source(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_DATA", "/data")
    task = {"learn": "$MY_DATA/a.jsonl", "learn_test": "t.jsonl"}
    content = {
        "settings": {"keep": "$MY_DATA/k.jsonl", "margin": 3},
        "learn": {"a": task, "b": {**task, "keep": ["neutral", "$MY_DATA/b.jsonl"]}},
        "forget": {"f": "$MY_DATA/f.jsonl"},
        "methods": {"lwf": {}, "kept": {"settings": {"keep": "$MY_DATA/m.jsonl"}, "learn": ["a"]}},
        "seeds": [0],
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(content))
    study = read_study(file)
    flags = {(cell.task, cell.method): study.flags(cell) for cell in study.cells()}
    assert flags["a", "lwf"]["keep"] == "/data/k.jsonl"
    assert flags["b", "lwf"]["keep"] == ["neutral", "/data/b.jsonl"]
    assert flags["a", "kept"]["keep"] == "/data/m.jsonl"
    assert flags["a", "kept"]["learn"] == "/data/a.jsonl"
    assert flags["a", "kept"]["forget"] == ["/data/f.jsonl"]
    assert flags["a", "kept"]["margin"] == 3


def test_seeds_are_evaluated_on_the_same_part_of_the_test_set(tiny, data, tmp_path):
    settings = {"model": str(tiny), **SETTINGS, "max_learn": 5, "max_test": 3}
    file = write_study(tmp_path / "s.yaml", tiny, data, methods={"lwf": {}}, settings=settings)
    study = read_study(file)
    runs = [open_cell(study, cell) for cell in study.cells() if cell.forget == "mixed"]
    test, learn = (
        [[record.prompt for record in getattr(run, part)] for run in runs]
        for part in ("test", "learn")
    )
    assert test[0] == test[1]
    assert len(test[0]) == 3
    assert learn[0] != learn[1]


def test_the_plan_lists_runs_and_writes_nothing(tiny, data, tmp_path):
    file = write_study(tmp_path / "small.yaml", tiny, data)
    words = ("study", file, "--plan", "--output_dir", tmp_path / "out")
    status, out, error = letgo(*words)
    assert status == 0, error
    assert ["sums", "mixed", "lwf", "0", "1"] in map(str.split, out.splitlines())
    assert "3 runs, 0 done" in out
    assert "unknown until a first run is done" in out
    assert not (tmp_path / "out").exists()
    synthetic(tmp_path / "out", read_study(file))
    (tmp_path / "out" / "cells" / "sums--mixed--lwf--1.json").unlink()
    out = letgo(*words, "--jobs", 2)[1]
    assert ["sums", "mixed", "lwf", "1", "0"] in map(str.split, out.splitlines())
    assert "time for 1 runs: about 1 minutes" in out


def test_time_is_that_of_similar_finished_runs():
    """The median of task and method, else of the task, else the mean of all."""
    taken = {
        Cell("a", "x", "lwf", 0): 10.0,
        Cell("a", "x", "lwf", 1): 20.0,
        Cell("a", "x", "lwf", 2): 90.0,
        Cell("a", "x", "other", 0): 40.0,
    }
    assert expected_seconds([Cell("a", "y", "lwf", 3)], taken) == 20.0
    assert expected_seconds([Cell("a", "x", "new", 0)], taken) == 30.0
    assert expected_seconds([Cell("b", "x", "lwf", 0)] * 2, taken) == 80.0
    assert expected_seconds([Cell("b", "x", "lwf", 0)], {}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {}}, "methods is missing"),
        ({"learn": {"sums": {"learn": "a.jsonl"}}}, "needs learn and learn_test"),
        ({"grid": {}}, "unknown key 'grid'"),
        ({"seeds": 3}, "seeds must be a list"),
        ({"methods": {"sft": {}}}, "cannot be called sft"),
        ({"methods": {"a--b": {}}}, "without / and --"),
        ({"methods": {"lwf": {"forgot": []}}}, "unknown key 'forgot'"),
        ({"methods": {"lwf": {"forget": ["none"]}}}, "names forget 'none'"),
        ({"claims": {"c": {"method": "lwf"}}}, "claim c needs"),
        ({"methods": {"lwf": {"settings": {"nonsense": 1}}}}, "unknown setting 'nonsense'"),
        ({"forget": {"mixed": "nowhere.jsonl"}, "methods": {"lwf": {}}}, "nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_line(tiny, data, tmp_path, changes, message):
    file = write_study(tmp_path / "s.yaml", tiny, data, **{"claims": {}, **changes})
    status, _, error = letgo("study", file, "--output_dir", tmp_path / "out")
    assert status == 2
    *before, line = error.strip().splitlines()
    assert message in line
    assert all("records of" in form for form in before)  # the forms of the data
    assert not (tmp_path / "out").exists()
