"""Results as plain text: tables without boxes, of the same width on every terminal."""

from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table

from letgo.errors import printable
from letgo.evaluation.asking import LABELS
from letgo.report.outcomes import (
    corpus_rows,
    headroom_line,
    measure,
    measure_of_changes,
    question,
    rules_line,
)
from letgo.review.texts import in_a_line
from letgo.run.folder import Row, read_json, read_texts

WIDTH = 10_000  # no table is that wide: nothing is wrapped or cut


def result_table(metrics: Row) -> str:
    """The content of `metrics.json`: the outcomes, the accuracy on every set, and the headroom."""
    models, differences = metrics["models"], metrics["lwf_minus_sft"]
    sets = list(models["lwf"])
    scored = any("score" in cell for of_model in models.values() for cell in of_model.values())
    table = plain_table(f"accuracy{' or score' if scored else ''}, 95 % interval")
    for name in sets:
        table.add_column(name, justify="right")
    for model, label in LABELS.items():
        if model in models:
            table.add_row(label, *(_accuracy(models[model].get(name)) for name in sets))
    table.add_row("n", *(str(models["lwf"][name]["n"]) for name in sets))
    if differences:
        pairs = [differences[name] for name in sets]
        table.add_row("LWF - SFT, paired", *map(_difference, pairs))
        test = "p (McNemar; permutation)" if scored else "p (McNemar, exact)"
        table.add_row(test, *(f"{pair['p_value']:.3g}" for pair in pairs))
    for title, values in corpus_rows(metrics):
        table.add_row(title, *(values.get(name, "-") for name in sets))
    found = metrics.get("headroom")
    parts = [outcome_table(metrics), as_text(table), rules_line(metrics)]
    parts.append(headroom_line(found) if found else "")
    return "\n\n".join(filter(None, parts))


def harness_table(result: Row) -> str:
    """The content of `harness.json`, with standard errors and paired differences."""
    models, paired = result["models"], result.get("lwf_minus_sft") or {}
    table = plain_table("task", "metric")
    names = ["n", *(LABELS[model] for model in models)]
    for name in [*names, *["LWF - SFT, paired", "p", "p (Holm)"] * bool(paired)]:
        table.add_column(name, justify="right")
    for task, metrics in models["base"].items():
        for metric, value in metrics.items():
            cells = [_with_error(models[model][task][metric]) for model in models]
            pair = paired.get(task, {}).get(metric)
            if pair:
                numbers = [f"{pair[name]:.3g}" for name in ("p_value", "p_holm")]
                cells += [_difference(pair), *numbers]
            table.add_row(task, metric, str(value["n"]), *cells)
    return as_text(table)


def text_table(folder: Path, count: int = 3) -> str:
    """The self-generated texts with the highest and with the lowest forgetting confidence."""
    texts = read_texts(folder, leave_out=("prompt_ids", "completion_ids")).to_pylist()
    rows = sorted(texts, key=lambda row: (-row["confidence"], row["id"]))
    table = plain_table("confidence", "set", "text")
    for row in rows[:count] + rows[-count:]:
        table.add_row(f"{row['confidence']:.4g}", row["forget_set"], in_a_line(row, 90))
    return as_text(table)


def audit_table(rows: list[Row], count: int) -> str:
    """How many learning examples are suspected, and the first of `audit.parquet`."""
    suspected = sum(row["suspected"] for row in rows)
    line = f"{suspected} of {len(rows)} learning examples are suspected to be wrong"
    table = plain_table()
    for name in ("loss_ref", "- loss_base", "gradient"):
        table.add_column(name, justify="right")
    for name in ("suspected", "id", "example"):
        table.add_column(name)
    for row in rows[:count]:
        numbers = (f"{row[name]:.3f}" for name in ("loss_ref", "interference", "gradient"))
        suspicion = "yes" if row["suspected"] else "no"
        table.add_row(*numbers, suspicion, row["id"], in_a_line(row, 90))
    return f"{line}\n\n{as_text(table)}" if count and rows else line


