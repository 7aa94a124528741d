"""`letgo study` runs a grid on a tiny model, in processes and on a Ray cluster."""

import json
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from helpers.commands import letgo
from helpers.study import SETTINGS, results_of, write_study

from letgo.models.loading import device_name
from letgo.run.lock import exclusive
from letgo.run.provenance import versions
from letgo.study.cells import file_of, folder_of, log_of
from letgo.study.grid import prepare, run_cells
from letgo.study.plan import Cell, read_study
from letgo.study.results import made_with
from letgo.study.runner import Runner, finish, start


def test_a_failing_cell_is_reported_and_stops_no_other(finished_study):
    root, out, error = finished_study
    cells = results_of(root)["cells"]
    assert sorted(cell["status"] for cell in cells.values()) == ["done", "done", "failed"]
    assert "learning loss is" in cells["sums--talk--broken--0"]["error"]
    assert "sums--talk--broken--0 failed: letgo: " in error
    assert "mixed_vs_sft" in out
    assert "## mixed_vs_sft" in (root / "results.md").read_text()
    assert "sums--talk--broken--0: letgo" in (root / "results.md").read_text()
    assert (root / "forest.png").stat().st_size > 5000
    tasks = results_of(root)["claims"]["mixed_vs_sft"]["tasks"]
    assert (tasks["sums"]["seeds"], tasks["sums"]["n"]) == (2, 6)


def test_runs_share_stages_and_leave_no_models(finished_study):
    root, *_ = finished_study
    shared = sorted(
        file.name.split("-")[0] for file in (root / "shared").iterdir() if file.is_dir()
    )
    assert shared.count("elicit") == 2  # once per forgetting set, for both seeds
    assert shared.count("score") == 2  # once per seed
    cell = root / "cells" / "sums--mixed--lwf--0"
    assert (cell / "report.html").exists()
    assert not (cell / "model").exists()


def test_results_name_devices_and_versions_of_runs(finished_study):
    """Cell files hold them with fingerprints of data and model; old files may have none."""
    root, *_ = finished_study
    (one, other) = (
        json.loads(file.read_text())["provenance"] for file in root.glob("cells/*.json")
    )
    assert one["data"]["learn_test"] == other["data"]["learn_test"]
    assert one["model"] == other["model"]
    here = {"device": device_name(), "versions": versions()}
    assert results_of(root)["made_with"] == [{**here, "runs": 2}]
    assert f"torch {versions()['torch']}" in (root / "results.md").read_text()
    assert made_with([here, {}, {}]) == [
        {"device": None, "versions": {}, "runs": 2},
        {**here, "runs": 1},
    ]


def test_resumed_equals_uninterrupted(finished_study, tiny, data, tmp_path):
    file = write_study(tmp_path / "small.yaml", tiny, data)
    # The other study's number of threads per run: sums of floats depend on it.
    words = ["study", file, "--output_dir", tmp_path / "out", "--jobs", 2]
    status, _, error = letgo(*words, "--max_minutes", 0.15)
    assert "time is up" in error
    assert status == (2 if "runs failed" in error else 0), error  # the failing run may have ended
    assert any(c["status"] == "missing" for c in results_of(tmp_path / "out")["cells"].values())
    status, _, error = letgo(*words)
    assert (status, "runs failed" in error) == (2, True)
    assert results_of(tmp_path / "out") == results_of(finished_study[0])
    out = letgo(*words, "--plan")[1]
    assert "3 runs, 2 done" in out
    assert "time for 1 runs: about 1 minutes" in out


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of this machine only."""
    with pytest.MonkeyPatch.context() as patch:
        # Set explicitly, also where it is the default: Ray listens on this machine only.
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
        ray.init(
            "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
        yield
        ray.shutdown()


def cell_files(root):
    """The content of all cell files, without the seconds that runs took."""
    files = {file.name: json.loads(file.read_text()) for file in root.glob("cells/*.json")}
    return {name: {**cell, "seconds": None} for name, cell in files.items()}


def test_a_cluster_writes_the_same_files(
    finished_study, cluster, tiny, data, tmp_path, monkeypatch
):
    file = write_study(tmp_path / "small.yaml", tiny, data)
    monkeypatch.chdir(tmp_path)  # --output_dir is a relative path
    status, _, error = letgo("study", file, "--output_dir", "out", "--engine", "ray", "--jobs", 2)
    assert status == 2
    assert "sums--talk--broken--0 failed: letgo: " in error
    assert results_of(tmp_path / "out") == results_of(finished_study[0])
    assert cell_files(tmp_path / "out") == cell_files(finished_study[0])


def test_a_cluster_stops_in_time(cluster, tiny, data, tmp_path):
    endless = {"model": str(tiny), **SETTINGS, "num_train_epochs": 100000}
    file = write_study(tmp_path / "small.yaml", tiny, data, settings=endless, methods={"lwf": {}})
    words = ["--output_dir", tmp_path / "out", "--engine", "ray", "--max_minutes", 0.25]
    status, _, error = letgo("study", file, *words)
    assert status == 0, error
    assert "time is up" in error
    assert not list((tmp_path / "out" / "cells").glob("*.json"))
    (log,) = (tmp_path / "out" / "cells").glob("*.log")  # one at a time
    assert "interrupted; run the same command again" in log.read_text()


def test_a_study_in_a_shells_background_can_be_interrupted(tmp_path):
    """A shell starts jobs with & so that they ignore Ctrl-C, which interrupts runs."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Runner(tmp_path, None, 1, 1.0, False)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_signal_that_killed_a_run_is_named(tiny, data, tmp_path):
    """Out of memory, the last line of its log is only a progress message."""
    study = read_study(write_study(tmp_path / "small.yaml", tiny, data))
    cell = study.cells()[0]
    process = start(tmp_path, cell, study.flags(cell), 1)
    process.kill()
    error = finish(tmp_path, cell, process.wait(), False)
    assert error.startswith("ended by SIGKILL (often out of memory: lower --jobs); run the study")


