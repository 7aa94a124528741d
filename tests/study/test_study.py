"""`letgo study`: grids of runs on a tiny model, and results from their files."""

import json
import shutil
import signal

import numpy as np
import pytest
import yaml
from helpers.commands import letgo

from letgo.errors import InputError
from letgo.models.loading import device_name
from letgo.run.folder import write_json
from letgo.run.provenance import versions
from letgo.study.command import check, write_results
from letgo.study.effects import holm
from letgo.study.estimate import open_cell
from letgo.study.mechanism import mechanism
from letgo.study.plan import read_study
from letgo.study.results import made_with
from letgo.study.runner import Runner, finish, start

SETTINGS = {
    "per_device_train_batch_size": 4,
    "num_train_epochs": 1,
    "learning_rate": 1e-3,
    "bf16": False,
    "max_new_tokens": 4,
    "unlearning_interval": 2,
    "generation_batch_size": 8,
    "gradient_checkpointing": False,
    "rescore_interval": 0,
}


def write_study(file, tiny, data, **changes):
    """STUDY.yaml of a small grid with a method that breaks."""
    sums = {"learn": str(data / "learn.jsonl"), "learn_test": str(data / "heldout.jsonl")}
    study = {
        "settings": {"model": str(tiny), **SETTINGS},
        "learn": {"sums": sums},
        "forget": {
            "talk": "$LETGO_TALK",
            "mixed": [str(data / "talk.jsonl"), str(data / "letters")],
        },
        "methods": {
            "lwf": {"forget": ["mixed"]},
            "broken": {
                "settings": {"learning_rate": 1e30, "max_grad_norm": 0},
                "forget": ["talk"],
                "seeds": [0],
            },
        },
        "seeds": [0, 1],
        "claims": {
            "mixed_vs_sft": {"method": "lwf", "baseline": "sft", "forget": "mixed"},
            "returned_vs_sft": {
                "method": "lwf",
                "baseline": "sft",
                "forget": "mixed",
                "returned": True,
            },
        },
        **changes,
    }
    file.write_text(yaml.safe_dump(study))
    return file


@pytest.fixture(scope="module", autouse=True)
def talk(data):
    """Where one of the forgetting sets is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LETGO_TALK", str(data / "talk.jsonl"))
        yield


@pytest.fixture(scope="module")
def finished(tiny, data, tmp_path_factory):
    """A study that ran to its end, and what it printed."""
    folder = tmp_path_factory.mktemp("study")
    file = write_study(folder / "small.yaml", tiny, data)
    status, out, error = letgo("study", file, "--output_dir", folder / "out", "--jobs", 2)
    assert status == 2
    assert "1 of 3 runs failed, first sums--talk--broken--0" in error
    return folder / "out", out, error


def figures(root):
    results = json.loads((root / "results.json").read_text())
    return {key: results[key] for key in ("cells", "effects", "claims", "made_with")}


def test_a_broken_cell_is_reported_and_stops_no_other(finished):
    root, out, error = finished
    cells = figures(root)["cells"]
    assert sorted(cell["status"] for cell in cells.values()) == ["done", "done", "failed"]
    assert "learning loss is" in cells["sums--talk--broken--0"]["error"]
    assert "sums--talk--broken--0 failed: letgo: " in error
    assert "## mixed_vs_sft" in out
    assert "sums--talk--broken--0: letgo" in (root / "results.md").read_text()
    assert (root / "forest.png").stat().st_size > 5000
    tasks = figures(root)["claims"]["mixed_vs_sft"]["tasks"]
    assert (tasks["sums"]["seeds"], tasks["sums"]["n"]) == (2, 6)


def test_runs_share_what_they_can_and_leave_no_models(finished):
    root, *_ = finished
    shared = sorted(
        file.name.split("-")[0] for file in (root / "shared").iterdir() if file.is_dir()
    )
    assert shared.count("elicit") == 2  # of either forgetting set once, for both seeds
    assert shared.count("score") == 2  # for either seed
    cell = root / "cells" / "sums--mixed--lwf--0"
    assert (cell / "report.html").exists()
    assert not (cell / "model").exists()


def test_results_say_what_runs_were_made_with(finished):
    """As runs' files do, with the fingerprints of their data; of older files it is unknown."""
    root, *_ = finished
    (one, other) = (
        json.loads(file.read_text())["provenance"] for file in root.glob("cells/*.json")
    )
    assert one["data"]["learn_test"] == other["data"]["learn_test"]
    assert one["model"] == other["model"]
    here = {"device": device_name(), "versions": versions()}
    assert figures(root)["made_with"] == [{**here, "runs": 2}]
    assert f"torch {versions()['torch']}" in (root / "results.md").read_text()
    assert made_with([here, {}, {}]) == [
        {"device": None, "versions": {}, "runs": 2},
        {**here, "runs": 1},
    ]


