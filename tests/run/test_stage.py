"""Stages that are killed, damaged, shared or deleted, with work of a few files."""

import json
import shutil
from types import SimpleNamespace

import pytest

from letgo.errors import InputError
from letgo.run import sharing
from letgo.run.folder import METRICS, PROBE, TRAIN_LOG, write_json
from letgo.run.stage import Stage, check, in_chunks, run_stage, tidy

OUTPUTS = PROBE, METRICS
FILES = {"probe/config.json": "{}", "probe/model.safetensors": "weights", "metrics.json": "{}"}


def write(folder, text=""):
    (folder / "probe").mkdir()
    for name, content in FILES.items():
        (folder / name).write_text(content + text)


@pytest.fixture
def run(tmp_path):
    """A run with a store, of which `work` makes two outputs and counts how often."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("provenance: {}\n")
    settings = SimpleNamespace(shared=str(tmp_path / "store"), overwrite=False)
    return SimpleNamespace(folder=folder, settings=settings, count=0)


@pytest.fixture
def stage():
    def work(run, scratch):
        run.count += 1
        write(scratch)

    return Stage("probe", OUTPUTS, work, {"seed": 1}, shared=True)


def contents(folder):
    return {name: (folder / name).read_text() for name in FILES if (folder / name).exists()}


def is_clean(run):
    names = {path.name for path in run.folder.iterdir()}
    return names == {"config.yaml", "stages.json", "probe", "metrics.json"}


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("is_stored", [False, True])
def test_sharing_that_was_interrupted_goes_on(run, stage, monkeypatch, number, is_stored):
    """At every file that is linked or copied, and after each, when the entry is made or taken."""
    if is_stored:
        run_stage(run, stage)
        shutil.rmtree(run.folder / "probe")
        (run.folder / "metrics.json").unlink()
        (run.folder / "stages.json").unlink()
    calls = iter(range(1, 100))
    with monkeypatch.context() as patch:

        def dying(name):
            inner = getattr(sharing, name)

            def call(*arguments):
                if next(calls) == number:
                    raise KeyboardInterrupt
                result = inner(*arguments)
                if next(calls) == number:
                    raise KeyboardInterrupt
                return result

            patch.setattr(sharing, name, call)

        for name in ("link", "store", "restore"):
            dying(name)
        with pytest.raises(KeyboardInterrupt):
            run_stage(run, stage)
    run_stage(run, stage)
    assert contents(run.folder) == FILES
    assert is_clean(run)


def test_a_link_left_in_scratch_is_replaced(run, stage, tmp_path):
    """The smallest case: the entry is there, and scratch has a link to one of its files."""
    run_stage(run, stage)
    entry = next(path for path in (tmp_path / "store").iterdir() if path.is_dir())
    other = SimpleNamespace(**{**vars(run), "folder": tmp_path / "other"})
    scratch = other.folder / "probe.part"
    scratch.mkdir(parents=True)
    (other.folder / "config.yaml").write_text("provenance: {}\n")
    write_json(scratch / "inputs.json", stage.inputs)
    (scratch / "metrics.json").hardlink_to(entry / "metrics.json")
    (scratch / "probe").mkdir()
    run_stage(other, stage)
    assert contents(other.folder) == FILES
    assert run.count == 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [None, "", "w", "other"])
def test_a_damaged_entry_of_the_store_is_made_again(run, stage, tmp_path, name, content, caplog):
    run_stage(run, stage)
    entry = next(path for path in (tmp_path / "store").iterdir() if path.is_dir())
    (entry / name).unlink()
    if content is not None:
        (entry / name).write_text(content)
    other = SimpleNamespace(**{**vars(run), "folder": tmp_path / "other"})
    other.folder.mkdir()
    (other.folder / "config.yaml").write_text("provenance: {}\n")
    run_stage(other, stage)
    assert contents(other.folder) == contents(entry) == FILES
    assert other.count == 2


def test_what_a_user_edits_in_place_stays_in_his_run(run, stage, tmp_path):
    run_stage(run, stage)
    for name in FILES:
        (run.folder / name).write_text("edited")
    entry = next(path for path in (tmp_path / "store").iterdir() if path.is_dir())
    assert contents(entry) == FILES


def test_large_weights_are_linked(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "LARGEST_COPY", 4)
    (tmp_path / "large").write_text("weights")
    (tmp_path / "small").write_text("{}")
    for name in ("large", "small"):
        sharing.link(tmp_path / name, tmp_path / f"{name} copy")
    assert (tmp_path / "large copy").samefile(tmp_path / "large")
    assert not (tmp_path / "small copy").samefile(tmp_path / "small")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [None, "", "x", "foreign"])
def test_a_damaged_output_is_refused_by_name_and_made_again(run, stage, name, content):
    run.settings.shared = None
    run_stage(run, stage)
    (run.folder / name).unlink()
    if content is not None:
        (run.folder / name).write_text(content)
    if name == "metrics.json" and content is None:  # a whole output is missing: it is made again
        check(run.folder, [stage])
        run_stage(run, stage)
        assert contents(run.folder) == FILES
        return
    with pytest.raises(InputError) as refused:
        check(run.folder, [stage])
    what = "is missing" if content is None else "was changed"
    assert f"{run.folder / name} {what} after letgo had written it" in str(refused.value)
    command = "evaluate" if name == "metrics.json" else "probe"
    assert f"`letgo {command} --output_dir {run.folder} --overwrite`" in str(refused.value)
    run.settings.overwrite = True
    run_stage(run, stage)
    assert contents(run.folder) == FILES
    assert run.count == 2
    check(run.folder, [stage])
    run_stage(run, stage)
    assert run.count == 2  # what is whole is kept, also with --overwrite


def test_a_file_added_to_an_output_is_refused(run, stage):
    run_stage(run, stage)
    (run.folder / "probe" / ".DS_Store").write_text("of a file manager")
    check(run.folder, [stage])
    (run.folder / "probe" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"adapter_config.json was added after .*move it away"):
        check(run.folder, [stage])


def test_records_without_digests_are_accepted(run, stage):
    """Of an earlier version."""
    run_stage(run, stage)
    record = json.loads((run.folder / "stages.json").read_text())
    del record["probe"]["outputs"]
    write_json(run.folder / "stages.json", record)
    (run.folder / "metrics.json").write_text("[]")
    check(run.folder, [stage])
    run_stage(run, stage)
    assert run.count == 1


@pytest.mark.parametrize("content", ["", "[]", "{", '{"probe": 3}', '{"probe": {"outputs": 1}}'])
def test_damaged_records_are_one_line(run, stage, content):
    run_stage(run, stage)
    (run.folder / "stages.json").write_text(content)
    with pytest.raises(InputError, match=r"stages.json is damaged .*`letgo run --config "):
        check(run.folder, [stage])


def test_damaged_inputs_of_an_interrupted_stage_begin_it_anew(run, stage):
    scratch = run.folder / "probe.part"
    scratch.mkdir()
    (scratch / "inputs.json").write_text("")
    (scratch / "stale.json").write_text("[]")
    check(run.folder, [stage])
    run_stage(run, stage)
    assert is_clean(run)


def test_scratch_of_a_finished_stage_is_removed(run, stage):
    run_stage(run, stage)
    scratch = run.folder / "probe.part"
    (scratch / "checkpoints").mkdir(parents=True)
    write_json(scratch / "inputs.json", stage.inputs)
    tidy(run.folder, [stage])
    assert is_clean(run)


def test_scratch_of_an_unfinished_stage_stays(run, stage):
    scratch = run.folder / "probe.part"
    scratch.mkdir()
    write_json(scratch / "inputs.json", stage.inputs)
    tidy(run.folder, [stage])
    assert scratch.exists()


@pytest.mark.parametrize("does", ["goes on", "fails", "refuses", "finds nothing"])
def test_a_folder_deleted_during_the_work_is_one_line(run, stage, does):
    def work(run, scratch):
        shutil.rmtree(run.folder)
        if does == "fails":
            (scratch / "file").write_text("")
        if does == "refuses":
            raise InputError("has no self_knowledge.parquet; run `letgo elicit` first")
        if does == "goes on":
            scratch.mkdir(parents=True)
            write(scratch)

    run.settings.shared = None
    with pytest.raises(InputError, match="was deleted or moved while letgo worked in it"):
        run_stage(run, Stage("probe", OUTPUTS, work, {}))
    assert not run.folder.exists()
    with pytest.raises(InputError, match="was deleted or moved while letgo worked in it"):
        run_stage(run, stage)
    assert not run.folder.exists()


CHUNKS = [["a", "b"], ["c"]]


def rows(chunk):
    return [{"id": item, "value": 0.1} for item in chunk]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "5", '{"rows": []}', '[{"id": "a"}]', "shorter", "other", "value"]
)
def test_a_chunk_that_does_not_fit_is_done_again(tmp_path, content):
    expected = in_chunks("elicit talk", tmp_path, CHUNKS, rows)
    first, second = sorted(tmp_path.iterdir())
    if content == "shorter":
        whole = json.loads(first.read_text())
        content = json.dumps({**whole, "rows": whole["rows"][:1]})
    elif content == "other":
        content = second.read_text()
    elif content == "value":
        content = first.read_text().replace("0.1", "0.2")
    first.write_text(content)
    done = []
    again = in_chunks("elicit talk", tmp_path, CHUNKS, lambda c: done.append(c) or rows(c))
    assert again == expected
    assert done == [["a", "b"]]


@pytest.mark.parametrize("letter", ["中", "ж", "a", "%", "\udce4", "😀", "/"])
def test_long_names_of_sets_are_names_of_files(tmp_path, letter):
    names = [f"elicit {letter * 240}{end}" for end in ("1", "2")]
    for name in names:
        in_chunks(name, tmp_path, CHUNKS, lambda chunk, name=name: [{"name": name} for _ in chunk])
    found = [in_chunks(name, tmp_path, CHUNKS, rows)[0]["name"] for name in names]
    assert found == names


def test_training_logs_and_models_are_told_apart(run, stage):
    """`train_log.jsonl` is an output of its own and also a file of `probe/`."""
    train = Stage("train", (TRAIN_LOG,), lambda _, s: (s / TRAIN_LOG.name).write_text("{}"), {})
    run_stage(run, stage)
    run_stage(run, train)
    (run.folder / TRAIN_LOG.name).write_text("")
    check(run.folder, [stage])
    with pytest.raises(InputError, match=r"train_log.jsonl was changed .*`letgo train "):
        check(run.folder, [train])