def test_a_folder_of_other_settings_is_refused(finished_study, tiny, data, tmp_path):
    root = tmp_path / "out"
    shutil.copytree(finished_study[0], root)
    changed = {"model": str(tiny), **SETTINGS, "num_train_epochs": 3}
    file = write_study(tmp_path / "s.yaml", tiny, data, settings=changed)
    status, _, error = letgo("study", file, "--output_dir", root)
    assert status == 2
    assert "has sums--mixed--lwf--0 with other settings" in error


def test_a_second_study_in_its_folder_is_refused(tiny, data, tmp_path):
    file = write_study(tmp_path / "small.yaml", tiny, data)
    with exclusive(tmp_path / "out", "letgo study"):
        status, _, error = letgo("study", file, "--output_dir", tmp_path / "out")
    assert status == 2
    assert f"{tmp_path / 'out'} is in use by process {os.getpid()} since" in error
    assert not (tmp_path / "out" / "cells").exists()


def test_a_run_that_goes_on_alone_is_waited_for(tiny, data, tmp_path, monkeypatch):
    """Its study was killed, and is started again."""
    study = read_study(write_study(tmp_path / "small.yaml", tiny, data))
    cell, events = study.cells()[0], []
    runner = Runner(tmp_path, study, 1, 60, False)
    monkeypatch.setattr("letgo.study.runner.SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr("letgo.study.runner.finish", lambda *_: None)
    ended = Mock(wait=lambda: 0)
    monkeypatch.setattr("letgo.study.runner.start", lambda *_: events.append("start") or ended)
    with ThreadPoolExecutor(1) as pool:
        with exclusive(folder_of(tmp_path, cell), "letgo run"):
            future = pool.submit(runner._run, cell)
            time.sleep(0.2)
            events.append("other ends")
        assert future.result() is None
    assert events == ["other ends", "start"]


def test_models_that_a_killed_study_left_are_removed(tiny, data, tmp_path):
    study = read_study(write_study(tmp_path / "small.yaml", tiny, data))
    cell = study.cells()[0]
    (folder_of(tmp_path, cell) / "probe").mkdir(parents=True)
    file_of(tmp_path, cell).write_text("{}")
    runner = SimpleNamespace(
        root=tmp_path, study=study, keep_models=False, run=lambda cells: iter([])
    )
    run_cells(runner, [])
    assert not (folder_of(tmp_path, cell) / "probe").exists()


def test_an_interrupted_copy_of_the_study_does_not_stop_it(tiny, data, tmp_path, monkeypatch):
    file = write_study(tmp_path / "small.yaml", tiny, data)
    study, out = read_study(file), tmp_path / "out"
    out.mkdir()

    def half(source, target):
        target.write_text(source.read_text()[:100])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("letgo.study.grid.shutil.copyfile", half)
        with pytest.raises(KeyboardInterrupt):
            prepare(out, study, file, [])
    prepare(out, study, file, [])
    assert (out / "study.yaml").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("letter", ["a", "ж", "中", "😀", "/"])
def test_long_names_of_cells_are_names_of_files(tmp_path, letter):
    cells = [Cell(letter * 200, "x" * 100, f"m{number}", 0) for number in (1, 2)]
    (tmp_path / "cells").mkdir()
    for cell in cells:
        folder_of(tmp_path, cell).mkdir()
        file_of(tmp_path, cell).write_text(cell.method)
        log_of(tmp_path, cell).touch()
        assert folder_of(tmp_path, cell).parent == tmp_path / "cells"
    assert [file_of(tmp_path, cell).read_text() for cell in cells] == ["m1", "m2"]
    short = Cell("a", "b", "c", 1)
    assert file_of(tmp_path, short) == tmp_path / "cells" / "a--b--c--1.json"
