"""Results are computed from the files of finished cells, whatever wrote them."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.study import answers, synthetic, write_study

from letgo.errors import InputError
from letgo.evaluation.effects import holm
from letgo.run.folder import write_json
from letgo.study.cells import write_cell
from letgo.study.check import check
from letgo.study.markdown import page
from letgo.study.mechanism import mechanism
from letgo.study.plan import Cell, read_study
from letgo.study.results import write_results

SUMS = {"learn": "x.jsonl", "learn_test": "y.jsonl"}


def test_forgotten_accuracy_and_the_returned_model(finished_study, tmp_path):
    shutil.copytree(finished_study[0], tmp_path / "out")
    study = read_study(tmp_path / "out" / "study.yaml")
    files = sorted((tmp_path / "out" / "cells").glob("sums--mixed--lwf--*.json"))
    for number, file in enumerate(files):
        cell = json.loads(file.read_text())
        models = cell["answers"]
        for model, correct in (("sft", 0), ("lwf", 1)):  # the method is right everywhere, ...
            n = len(models[model]["learn"]["ids"])
            models[model]["learn"]["correct"] = [correct] * n
        gain = int(number == 0)  # ... but only the first seed's validation set shows it
        for model, correct in (("sft", 0), ("lwf", gain)):
            models[model]["validation"] = answers([correct] * 12, [1.0] * 12)
        models["base"]["forget:letters"] = answers([1, 0], [0.5, 0.5])
        file.write_text(json.dumps(cell))
    results = write_results(tmp_path / "out", study, {})
    returned = [results["cells"][file.stem]["returned"] for file in files]
    assert returned == ["lwf", "sft"]
    claims = {
        name: claim["tasks"]["sums"]["difference"] for name, claim in results["claims"].items()
    }
    assert claims == {"mixed_vs_sft": 1.0, "returned_vs_sft": 0.5}
    row = next(row for row in results["effects"] if row["method"] == "lwf")
    assert row["returned_lwf"] == 1
    assert row["forgotten"]["accuracy"]["base"] == 0.5
    perplexity = row["forgotten"]["perplexity"]
    assert set(perplexity) == {"base", "sft", "lwf"}
    assert all(value > 1 for value in perplexity.values())
    assert "0.500 > " in (tmp_path / "out" / "results.md").read_text()


def test_the_mechanism_compares_the_same_batches():
    """The first step is where losses first differ; the prediction is cosine x gradient x length."""
    sft = [2.0, 1.5, 1.2, 1.0]
    line = {"step": 3, "helpful": 0.5, "confidence": 0.1, "learning_norm": 2.0, "update": 0.03}
    nothing = {**line, "helpful": 0.0, "confidence": None, "update": 0.0}
    cells = [
        {
            "curves": {"sft": [[1, 2, 3, 4], sft], "method": [[1, 2, 3, 4], [2.0, 1.5, *late]]},
            "rescored": rescored,
        }
        for late, rescored in (([1.3, 1.2], [line, nothing]), ([1.4, 1.0], [line]))
    ]
    result = mechanism(cells)
    assert result["first_step"]["difference"] == pytest.approx(0.15)
    assert result["learning_loss"]["difference"] == pytest.approx((0.15 + 0.1) / 2)
    assert result["promise"] == pytest.approx(0.1 * 2.0 * 0.03)
    assert result["helpful"] == pytest.approx(1 / 3)
    for keep, expected in ((3, 0.15), (2, None)):  # learning steps before the first keep step
        result = mechanism([{**cell, "first_keep": keep} for cell in cells])
        assert (result["first_step"] or {}).get("difference") == pytest.approx(expected)
        assert result["learning_loss"]["difference"] == pytest.approx((0.15 + 0.1) / 2)
    same = [{"curves": {"sft": [[1], [2.0]], "method": [[1], [2.0]]}, "rescored": []}]
    assert set(mechanism(same).values()) == {None}


def test_effects_and_claims_follow_from_the_answers(tiny, data, tmp_path):
    file = write_study(
        tmp_path / "s.yaml",
        tiny,
        data,
        learn={"a": SUMS, "b": SUMS},
        methods={
            "lwf": {"forget": ["mixed"]},
            "lwf_too": {"forget": ["talk"]},
            "control": {"forget": ["mixed"], "settings": {"unlearning_interval": 2}},
        },
        seeds=[0, 1, 2, 3, 4],
        claims={
            "mixed_vs_sft": {"method": "lwf", "baseline": "sft", "forget": "mixed"},
            "against_control": {"method": "lwf", "baseline": "control", "forget": "mixed"},
        },
    )
    study = read_study(file)
    synthetic(tmp_path, study)
    shutil.copyfile(file, tmp_path / "study.yaml")
    results = write_results(tmp_path, study, {})
    assert check(tmp_path / "results.json") == len(study.cells())
    effects = {(r["task"], r["forget"], r["method"]): r["accuracy"] for r in results["effects"]}
    assert len(effects) == 6
    p_holm = {key: effect["p_holm"] for key, effect in effects.items()}
    assert p_holm["b", "mixed", "lwf"] < 0.05 < p_holm["b", "mixed", "control"]
    for name in ("mixed_vs_sft", "against_control"):
        tasks = results["claims"][name]["tasks"]
        assert tasks["a"]["ci95"][0] < 0 < tasks["b"]["ci95"][0]
        mean = np.mean([tasks["a"]["relative"], tasks["b"]["relative"]])
        assert results["claims"][name]["mean_relative"] == pytest.approx(mean)
    drawn = {file.name for file in tmp_path.glob("heatmap-*")}
    assert drawn == {"heatmap-lwf.png"}  # with `lwf_too`, which has the same settings
    assert (tmp_path / "curves.png").exists()
    changed = tmp_path / "cells" / "b--mixed--lwf--0.json"
    changed.write_text(changed.read_text().replace('"199"', '"200"'))
    with pytest.raises(InputError, match="evaluated on different examples; set learn_test"):
        write_results(tmp_path, study, {})


def test_a_task_with_scores_is_compared_by_them(tiny, data, tmp_path):
    """The scores of task b are half of what its right answers were: so are its differences."""
    claim = {"method": "lwf", "baseline": "sft", "forget": "mixed"}
    file = write_study(
        tmp_path / "s.yaml",
        tiny,
        data,
        learn={"a": SUMS, "b": SUMS},
        methods={"lwf": {"forget": ["mixed"]}},
        claims={"gain": claim},
    )
    study = read_study(file)
    synthetic(tmp_path, study)
    before = write_results(tmp_path, study, {})
    for cell in (tmp_path / "cells").glob("b--*.json"):
        content = json.loads(cell.read_text())
        for sets in content["answers"].values():
            columns = sets["learn"]
            columns["score"] = [0.5 * value for value in columns["correct"]]
            columns["correct"] = [None] * len(columns["ids"])
        cell.write_text(json.dumps(content))
    after = write_results(tmp_path, study, {})
    rows = {row["task"]: row for row in after["effects"]}
    assert "accuracy" not in rows["b"]
    assert "score" not in rows["a"]
    whole = next(row for row in before["effects"] if row["task"] == "b")["accuracy"]
    assert rows["b"]["score"]["difference"] == pytest.approx(whole["difference"] / 2)
    assert rows["b"]["score"]["p_value"] == pytest.approx(whole["p_value"])
    gained = after["claims"]["gain"]["tasks"]["b"]["difference"]
    assert gained == pytest.approx(whole["difference"] / 2)
    done = after["cells"]["b--mixed--lwf--0"]["sets"]["learn"]["lwf"]
    assert set(done) == {"score", "n", "ci95", "reference_nll"}
    text = page(after)
    assert "Accuracy or score in points" in text
    assert "p (Holm) of accuracy or score" in text


def test_a_method_is_compared_with_the_sft_of_its_own_settings(tiny, data, tmp_path):
    """P-values of comparisons with the same settings are corrected together."""
    file = write_study(
        tmp_path / "s.yaml",
        tiny,
        data,
        learn={"a": SUMS, "b": SUMS},
        claims={},
        methods={
            "lwf": {"forget": ["mixed"]},
            "lwf_too": {"forget": ["talk"]},
            "longer": {"forget": ["mixed"], "settings": {"num_train_epochs": 9}},
            "bss": {"forget": ["mixed"], "settings": {"unlearning_interval": 0}},
        },
        seeds=[0, 1, 2],
    )
    study = read_study(file)
    synthetic(tmp_path, study)
    for file in (tmp_path / "cells").glob("*.json"):
        cell = json.loads(file.read_text())
        if "longer" in file.name:  # longer SFT is right everywhere, and so is the method
            for model in ("sft", "lwf"):
                cell["answers"][model]["learn"] = answers([1] * 200, [0.1] * 200)
        cell["answers"]["lwf"]["neutral"] = answers([None], [None])  # the NLL of a ruined model
        cell["curves"]["method"] = [[1, 2, 3], [2.0, 1.5, 0.5]]
        file.write_text(json.dumps(cell))
    effects = {
        tuple(row[key] for key in ("task", "forget", "method")): row
        for row in write_results(tmp_path, study, {})["effects"]
    }
    assert effects["a", "mixed", "longer"]["accuracy"]["difference"] == 0
    family = [
        effects[task, forget, method]["accuracy"]
        for task in ("a", "b")
        for forget, method in (("mixed", "lwf"), ("talk", "lwf_too"))
    ]
    corrected = holm([row["p_value"] for row in family])
    assert [row["p_holm"] for row in family] == pytest.approx(corrected)
    assert effects["a", "mixed", "lwf"]["mechanism"]["first_step"]["difference"] == 0.5
    assert effects["a", "mixed", "bss"]["mechanism"]["first_step"] is None


def test_every_numeric_column_of_the_answers_is_a_metric(tmp_path):
    """A metric that the study has never heard of gets its effects, corrected, and a column."""
    folder = tmp_path / "cells" / "a--x--lwf--0"
    (folder / "probe").mkdir(parents=True)
    rows = [
        {
            "model": model,
            "set": "learn",
            "id": str(i),
            "generated": "text",
            "correct": i % 2 == 0,
            "reference_nll": np.nan if i == 3 else 1 / 3,
            "rouge": 0.1 * i + 0.5 * (model == "lwf"),
        }
        for model in ("base", "sft", "lwf")
        for i in range(8)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "answers.parquet")
    (folder / "config.yaml").write_text("provenance: {}")
    log = [
        {"step": 3, "loss": 1.0},
        {"step": 4, "unlearn/nll": 2.0, "unlearn/steps": 1},
        {"step": 6, "keep/loss": 0.1, "unlearn/steps": 1, "keep/steps": 1},
    ]
    (folder / "train_log.jsonl").write_text("\n".join(map(json.dumps, log)))
    write_json(folder / "stages.json", {})
    write_cell(tmp_path, Cell("a", "x", "lwf", 0))
    cell = json.loads(folder.with_suffix(".json").read_text())
    assert cell["first_keep"] == 4
    columns = cell["answers"]["sft"]["learn"]
    assert list(columns) == ["ids", "correct", "reference_nll", "rouge"]
    assert columns["correct"][:2] == [1, 0]
    assert columns["reference_nll"][2:4] == [0.33333, None]
    file = tmp_path / "study.yaml"
    file.write_text(
        "learn: {a: {learn: l, learn_test: t}}\nforget: {x: f}\nmethods: {lwf: {}}\nseeds: [0]"
    )
    results = write_results(tmp_path, read_study(file), {})
    (row,) = results["effects"]
    assert row["rouge"]["difference"] == pytest.approx(0.5)
    assert "p_holm" in row["rouge"]
    assert row["reference_nll"]["n"] == 7
    means = results["cells"]["a--x--lwf--0"]["sets"]["learn"]
    assert means["lwf"]["rouge"] - means["sft"]["rouge"] == pytest.approx(0.5)
    assert "| NLL of right answers | rouge |" in page(results)
    assert check(tmp_path / "results.json") == 1