def test_what_was_forgotten_and_returned(finished, tmp_path):
    """By the answers: what is left of forgetting sets, and which model the validation set kept."""
    shutil.copytree(finished[0], tmp_path / "out")
    study = read_study(tmp_path / "out" / "study.yaml")
    files = sorted((tmp_path / "out" / "cells").glob("sums--mixed--lwf--*.json"))
    for number, file in enumerate(files):
        cell = json.loads(file.read_text())
        answers = cell["answers"]
        for model, right in (("sft", 0), ("lwf", 1)):  # the method is right everywhere, ...
            answers[model]["learn"] = {
                i: [right, nll] for i, (_, nll) in answers[model]["learn"].items()
            }
        gains = int(number == 0)  # ... and the validation set of the first seed alone knows it
        for model, right in (("sft", 0), ("lwf", gains)):
            answers[model]["validation"] = {str(i): [right, 1.0] for i in range(12)}
        answers["base"]["forget:letters"] = {"a": [1, 0.5], "b": [0, 0.5]}
        file.write_text(json.dumps(cell))
    results = write_results(tmp_path / "out", study, {})
    kept = [results["cells"][file.stem]["returned"] for file in files]
    assert kept == ["lwf", "sft"]
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


def test_why_is_told_by_the_same_batches():
    """The first step is where the loss first differs; a promise is cosine x gradient x length."""
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
    found = mechanism(cells)
    assert found["first_step"]["difference"] == pytest.approx(0.15)
    assert found["learning_loss"]["difference"] == pytest.approx((0.15 + 0.1) / 2)
    assert found["promise"] == pytest.approx(0.1 * 2.0 * 0.03)
    assert found["helpful"] == pytest.approx(1 / 3)
    same = [{"curves": {"sft": [[1], [2.0]], "method": [[1], [2.0]]}, "rescored": []}]
    assert set(mechanism(same).values()) == {None}


def test_a_mixed_set_leaves_out_the_tasks_own_data(tmp_path):
    sets = {"mixed": ["a.jsonl", "b.jsonl"]}
    learn = {n: {"learn": f"{n}.jsonl", "learn_test": "t.jsonl"} for n in ("a", "b", "c")}
    file = tmp_path / "study.yaml"
    file.write_text(
        yaml.safe_dump({"learn": learn, "forget": sets, "methods": {"lwf": {}}, "seeds": [0]})
    )
    study = read_study(file)
    given = {cell.task: study.flags(cell)["forget"] for cell in study.cells()}
    assert given == {"a": ["b.jsonl"], "b": ["a.jsonl"], "c": ["a.jsonl", "b.jsonl"]}


