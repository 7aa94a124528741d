"""The three outcomes of a study, learned, let go and kept, and the verdict that weighs them."""

import copy
import json

import numpy as np
import pytest
from helpers.study import answers, held_out

from letgo.evaluation.effects import effect, holm
from letgo.run.folder import write_json
from letgo.stages.evaluate import compare
from letgo.study.check import check
from letgo.study.comparisons import returned
from letgo.study.markdown import page
from letgo.study.plan import read_study
from letgo.study.results import write_results

STUDY = """
learn: {a: {learn: l, learn_test: t}}
forget: {x: f, y: g}
methods: {lwf: {}}
seeds: [0, 1, 2]
"""
# By seed and prompt: who still gives the old answer, and how far is the model from the base model.
OLD = {"sft": np.ones((3, 8)), "lwf": np.array([[1, 0] * 4, [0] * 8, [1, 1, 0, 0] * 2])}
KL = {"sft": np.full((3, 5), 0.2), "lwf": 0.2 + 0.01 * np.arange(15).reshape(3, 5)}


def models(seed):
    """The answers of one run: learned equally, let go more, kept less."""
    result = {}
    for model in ("base", "sft", "lwf"):
        result[model] = {"learn": answers([1, 0, 1, 0], [0.5, 1.5, 0.5, 1.0 + 0.1 * seed])}
        if model != "base":
            old, kl = OLD[model][seed].tolist(), KL[model][seed].tolist()
            result[model] |= {"forget:f": held_out(old[:6]), "forget:g": held_out(old[6:])}
            result[model]["keep:neutral"] = held_out([1] * 5, kl)
    return result


def write(root, change=lambda cell, models: models):
    """A folder with the study and the files of its finished cells."""
    (root / "study.yaml").write_text(STUDY)
    study = read_study(root / "study.yaml")
    losses = [[1, 2, 3], [2.0, 1.0, 0.5]]
    for cell in study.cells():
        content = {
            "seconds": {"train": 60.0},
            "answers": change(cell, models(cell.seed)),
            "rescored": [],
            "curves": {"sft": losses, "method": losses},
        }
        write_json(root / "cells" / f"{cell.name}.json", content)
    return study


@pytest.fixture
def root(tmp_path):
    (tmp_path / "cells").mkdir()
    return tmp_path


def test_let_go_and_kept_are_differences_over_seeds_and_prompts(root):
    results = write_results(root, write(root), {})
    assert check(root / "results.json") == 6
    rows = results["effects"]
    for row in rows:
        outcomes = row["outcomes"]
        assert outcomes["learned"] == row["accuracy"]
        assert outcomes["let_go"]["difference"] == pytest.approx(-16 / 24)
        assert outcomes["kept"]["difference"] == pytest.approx(0.07)
        for name, values in (("let_go", OLD), ("kept", KL)):
            expected = effect(values["lwf"], values["sft"])
            assert outcomes[name]["ci95"] == pytest.approx(expected["ci95"])
            assert (outcomes[name]["seeds"], outcomes[name]["n"]) == values["sft"].shape
    for name in ("let_go", "kept"):
        corrected = holm([row["outcomes"][name]["p_value"] for row in rows])
        assert [r["outcomes"][name]["p_holm"] for r in rows] == pytest.approx(corrected)
    text = (root / "results.md").read_text()
    assert "## Learned, let go, kept" in text
    assert "| a | x | lwf | +0.0 [" in text
    assert "| -66.7 [" in text
    assert "| +0.0700 [" in text
    assert "| 4 / 8 / 5 | 3 |" in text


def test_runs_of_an_earlier_letgo_have_no_outcomes(root):
    def without(cell, models):
        if (cell.forget, cell.seed) == ("x", 1):  # one run is enough: all seeds are compared
            old = {"forget:f": answers([1, 0], [0.5, 0.5])}
            models = {m: {"learn": sets["learn"], **old} for m, sets in models.items()}
        return models

    results = write_results(root, write(root, without), {})
    by_set = {row["forget"]: row for row in results["effects"]}
    assert ["outcomes" in by_set[name] for name in ("x", "y")] == [False, True]
    assert page(results).count("| a | x | lwf |") == 3  # not in the table of outcomes
    nowhere = write_results(
        root, write(root, lambda _, m: {k: {"learn": v["learn"]} for k, v in m.items()}), {}
    )
    assert "Learned, let go, kept" not in page(nowhere)


def test_a_run_without_keep_prompts_has_two_outcomes(root):
    def without(cell, models):
        for sets in models.values():
            sets.pop("keep:neutral", None)
        return models

    results = write_results(root, write(root, without), {})
    assert set(results["effects"][0]["outcomes"]) == {"learned", "let_go"}
    assert "| - | - | 4 / 8 / - | 3 |" in (root / "results.md").read_text()


