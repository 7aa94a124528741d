"""Answers in a JSONL file from anywhere, for a comparison."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from letgo.errors import InputError, reason
from letgo.evaluation.answers import correct, reader, reader_of
from letgo.evaluation.comparison import Key, Side
from letgo.evaluation.outcomes import Figure
from letgo.run.folder import Row

# Names of an example, of its part of the data, and of its texts; the first that is there counts.
# The later ones are those of lm-evaluation-harness.
IDS, SETS = ("id", "doc_id", "prompt"), ("set", "task")
REFERENCE, GENERATED = "reference", "generated"
# Numbers in these columns are no metrics.
NO_METRICS = {*IDS, *SETS, "model", "seed", "filter", "metrics", REFERENCE, GENERATED}


class Answer(NamedTuple):
    """A line of the file: where it is, its content, and what tells it apart."""

    where: str
    row: Row
    key: Key
    seed: str


def read_files(files: Sequence[tuple[Path, str]], columns: Mapping[str, str]) -> list[Side]:
    """The sides of a comparison of JSONL files.

    Args:
        files: the path and the model of either side; an empty model stands for any.
        columns: the column in the files by the name that letgo knows it by.

    Raises:
        InputError: a file or line that cannot be used, or answers to the same id that are not to
            the same question.
    """
    answers = [_read(path, model, columns) for path, model in files]
    _check_questions(*answers)
    names = [_metrics(each) for each in answers]
    if not any(names):
        _judge([answer for each in answers for answer in each])
        names = [["correct"], ["correct"]]
    sides = []
    for (path, model), each, metrics in zip(files, answers, names, strict=True):
        side = Side(str(path), f"{path}{', ' * bool(model)}{model}")
        for answer in each:
            _add(side, answer, metrics)
        if len(side.seeds) > 1:
            side.label += f", seeds {', '.join(side.seeds)}"
        sides.append(side)
    _find_figures(*sides)
    return sides


def _read(path: Path, model: str, columns: Mapping[str, str]) -> list[Answer]:
    """The lines of a file, with the names that letgo knows."""
    try:  # only a newline ends a line; str.splitlines would also cut at characters JSON allows
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {reason(error)}; name a JSONL file") from error
    answers: list[Answer] = []
    places: dict[tuple[str, Key], str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = _renamed(_parsed(line, where), columns, where)
        if model and str(row.get("model")) != model:
            continue
        answer = _answer(row, where)
        if other := places.get((answer.seed, answer.key)):
            name = " ".join(part for part in answer.key if part)
            raise InputError(
                f"{where}: {name} was answered in {other.rpartition(', ')[2]} already; an example "
                f"has one line for each `seed`, and answers of several models need PATH:MODEL"
            )
        places[answer.seed, answer.key] = where
        answers.append(answer)
    if not answers:
        of = f" of a model {model!r} (column `model`)" if model else ""
        raise InputError(f"{path}: there is no answer{of}; name another file or model")
    return answers


def _parsed(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); write one JSON object a line") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object; write one with its answer a line")
    return row


def _renamed(row: Row, columns: Mapping[str, str], where: str) -> Row:
    for name, column in columns.items():
        if column not in row:
            raise InputError(
                f"--columns {name}={column}: {where} has no {column!r}; it has {', '.join(row)}"
            )
    renamed = {column: row[column] for column in row if column not in columns.values()}
    return renamed | {name: row[column] for name, column in columns.items()}


def _answer(row: Row, where: str) -> Answer:
    found = [str(row[name]) for name in IDS if row.get(name) is not None]
    if not found:
        raise InputError(
            f"{where}: it has neither `id` nor `prompt`, so it cannot be paired; it has "
            f"{', '.join(row)}: name the column by --columns id=COLUMN"
        )
    part = next((str(row[name]) for name in SETS if row.get(name) is not None), "")
    filtered = row.get("filter")
    rule = "" if filtered in (None, "none") else str(filtered)
    seed = "" if row.get("seed") is None else str(row["seed"])
    return Answer(where, row, (part, found[0], rule), seed)


def _check_questions(ours: list[Answer], theirs: list[Answer]) -> None:
    """Refuse to pair answers to different questions."""
    by_key = {answer.key: answer for answer in ours}
    for answer in theirs:
        other = by_key.get(answer.key)
        for name in ("prompt", REFERENCE, "doc_hash", "target"):
            values = [one.row.get(name) for one in (answer, other) if one]
            if len(values) == 2 and None not in values and values[0] != values[1]:
                raise InputError(
                    f"{answer.where}: its {name} differs from that of {other and other.where} with "
                    f"the same id; compare answers to the same questions"
                )


def _metrics(answers: list[Answer]) -> list[str]:
    """The columns that hold a number or true or false wherever they hold anything."""
    names: dict[str, bool] = {}
    for answer in answers:
        listed = answer.row.get("metrics")
        for name, value in answer.row.items():
            if name in NO_METRICS or (isinstance(listed, list) and name not in listed):
                continue
            if value is not None:
                names[name] = names.get(name, True) and isinstance(value, bool | int | float)
    return [name for name, is_number in names.items() if is_number]


def _judge(answers: list[Answer]) -> None:
    """Add `correct` to answers that have a right answer, by the rule of their set."""
    sets: dict[str, list[Answer]] = {}
    for answer in answers:
        missing = [name for name in (REFERENCE, GENERATED) if _text(answer.row.get(name)) is None]
        if missing:
            raise InputError(
                f"{answer.where}: it has no number such as `correct`, and no text in "
                f"`{missing[0]}` to judge the answer by; it has {', '.join(answer.row)}: name the "
                f"column by --columns {missing[0]}=COLUMN"
            )
        sets.setdefault(answer.key[0], []).append(answer)
    for group in sets.values():
        texts = [
            [_text(answer.row.get(name)) or "" for answer in group]
            for name in (REFERENCE, "prompt", GENERATED)
        ]
        references, prompts, generated = texts
        if not all(prompts):  # then the right answers themselves tell the options
            prompts = ["\n".join(references)] * len(references)
        rule = reader(references, prompts)
        for answer, right, prompt, text in zip(group, references, prompts, generated, strict=True):
            answer.row["correct"] = correct(reader_of(rule, right, prompt), text, right)


def _text(value: Any) -> str | None:
    """A text or number as text; None for anything else."""
    is_text = isinstance(value, str | int | float) and not isinstance(value, bool)
    return str(value) if is_text else None


def _add(side: Side, answer: Answer, metrics: list[str]) -> None:
    part, name, rule = answer.key
    figures = side.seeds.setdefault(answer.seed, {})
    for metric in metrics:
        value = answer.row.get(metric)
        if value is not None and math.isfinite(value):
            title = f"{metric} ({rule})" if rule else metric
            figures.setdefault((part, title), {})[name,] = float(value)


def _find_figures(*sides: Side) -> None:
    """Fill in `figures`; a metric is a share if all values are 0 or 1, a score if between them."""
    values: dict[tuple[str, str], set[float]] = {}
    for side in sides:
        for figures in side.seeds.values():
            for name, by_key in figures.items():
                values.setdefault(name, set()).update(by_key.values())
    for side in sides:
        for name in dict.fromkeys(n for figures in side.seeds.values() for n in figures):
            found, is_share = values[name], values[name] <= {0.0, 1.0}
            is_score = not is_share and min(found) >= 0 and max(found) <= 1
            side.figures[name] = Figure(name[1], name[1], name[0], is_share, is_score)