def verdict(folder: Path) -> str:
    """A sentence on which model a run returns, and why."""
    metrics, model = read_json(folder / "metrics.json"), folder / "model"
    decision, why = metrics.get("verdict"), metrics.get("sentence", "")
    if decision is None:
        return f"no verdict yet: run `letgo evaluate --output_dir {folder}`"
    if decision == "no baseline":
        return f"{model} is LWF's; --optimum full would compare it with the SFT baseline"
    if not metrics.get("verdict_parts"):  # nothing was unlearned, or an earlier letgo's run
        return f"verdict: {why or 'by an earlier letgo'}; {model} is {LABELS[decision]}'s"
    other = "" if decision == "lwf" else f" (LWF's: {folder / 'lwf'})"
    owner = "LWF's" if decision == "lwf" else "the SFT baseline"
    return f"verdict: {why}, on validation prompts; {model} is {owner}{other}"


def outcome_table(metrics: Row) -> str:
    """The three outcomes on held-out test prompts; empty for a run of an earlier letgo."""
    outcomes = metrics.get("outcomes") or {}
    if not outcomes:
        return ""
    models = [model for model in LABELS if model in outcomes["learned"]]
    names = [f"{LABELS[model]} [95 %]" for model in models]
    table = plain_table("outcome", "figure", *names, "LWF - SFT [95 %]", "n")
    for outcome, main in outcomes.items():
        for name, figure in {main["figure"]: main, **main["more"]}.items():
            how, change = measure(name), measure_of_changes(name)
            cells = [value_cell(figure.get(model), how.factor, how.digits) for model in models]
            cells.append(change_cell(figure.get("lwf_minus_sft"), change.factor, change.digits))
            label = question(outcome, name) if figure is main else ""
            table.add_row(label, how.title, *cells, str(figure[models[-1]]["n"]))
    return as_text(table)


def value_cell(figure: Row | None, factor: int, digits: int) -> str:
    """A figure of a model with its interval; a dash if it was not measured."""
    if figure is None:
        return "-"
    return f"{factor * figure['value']:.{digits}f}{_interval(figure['ci95'], factor, digits)}"


def change_cell(pair: Row | None, factor: int, digits: int) -> str:
    """A paired difference with its interval; a dash if it was not measured."""
    if pair is None:
        return "-"
    interval = _interval(pair["ci95"], factor, digits, "+")
    return f"{factor * pair['difference']:+.{digits}f}{interval}"


def _interval(limits: list[float | None], factor: int, digits: int, sign: str = "-") -> str:
    low, high = limits
    if low is None or high is None:  # fewer than two values
        return ""
    return f" [{factor * low:{sign}.{digits}f}, {factor * high:{sign}.{digits}f}]"


def plain_table(*columns: str) -> Table:
    """A table without boxes."""
    return Table(*columns, box=None, pad_edge=False, header_style="", padding=(0, 2, 0, 0))


def as_text(table: Table) -> str:
    """The table as lines of text."""
    console = Console(
        file=StringIO(), width=WIDTH, color_system=None, markup=False, emoji=False, highlight=False
    )
    with console.capture() as capture:
        console.print(table)
    # Not splitlines, which also cuts at characters that may be in a name.
    return "\n".join(printable(line.rstrip()) for line in capture.get().rstrip("\n").split("\n"))


def _accuracy(score: Row | None) -> str:
    if score is None:  # the base model is not evaluated on the validation set
        return "-"
    low, high = score["ci95"]
    value = score["score"] if "score" in score else score["accuracy"]
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _difference(pair: Row) -> str:
    low, high = pair["ci95"]
    interval = "" if low is None else f" [{low:+.3f}, {high:+.3f}]"  # None: fewer than two pairs
    return f"{pair['difference']:+.3f}{interval}"


def _with_error(value: Row) -> str:
    error = "" if value["stderr"] is None else f" +- {value['stderr']:.3f}"
    return f"{value['value']:.3f}{error}"
