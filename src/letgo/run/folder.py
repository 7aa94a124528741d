"""The files of a run folder: which stage makes them, and how they are read and written."""

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from safetensors import SafetensorError

from letgo.data.files import atomic_write
from letgo.errors import InputError, first_line
from letgo.progress import log
from letgo.run import decisions
from letgo.run.digests import ADDED, differences

Row = dict[str, Any]


class Output(NamedTuple):
    """A file or folder in the run folder, and the stage (a command) that makes it."""

    name: str
    stage: str


SELF_KNOWLEDGE = Output("self_knowledge.parquet", "elicit")
AUDIT = Output("audit.parquet", "audit")
KEPT = Output("kept.parquet", "keep")
PROBE = Output("probe", "probe")
FISHER = Output("fisher.safetensors", "fisher")
SCORES = Output("scores.parquet", "score")
SELECTION = Output("selection.parquet", "select")
LWF = Output("lwf", "train")
TRAIN_LOG = Output("train_log.jsonl", "train")
BASELINE = Output("baseline.parquet", "baseline")
HELD_OUT = Output("held_out.parquet", "baseline")
HEADROOM = Output("headroom.json", "baseline")
RELEARNED = Output("relearned.parquet", "relearn")
METRICS = Output("metrics.json", "evaluate")
ANSWERS = Output("answers.parquet", "evaluate")
MODEL = Output("model", "evaluate")
HARNESS = Output("harness.json", "evaluate --harness")
HARNESS_SAMPLES = Output("harness_samples.parquet", "evaluate --harness")
REPORT = Output("report.html", "report")
FIRST_EXAMPLES = "first_examples.json"  # what the model sees of each set, for the report


_LEARNING = (AUDIT, SELF_KNOWLEDGE, KEPT, PROBE, FISHER, SCORES, SELECTION, LWF, TRAIN_LOG)
_RESULTS = (BASELINE, HELD_OUT, HEADROOM, RELEARNED, METRICS, ANSWERS, MODEL, REPORT)
OUTPUTS = {output.name: output for output in (*_LEARNING, *_RESULTS, HARNESS, HARNESS_SAMPLES)}
# What damaged files make these fail with, besides the errors of their own libraries.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def require(folder: Path, *outputs: Output) -> Path:
    """The path of the last of `outputs`, all of which must exist and be as their stage wrote them.

    Raises:
        InputError: one does not, or is not; names the command that makes it.
    """
    for output in outputs:
        path = folder / output.name
        if not path.exists():
            raise InputError(
                f"--output_dir: {folder} has no {output.name}; run `letgo {output.stage} "
                f"--output_dir {folder}` first"
            )
        if problem := damage(folder, output):
            raise InputError(problem)
    return path


def damage(folder: Path, output: Output) -> str:
    """What is wrong with an output, and which command makes it again; empty if nothing is.

    It is held against the digests that were recorded when it was written. What a user changes in
    `model/` is not wrong, and is warned of, unless it is the weights.
    """
    recorded: Row = {}
    for record in read_stages(folder).values():
        recorded |= record.get("outputs", {})
    for file, what in differences(folder, output.name, recorded).items():
        if output == SELECTION and (folder / decisions.JOURNAL).exists() and _is_reviewed(folder):
            continue
        if what == ADDED and output != MODEL:
            return f"{folder / file} {what} after letgo had written {output.name}/; move it away"
        problem = f"{folder / file} {what} after letgo had written it"
        if output != MODEL or (what != ADDED and file.endswith(".safetensors")):
            return f"{problem}; {_again(folder, output)}"
        if what != ADDED:
            log.warning("%s; it stays as it is", problem)
    return ""


def _is_reviewed(folder: Path) -> bool:
    """Whether `selection.parquet` is what follows from the scores and the decisions of a review.

    A review writes it anew. One that lacks the last decision is refused where it would be used.
    """
    selection = read_table(folder / SELECTION.name)
    decided = decisions.read(folder)
    if not decisions.is_current(selection.schema, decided):
        return True
    inputs = read_stages(folder).get(SELECTION.stage, {}).get("inputs", {})
    scores = read_table(require(folder, SCORES), ["id", "confidence"])
    ids, mode = scores["id"].to_pylist(), inputs.get("selection", "top")
    ranking = decisions.rank(ids, scores["confidence"].to_pylist(), mode, inputs.get("seed", 42))
    fraction = inputs.get("forget_fraction", 0.5)
    expected = decisions.selection_table(ids, ranking, fraction, mode, decided)
    return bool(selection.equals(expected))


