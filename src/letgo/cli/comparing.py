"""What `letgo compare A B` prints: the paired differences of two runs or files of answers."""

import json
from pathlib import Path

from letgo.cli.tables import as_text, change_cell, plain_table, value_cell
from letgo.errors import InputError, printable
from letgo.evaluation.answer_files import read_files
from letgo.evaluation.answered_runs import MODELS, read_runs
from letgo.evaluation.comparison import Side, compare
from letgo.report.outcomes import NAMES, Measure, measure, measure_of_changes
from letgo.run.folder import Row


def print_comparison(a: str, b: str, columns: dict[str, str], size: float, as_json: bool) -> None:
    """Print the paired differences of B and A.

    Args:
        a, b: two folders, or two JSONL files; each may end with `:MODEL`.
        columns: of JSONL files, by the name that letgo knows them by.
        size: the difference worth finding, in the unit of the figures.
        as_json: whether to print JSON instead of a table.

    Raises:
        InputError: a side that cannot be read, or nothing to compare.
    """
    sides = _sides(a, b, columns)
    first, second = sides.values()
    found = compare(first, second, size)
    if as_json:
        labels = {letter.lower(): side.label for letter, side in sides.items()}
        print(json.dumps({**labels, "difference": size, **found}, indent=1))
        return
    lines = [f"{letter}: {side.label}" for letter, side in sides.items()]
    print(printable("\n".join([*lines, *found["notes"]])))
    print(f"\n{comparison_table(found['figures'], size)}")


def _sides(a: str, b: str, columns: dict[str, str]) -> dict[str, Side]:
    named = {letter: _path_and_model(text) for letter, text in (("A", a), ("B", b))}
    are_folders = [path.is_dir() for path, _ in named.values()]
    if not any(are_folders):
        return dict(zip(named, read_files(list(named.values()), columns), strict=True))
    if not all(are_folders):
        raise InputError(f"of {a} and {b} one is a folder; name two runs or two JSONL files")
    if columns:
        raise InputError("--columns is for JSONL files; leave it out")
    for path, model in named.values():
        if model not in ("", *MODELS):
            raise InputError(f"{path}:{model}: the model must be one of {', '.join(MODELS)}")
    return {letter: read_runs(path, model or "lwf") for letter, (path, model) in named.items()}


def _path_and_model(text: str) -> tuple[Path, str]:
    """The path, and the model after its last colon, which may also be a part of the path."""
    path, colon, model = text.rpartition(":")
    if Path(text).exists():
        return Path(text), ""
    if colon and Path(path).exists():
        return Path(path), model
    raise InputError(f"there is no {text}; name a run folder or a JSONL file of answers")


def comparison_table(rows: list[Row], size: float) -> str:
    """The figures of `comparison.compare` as text, and what its last columns mean."""
    several = any(row["b_minus_a"]["seeds"] > 1 for row in rows)
    names = ("", "figure", "A [95 %]", "B [95 %]", "B - A [95 %]", "p", "p (Holm)", "n", "finds")
    table = plain_table(*names, "examples needed", *["seeds", "seeds needed"] * several)
    for row in rows:
        pair, (how, change) = row["b_minus_a"], _measures(row)
        counts = [pair["examples_needed"]]
        counts += [pair["seeds"], pair["seeds_needed"]] * several
        found = pair["detectable"]
        table.add_row(
            NAMES.get(row["group"], row["group"]),
            how.title,
            *(value_cell(row[side], how.factor, how.digits) for side in "ab"),
            change_cell(pair, change.factor, change.digits),
            *(f"{pair[name]:.3g}" for name in ("p_value", "p_holm")),
            str(pair["n"]),
            "-" if found is None else f"{change.factor * found:.{change.digits}f}",
            *("-" if count is None else f"{count:,}" for count in counts),
        )
    lines = [
        as_text(table),
        "",
        "finds: the difference that these examples would show with a power of 0.8 (5 % level)",
        f"needed: to show a difference of {100 * size:g} points (shares) or {size:g} (others) so",
    ]
    if not several:
        lines.append(
            "seeds needed: one seed cannot tell; compare folders with runs of several seeds"
        )
    return "\n".join(lines)


def _measures(row: Row) -> tuple[Measure, Measure]:
    """How the values of a figure and its differences are written."""
    name = row["figure"]
    if row["group"] in NAMES:
        return measure(name), measure_of_changes(name)
    how = Measure(f"{name}, %", 100, 1) if row["is_share"] else Measure(name, 1, 3)
    return how, how