def test_resumed_equals_uninterrupted(finished, tiny, data, tmp_path):
    file = write_study(tmp_path / "small.yaml", tiny, data)
    # As many threads a run as in the other study: sums of floats depend on them.
    words = ["study", file, "--output_dir", tmp_path / "out", "--jobs", 2]
    status, _, error = letgo(*words, "--max_minutes", 0.15)
    assert "time is up" in error
    assert status == (2 if "runs failed" in error else 0), error  # the broken run may have ended
    assert any(c["status"] == "missing" for c in figures(tmp_path / "out")["cells"].values())
    status, _, error = letgo(*words)
    assert (status, "runs failed" in error) == (2, True)
    assert figures(tmp_path / "out") == figures(finished[0])
    assert "3 runs, 2 done" in letgo(*words, "--plan")[1]


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of this machine alone."""
    with pytest.MonkeyPatch.context() as patch:
        # Named for where it is the default: Ray's servers listen to this machine only.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
        ray.init(
            "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
        yield
        ray.shutdown()


def kept(root):
    """What the cells have left, but for how long they took."""
    files = {file.name: json.loads(file.read_text()) for file in root.glob("cells/*.json")}
    return {name: {**cell, "seconds": None} for name, cell in files.items()}


def test_a_cluster_leaves_the_same_files(finished, cluster, tiny, data, tmp_path, monkeypatch):
    file = write_study(tmp_path / "small.yaml", tiny, data)
    monkeypatch.chdir(tmp_path)  # a folder named as seen from here
    status, _, error = letgo("study", file, "--output_dir", "out", "--engine", "ray", "--jobs", 2)
    assert status == 2
    assert "sums--talk--broken--0 failed: letgo: " in error
    assert figures(tmp_path / "out") == figures(finished[0])
    assert kept(tmp_path / "out") == kept(finished[0])


def test_a_cluster_stops_in_time(cluster, tiny, data, tmp_path):
    endless = {"model": str(tiny), **SETTINGS, "num_train_epochs": 100000}
    file = write_study(tmp_path / "small.yaml", tiny, data, settings=endless, methods={"lwf": {}})
    words = ["--output_dir", tmp_path / "out", "--engine", "ray", "--max_minutes", 0.25]
    status, _, error = letgo("study", file, *words)
    assert status == 0, error
    assert "time is up" in error
    assert not list((tmp_path / "out" / "cells").glob("*.json"))
    (said,) = (tmp_path / "out" / "cells").glob("*.log")  # one at a time
    assert "interrupted; run the same command again" in said.read_text()


def test_one_wrong_digit_is_found(finished, tmp_path):
    root = tmp_path / "out"
    shutil.copytree(finished[0], root)
    assert (
        "every figure is that of its 2 runs" in letgo("study", "--check", root / "results.json")[1]
    )
    told = json.loads((root / "results.json").read_text())
    told["claims"]["mixed_vs_sft"]["tasks"]["sums"]["ci95"][1] += 1e-6
    (root / "results.json").write_text(json.dumps(told))
    status, _, error = letgo("study", "--check", root / "results.json")
    assert status == 2
    assert "claims.mixed_vs_sft.tasks.sums.ci95[1]" in error


def broken_words(root):
    """Files of a study with something wrong in each, and what `--check` says of it."""
    said = json.loads((root / "results.json").read_text())
    said["study"]["settings"]["learning_rate"] *= 2
    cell = (root / "cells" / "sums--mixed--lwf--0.json").read_text()
    lines = (root / "results.md").read_text()
    return [
        ("results.json", json.dumps(said), "study.settings.learning_rate"),
        ("results.md", lines.replace("2 of 3 runs", "3 of 3 runs"), "results.md is not what"),
        ("cells/sums--mixed--lwf--0.json", cell[:-100], "cells has a file that is no run's"),
        ("cells/sums--mixed--lwf--0.json", "{}", "cells has a file that is no run's"),
        ("study.yaml", "seeds: 3", "seeds must be a list"),
    ]


def test_whatever_does_not_agree_is_one_line(finished, tmp_path):
    for number, (name, text, message) in enumerate(broken_words(finished[0])):
        root = tmp_path / str(number)
        shutil.copytree(finished[0], root)
        (root / name).write_text(text)
        status, _, error = letgo("study", "--check", root / "results.json")
        assert (status, len(error.strip().splitlines())) == (2, 1)
        assert message in error


def test_a_shells_background_does_not_outlast_its_time(tmp_path):
    """What begins with & ignores Ctrl-C, by which runs are interrupted."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Runner(tmp_path, None, 1, 1.0, False)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_killed_run_says_by_what(tiny, data, tmp_path):
    """As where memory is short: the last line of its log would only be how far it was."""
    study = read_study(write_study(tmp_path / "small.yaml", tiny, data))
    cell = study.cells()[0]
    process = start(tmp_path, cell, study.flags(cell), 1)
    process.kill()
    error = finish(tmp_path, cell, process.wait(), False)
    assert error.startswith("ended by SIGKILL; if memory was short, give fewer --jobs; ")


def test_seeds_are_asked_the_same_part_of_the_test_set(tiny, data, tmp_path):
    study = read_study(
        write_study(
            tmp_path / "s.yaml",
            tiny,
            data,
            methods={"lwf": {}},
            settings={"model": str(tiny), **SETTINGS, "max_learn": 5, "max_test": 3},
        )
    )
    runs = [open_cell(study, cell) for cell in study.cells() if cell.forget == "mixed"]
    asked, learned = (
        [[record.prompt for record in getattr(run, part)] for run in runs]
        for part in ("test", "learn")
    )
    assert asked[0] == asked[1]
    assert len(asked[0]) == 3
    assert learned[0] != learned[1]


def test_the_plan_says_what_it_will_cost(tiny, data, tmp_path):
    file = write_study(tmp_path / "small.yaml", tiny, data)
    status, out, error = letgo("study", file, "--plan", "--output_dir", tmp_path / "out")
    assert status == 0, error
    assert "sums          mixed         lwf                 0 1" in out
    assert "about 1 minutes" in out or "about 2 minutes" in out
    assert not (tmp_path / "out").exists()