def test_only_prompts_that_all_seeds_measured_count(root):
    def change(cell, models):
        if cell.seed == 2:
            models["lwf"]["keep:neutral"]["kl"][4] = None  # not a finite number
            for model in ("sft", "lwf"):  # one of these prompts is a learning prompt of this seed
                columns = models[model]["forget:f"]
                models[model]["forget:f"] = {name: values[1:] for name, values in columns.items()}
        return models

    row, *_ = write_results(root, write(root, change), {})["effects"]
    assert (row["outcomes"]["let_go"]["n"], row["outcomes"]["kept"]["n"]) == (7, 4)
    differences = OLD["lwf"][:, 1:] - OLD["sft"][:, 1:]
    assert row["outcomes"]["let_go"]["difference"] == pytest.approx(differences.mean())


def validation(learned, old, kl):
    """Answers of SFT and LWF to the validation prompts: values of LWF, SFT's are all 1."""
    sets = {
        model: {
            "validation": answers(right, [1.0] * len(right)),
            "validation:forget:f": held_out(says),
            "validation:keep:neutral": held_out([1] * len(far), far),
        }
        for model, right, says, far in (
            ("sft", [1] * 200, [1] * 40, [1.0] * 30),
            ("lwf", learned, old, kl),
        )
    }
    return sets


SAME, GONE = [1] * 200, [0] * 40
CLOSE, FAR = [1.0 + 0.002 * (i % 3) for i in range(30)], [1.0 + 0.02 * (i % 3) for i in range(30)]


@pytest.mark.parametrize(
    ("sets", "margin", "expected"),
    [
        (validation(SAME, GONE, CLOSE), 2.0, "lwf"),
        (validation(SAME, [1] * 40, CLOSE), 2.0, "sft"),
        (validation(SAME, GONE, FAR), 2.0, "sft"),
        (validation(SAME, GONE, FAR), 5.0, "lwf"),
        (validation([0] * 20 + [1] * 180, GONE, CLOSE), 2.0, "sft"),
        (validation([0] * 20 + [1] * 180, GONE, CLOSE), 20.0, "lwf"),
    ],
)
def test_the_verdict_is_that_of_the_run(sets, margin, expected):
    """Also by `metrics.json` of the same answers."""
    assert returned(sets, margin) == expected
    rows = [
        {"model": model, "set": name, "id": id, "correct": None, "reference_nll": 1.0}
        | {metric: values[i] for metric, values in columns.items() if metric != "ids"}
        for model, of_model in sets.items()
        for name, columns in of_model.items()
        for i, id in enumerate(columns["ids"])
    ]
    rows += [
        {**row, "set": "neutral", "correct": None, "reference_nll": 1.0}
        for row in (rows[0], rows[-1])
    ]
    assert compare(rows, margin)["verdict"] == expected


def test_the_verdict_of_one_run_needs_no_held_out_prompts():
    """As runs of an earlier letgo decided; a NLL that was not finite is left out."""
    sets = {m: {"validation": s["validation"]} for m, s in validation(SAME, GONE, CLOSE).items()}
    assert returned(sets, 2.0) == "sft"
    likelier = copy.deepcopy(sets)
    likelier["lwf"]["validation"]["reference_nll"] = [0.8 + 0.001 * i for i in range(200)]
    likelier["lwf"]["validation"]["reference_nll"][3] = None
    assert returned(likelier, 2.0) == "lwf"
    for model in likelier:
        likelier[model]["validation"]["reference_nll"] = [None] * 200
    assert returned(likelier, 2.0) == "sft"
    assert returned({"lwf": sets["lwf"]}, 2.0) is None


def test_the_margin_is_a_setting_of_the_study(root):
    sets = validation(SAME, GONE, FAR)
    study = write(root, lambda cell, m: {k: {**v, **sets.get(k, {})} for k, v in m.items()})
    assert write_results(root, study, {})["effects"][0]["returned_lwf"] == 0
    (root / "study.yaml").write_text(f"settings: {{margin: 5}}\n{STUDY}")
    study = read_study(root / "study.yaml")
    assert write_results(root, study, {})["effects"][0]["returned_lwf"] == 3
    assert check(root / "results.json") == 6
    assert json.loads((root / "results.json").read_text())["study"]["settings"] == {"margin": 5}


def test_real_runs_have_outcomes_and_their_own_verdicts(finished_study):
    results = json.loads((finished_study[0] / "results.json").read_text())
    (row,) = results["effects"]
    assert set(row["outcomes"]) == {"learned", "let_go", "kept"}
    cells = {name: cell for name, cell in results["cells"].items() if cell["status"] == "done"}
    for name, cell in cells.items():
        metrics = json.loads((finished_study[0] / "cells" / name / "metrics.json").read_text())
        assert cell["returned"] == metrics["verdict"]
        assert set(metrics["outcomes"]) == set(row["outcomes"])
