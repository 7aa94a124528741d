"""`letgo study --check`: a wrong file is reported in one line."""

import json
import shutil

import pytest
from helpers.commands import letgo


def test_one_wrong_digit_is_found(finished_study, tmp_path):
    root = tmp_path / "out"
    shutil.copytree(finished_study[0], root)
    file = root / "results.json"
    assert "every figure is that of its 2 runs" in letgo("study", "--check", file)[1]
    results = json.loads(file.read_text())
    results["claims"]["mixed_vs_sft"]["tasks"]["sums"]["ci95"][1] += 1e-6
    file.write_text(json.dumps(results))
    status, _, error = letgo("study", "--check", file)
    assert status == 2
    assert "claims.mixed_vs_sft.tasks.sums.ci95[1]" in error


def change_setting(text):
    results = json.loads(text)
    results["study"]["settings"]["learning_rate"] *= 2
    return json.dumps(results)


def remove_names(text):
    """A cell file as letgo wrote it before metrics had names."""
    cell = json.loads(text)
    for sets in cell["answers"].values():
        for name, columns in sets.items():
            rows = zip(columns["correct"], columns["reference_nll"], strict=True)
            sets[name] = dict(zip(columns["ids"], rows, strict=True))
    return json.dumps(cell)


CELL = "cells/sums--mixed--lwf--0.json"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("results.json", change_setting, "study.settings.learning_rate"),
        ("results.md", lambda text: text.replace("2 of 3 runs", "3 of 3 runs"), "does not match"),
        (CELL, lambda text: text[:-100], "is damaged"),
        (CELL, lambda text: "{}", "cells has a file that letgo did not write"),
        (CELL, remove_names, "convert the files by `python studies/convert_cells.py "),
        ("study.yaml", lambda text: "seeds: 3", "seeds must be a list"),
    ],
)
def test_whatever_does_not_match_is_one_line(finished_study, tmp_path, name, change, message):
    root = tmp_path / "out"
    shutil.copytree(finished_study[0], root)
    (root / name).write_text(change((root / name).read_text()))
    status, _, error = letgo("study", "--check", root / "results.json")
    assert (status, len(error.strip().splitlines())) == (2, 1)
    assert message in error