def _again(folder: Path, output: Output) -> str:
    """Which command makes an output again."""
    return f"`letgo {output.stage} --output_dir {folder} --overwrite` makes it again"


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Name a damaged file that this block reads, and the command that makes it again.

    Raises:
        InputError: the block raised an error that a damaged file can cause.
    """
    try:
        yield
    except (InputError, FileNotFoundError, PermissionError):
        raise
    except (*UNREADABLE, OSError, pa.ArrowException, yaml.YAMLError, SafetensorError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: BaseException) -> InputError:
    """The error that names a damaged file of a run and the command that makes it again."""
    remedy = "move it away and run the command that made it again"
    if path.name == "stages.json":
        config = path.with_name("config.yaml")
        remedy = (
            f"`letgo run --config {config} --output_dir {path.parent} --overwrite` makes all "
            f"of its stages again"
        )
    for inside in (path, path.parent):  # `probe/` has a training log
        if inside.name in OUTPUTS:
            remedy = _again(inside.parent, OUTPUTS[inside.name])
    return InputError(f"{path} is damaged ({first_line(error)}); {remedy}")


# In `lwf/`, if that is the SFT baseline: a sentence that says why.
PLAIN_REASON = "why_plain.txt"


def plain_reason(lwf: Path) -> str:
    """Why LWF's model is the SFT baseline's; empty if it is a model of its own."""
    file = lwf / PLAIN_REASON
    return file.read_text(encoding="utf-8").strip() if file.exists() else ""


def is_run(folder: Path) -> bool:
    """Whether letgo created this folder."""
    file = folder / "config.yaml"
    return file.is_file() and "provenance:" in file.read_text(encoding="utf-8", errors="replace")


def find_runs(root: Path) -> list[Path]:
    """Folders of runs in or below a folder, sorted; run folders are not searched."""
    runs = []
    for path, subfolders, _ in os.walk(root):
        with suppress(OSError):  # a config.yaml that this user may not read
            if is_run(Path(path)):
                runs.append(Path(path))
                subfolders.clear()
    return sorted(runs)


def read_config(folder: Path) -> Row:
    """The settings of the run, with its origin under "provenance"."""
    with readable(folder / "config.yaml"):
        content = (folder / "config.yaml").read_text(encoding="utf-8")
        return _mapping(yaml.safe_load(content) or {})


def read_json(path: Path) -> Any:
    """The object in a JSON file; an empty one if there is no such file."""
    if not path.exists():
        return {}
    with readable(path):
        return _mapping(json.loads(path.read_text(encoding="utf-8")))


def read_stages(folder: Path) -> dict[str, Row]:
    """By finished stage its inputs, its cost, and the digests of its outputs (`stages.json`)."""
    finished = read_json(folder / "stages.json")
    with readable(folder / "stages.json"):
        for record in finished.values():
            _mapping(record)
            _mapping(record.get("outputs", {}))
    return finished


def _mapping(value: object) -> Row:
    if not isinstance(value, dict):
        raise TypeError(f"it holds a {type(value).__name__} where names and values belong")
    return value


def write_json(path: Path, value: object, indent: int | None = 1) -> None:
    """Write a JSON file that appears whole or not at all; without indent, on one line."""
    separators = (",", ":") if indent is None else None
    text = json.dumps(value, indent=indent, separators=separators)
    with atomic_write(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def read_log(path: Path) -> list[Row]:
    """The lines of a training log; none if there is no such file."""
    if not path.is_file():
        return []
    with readable(path):
        # Only a newline ends a line; str.splitlines would also cut at characters JSON allows.
        lines = path.read_text(encoding="utf-8").split("\n")
        return [_mapping(json.loads(line)) for line in lines if line.strip()]


def read_table(
    path: Path, columns: list[str] | None = None, filters: list[tuple[str, str, str]] | None = None
) -> pa.Table:
    """The content of a Parquet file."""
    with readable(path):
        # Without partitioning=None a folder named like "seed=1" would come as one more column.
        return pq.read_table(path, columns=columns, filters=filters, partitioning=None)


def read_schema(path: Path) -> pa.Schema:
    """The names and types of the columns of a Parquet file, and its metadata."""
    with readable(path):
        return pq.read_schema(path)


def read_texts(folder: Path, leave_out: Collection[str] = ()) -> pa.Table:
    """Every scored text: what the model wrote, its scores, and whether it is selected.

    Args:
        leave_out: columns that are not needed, such as the long `completion_ids`.

    Returns:
        the columns of `scores.parquet`, `self_knowledge.parquet` and `selection.parquet`, in the
        order of the scores.

    Raises:
        InputError: a file is missing, or the files are of different texts.
    """
    table = read_table(require(folder, SCORES)).combine_chunks()
    for output in (SELF_KNOWLEDGE, SELECTION):
        file = require(folder, output)
        columns = [name for name in read_schema(file).names if name not in leave_out]
        other = _in_order_of(table["id"], read_table(file, columns).combine_chunks())
        for name in columns:
            if name not in table.column_names:
                table = table.append_column(name, other[name])
    if "decided_by" not in table.column_names:  # selected before there were reviews
        table = table.append_column("decided_by", pa.array(["score"] * len(table), pa.string()))
        table = table.append_column("decided_at", pa.nulls(len(table), pa.string()))
    return table


def _in_order_of(ids: pa.ChunkedArray, table: pa.Table) -> pa.Table:
    """The rows of `table` with these ids, in their order."""
    if table["id"].equals(ids):
        return table
    indices = pc.index_in(ids, value_set=table["id"].combine_chunks())
    if indices.null_count:
        raise InputError(
            "scores.parquet and the files beside it are of different texts; make them again by "
            "`letgo run --overwrite`"
        )
    return table.take(indices)


def read_score_constants(folder: Path) -> Row:
    """Numbers that all scores of a run share, by name; empty where the score has none."""
    metadata = read_schema(require(folder, SCORES)).metadata or {}
    if metadata.get(b"alpha", b"auto") == b"auto":
        return {}
    return {name: float(metadata[name.encode()]) for name in ("alpha", "constant")}
