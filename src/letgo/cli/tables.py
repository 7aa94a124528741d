"""Results as plain text: tables without boxes, of the same width on every terminal."""

from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table

from letgo.evaluation.asking import LABELS
from letgo.review.texts import in_a_line
from letgo.run.folder import Row, read_json, read_texts

WIDTH = 10_000  # no table is that wide: nothing is wrapped or cut


def result_table(metrics: Row) -> str:
    """The content of `metrics.json`; every metric in its `lwf_minus_sft` gets two rows."""
    models, differences = metrics["models"], metrics["lwf_minus_sft"]
    sets = list(models["lwf"])
    table = plain_table("accuracy, 95 % interval")
    for name in sets:
        table.add_column(name, justify="right")
    for model, label in LABELS.items():
        if model in models:
            table.add_row(label, *(_accuracy(models[model].get(name)) for name in sets))
    table.add_row("n", *(str(models["lwf"][name]["n"]) for name in sets))
    if differences:
        pairs = [differences[name] for name in sets]
        table.add_row("LWF - SFT, paired", *map(_difference, pairs))
        table.add_row("p (McNemar, exact)", *(f"{pair['p_value']:.3g}" for pair in pairs))
        for metric in [name for name, value in pairs[0].items() if isinstance(value, dict)]:
            means = [pair[metric] for pair in pairs]
            table.add_row(f"LWF - SFT, {metric}", *map(_difference, means))
            table.add_row("p (paired t-test)", *(f"{mean['p_value']:.3g}" for mean in means))
    perplexity = [f"{m} {value:.2f}" for m, value in metrics["neutral_perplexity"].items()]
    return f"{as_text(table)}\nperplexity of neutral text: {', '.join(perplexity)}"


def harness_table(result: Row) -> str:
    """The content of `harness.json`, with standard errors."""
    models = result["models"]
    table = plain_table("task", "metric")
    for name in ("n", *(LABELS[model] for model in models)):
        table.add_column(name, justify="right")
    for task, metrics in models["base"].items():
        for metric, value in metrics.items():
            cells = [_with_error(models[model][task][metric]) for model in models]
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


def verdict(folder: Path) -> str:
    """A sentence on which model a run returns, and why."""
    metrics, model = read_json(folder / "metrics.json"), folder / "model"
    decision = metrics.get("verdict")
    if decision is None:
        return f"no verdict yet: run `letgo evaluate --output_dir {folder}`"
    if decision == "no baseline":
        return f"{model} is LWF's; --optimum full would compare it with the SFT baseline"
    validation = metrics["models"]["lwf"].get("validation")
    if validation is None:
        return f"verdict: nothing was unlearned; {model} is the SFT baseline"
    if decision == "lwf":
        return f"verdict: LWF gains on {validation['n']} validation examples; {model} is LWF's"
    return (
        f"verdict: no gain shown on {validation['n']} validation examples; {model} is the SFT "
        f"baseline (LWF's: {folder / 'lwf'})"
    )


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
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _accuracy(score: Row | None) -> str:
    if score is None:  # the base model is not evaluated on the validation set
        return "-"
    low, high = score["ci95"]
    return f"{score['accuracy']:.3f} [{low:.3f}, {high:.3f}]"


def _difference(pair: Row) -> str:
    low, high = pair["ci95"]
    interval = "" if low is None else f" [{low:+.3f}, {high:+.3f}]"  # None: fewer than two pairs
    return f"{pair['difference']:+.3f}{interval}"


def _with_error(value: Row) -> str:
    error = "" if value["stderr"] is None else f" +- {value['stderr']:.3f}"
    return f"{value['value']:.3f}{error}"