def synthetic(root, study, seed=0):
    """Files of finished cells in which the method gains fifteen points on the second task."""
    rng = np.random.default_rng(seed)
    (root / "cells").mkdir(parents=True)
    hard = rng.normal(size=200)
    for cell in study.cells():
        gain = 0.6 if (cell.task, cell.method) == ("b", "lwf") else 0.0
        answers = {
            model: {
                "learn": {
                    str(i): [int(h + rng.normal() + shift > 0), float(rng.gamma(2))]
                    for i, h in enumerate(hard)
                }
            }
            for model, shift in (("base", -1.0), ("sft", 0.0), ("lwf", gain))
        }
        losses = [[1, 2, 3], [2.0, 1.0, 0.5]]
        write_json(
            root / "cells" / f"{cell.name}.json",
            {
                "seconds": {},
                "answers": answers,
                "rescored": [],
                "curves": {"sft": losses, "method": losses},
            },
        )


def test_effects_and_claims_are_those_of_the_files(tiny, data, tmp_path):
    sums = {"learn": "x.jsonl", "learn_test": "y.jsonl"}
    file = write_study(
        tmp_path / "s.yaml",
        tiny,
        data,
        learn={"a": sums, "b": sums},
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
    check(tmp_path / "results.json")
    found = {(r["task"], r["forget"], r["method"]): r["accuracy"] for r in results["effects"]}
    assert len(found) == 6
    assert found["b", "mixed", "lwf"]["p_holm"] < 0.05 < found["b", "mixed", "control"]["p_holm"]
    for name in ("mixed_vs_sft", "against_control"):
        tasks = results["claims"][name]["tasks"]
        assert tasks["a"]["ci95"][0] < 0 < tasks["b"]["ci95"][0]
        mean = np.mean([tasks["a"]["relative"], tasks["b"]["relative"]])
        assert results["claims"][name]["mean_relative"] == pytest.approx(mean)
    drawn = {file.name for file in tmp_path.glob("heatmap-*")}
    assert drawn == {"heatmap-lwf.png"}  # with that of `lwf_too`, which has its settings
    assert (tmp_path / "curves.png").exists()
    broken = tmp_path / "cells" / "b--mixed--lwf--0.json"
    broken.write_text(broken.read_text().replace('"199":', '"200":'))
    with pytest.raises(InputError, match="asked different examples"):
        write_results(tmp_path, study, {})


def test_a_method_is_compared_with_the_fine_tuning_beside_it(tiny, data, tmp_path):
    """Which has its settings; comparisons of the same settings are corrected together."""
    sums = {"learn": "x.jsonl", "learn_test": "y.jsonl"}
    file = write_study(
        tmp_path / "s.yaml",
        tiny,
        data,
        learn={"a": sums, "b": sums},
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
    for cell in (tmp_path / "cells").glob("*.json"):
        kept = json.loads(cell.read_text())
        if "longer" in cell.name:  # right everywhere, as its longer fine-tuning is without it
            for model in ("sft", "lwf"):
                asked = kept["answers"][model]["learn"]
                kept["answers"][model]["learn"] = {example: [1, 0.1] for example in asked}
        kept["answers"]["lwf"]["neutral"] = {"bread": [None, None]}  # a ruined model's NLL
        kept["curves"]["method"] = [[1, 2, 3], [2.0, 1.5, 0.5]]
        cell.write_text(json.dumps(kept))
    found = {
        tuple(row[key] for key in ("task", "forget", "method")): row
        for row in write_results(tmp_path, study, {})["effects"]
    }
    assert found["a", "mixed", "longer"]["accuracy"]["difference"] == 0
    family = [
        found[task, forget, method]["accuracy"]
        for task in ("a", "b")
        for forget, method in (("mixed", "lwf"), ("talk", "lwf_too"))
    ]
    corrected = holm([row["p_value"] for row in family])
    assert [row["p_holm"] for row in family] == pytest.approx(corrected)
    assert found["a", "mixed", "lwf"]["mechanism"]["first_step"]["difference"] == 0.5
    assert found["a", "mixed", "bss"]["mechanism"]["first_step"] is None


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
    assert len(error.strip().splitlines()) == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_settings_is_refused(finished, tiny, data, tmp_path):
    root = tmp_path / "out"
    shutil.copytree(finished[0], root)
    changed = {"model": str(tiny), **SETTINGS, "num_train_epochs": 3}
    file = write_study(tmp_path / "s.yaml", tiny, data, settings=changed)
    status, _, error = letgo("study", file, "--output_dir", root)
    assert status == 2
    assert "has sums--mixed--lwf--0 with other settings" in error
