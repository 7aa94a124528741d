"""The tables of a study's results, and `results.md`, the page that shows them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from letgo.data.splits import NEUTRAL
from letgo.evaluation.effects import worth
from letgo.run.folder import Row

MODELS = ("base", "sft", "lwf")
WHO = ["task", "forgetting set", "method"]
# Keys of an effect in results.json; all others are metrics.
NO_METRICS = ("task", "forget", "method", "outcomes", "forgotten", "returned_lwf", "mechanism")
# Of a metric's column: its title, the factor its values are shown with, and their decimals.
METRICS = {
    "accuracy": ("accuracy", 100, 1),
    "score": ("score", 100, 1),
    "reference_nll": ("NLL of right answers", 1, 3),
}
# The same of an outcome, whose title says what is measured.
OUTCOMES = {
    "learned": ("learned: right answers", 100, 1),
    "let_go": ("let go: old answers", 100, 1),
    "kept": ("kept: KL", 1, 4),
}


class Table(NamedTuple):
    """A table with a title and a sentence about it; all cells are text."""

    title: str
    text: str
    header: list[str]
    rows: list[list[str]]


def page(results: Row) -> str:
    """`results.md`: all tables, and the errors of failed runs, as Markdown."""
    lines = ["# Results", "", summary(results), ""]
    for table in [*tables(results), _runs(results), _made_with(results)]:
        lines += [f"## {table.title}", ""]
        if table.text:
            lines += [table.text, ""]
        for row in [table.header, ["---"] * len(table.header), *table.rows]:
            lines.append("| " + " | ".join(row) + " |")
        lines.append("")
    cells = results["cells"]
    errors = {name: cell["error"] for name, cell in cells.items() if cell["status"] == "failed"}
    if errors:
        lines += ["## Failed", ""] + [f"- {name}: {error}" for name, error in errors.items()]
    return "\n".join(lines).rstrip() + "\n"


def summary(results: Row) -> str:
    """How many runs are done, and how to read the intervals and p-values."""
    count = [cell["status"] for cell in results["cells"].values()].count
    return (
        f"{count('done')} of {len(results['cells'])} runs are done, {count('failed')} failed. "
        "Differences are paired. Intervals (95 %) hold for other seeds and other examples; those "
        "of a single seed hold for that seed only. P-values are corrected by Holm's method: those "
        "of a claim over its tasks, those of methods over all comparisons of the same settings."
    )


def tables(results: Row) -> list[Table]:
    """Claims, outcomes if they were measured, effects, what was forgotten, and the mechanism."""
    effects = results["effects"]
    claims = [_claim(name, claim) for name, claim in results["claims"].items()]
    measured = [row for row in effects if "outcomes" in row]
    outcomes = [_outcomes(measured)] if measured else []
    return [*claims, *outcomes, _effects(effects), _forgotten(effects), _mechanism(effects)]


def _claim(name: str, claim: Row) -> Table:
    models = " (the models that the runs returned)" if claim["returned"] else ""
    text = (
        f"{claim['method']} against {claim['baseline']}, forgetting {claim['setting']}{models}: "
        f"mean relative gain {_percent(claim['mean_relative'], claim['mean_ci95'])}."
    )
    header = ["task", "difference", "relative", "p (Holm)", "seeds", "n", "seeds for 2 points"]
    rows = []
    for task, effect in claim["tasks"].items():
        relative = _percent(effect["relative"], effect["relative_ci95"])
        counts = [str(effect[key] or "-") for key in ("seeds", "n", "seeds_needed")]
        rows.append([task, _difference(effect, 1, 100), relative, _p_value(effect), *counts])
    return Table(name, text, header, rows)


def _outcomes(effects: list[Row]) -> Table:
    text = (
        "Differences to the SFT baseline on held-out prompts. Learned: right answers to test "
        "prompts, in points; more is better. Let go: forgetting prompts that get the base model's "
        "old answer, in points; less is better. Kept: KL divergence from the base model on its "
        "answers to keep prompts, in nats per token; less is better."
    )
    titles = [title for title, *_ in OUTCOMES.values()]
    rows = []
    for row in effects:
        cells, counts = [], []
        for name, (_, unit, digits) in OUTCOMES.items():
            effect = row["outcomes"].get(name)
            cells += [_difference(effect, digits, unit), _p_value(effect)] if effect else ["-", "-"]
            counts.append(str(effect["n"]) if effect else "-")
        rows.append([*_who(row), *cells, " / ".join(counts), _seeds(row)])
    columns = [column for title in titles for column in (title, "p (Holm)")]
    return Table("Learned, let go, kept", text, [*WHO, *columns, "n", "seeds"], rows)


def _effects(effects: list[Row]) -> Table:
    names = {key: None for row in effects for key in row if key not in NO_METRICS}
    metrics = {name: METRICS.get(name, (name, 1, 3)) for name in names}
    header = [
        *WHO,
        *(title for title, *_ in metrics.values()),
        f"p (Holm) of {title_of(effects)}",
        "seeds",
    ]
    rows = []
    for row in effects:
        differences = [
            _difference(row[name], digits, unit) if name in row else "-"
            for name, (_, unit, digits) in metrics.items()
        ]
        rows.append([*_who(row), *differences, _p_value(worth(row) or {}), _seeds(row)])
    text = f"{title_of(effects).capitalize()} in points, NLL in nats per token."
    return Table("All methods against the SFT baseline", text, header, rows)


def _forgotten(effects: list[Row]) -> Table:
    text = (
        "Accuracy on the forgetting sets and perplexity of neutral text, of base model > SFT > "
        "method; and how many runs returned the method's model, by their validation sets."
    )
    rows = []
    for row in effects:
        accuracy = _by_model(row["forgotten"]["accuracy"], 3)
        perplexity = _by_model(row["forgotten"]["perplexity"], 2)
        returned = f"{row['returned_lwf']} of {_seeds(row)}"
        rows.append([*_who(row), accuracy, perplexity, returned])
    return Table("What was forgotten", text, [*WHO, "accuracy", "perplexity", "returned"], rows)


def _mechanism(effects: list[Row]) -> Table:
    text = (
        "To first order: the share of texts whose unlearning would lower the learning loss, their "
        "cosine, and the drop predicted for the first unlearning step. Measured against SFT's "
        "batches: the change by the first step and by all steps, in nats per token."
    )
    rows = []
    for row in effects:
        values = row["mechanism"]
        numbers = [
            f"{values[name]:{form}}" if values[name] is not None else "-"
            for name, form in (("helpful", ".0%"), ("cosine", ".3f"), ("promise", ".4f"))
        ]
        changes = [values[name] for name in ("first_step", "learning_loss")]
        rows.append([*_who(row), *numbers, *(_difference(c, 4) if c else "-" for c in changes)])
    return Table("Why", text, [*WHO, "help", "cosine", "predicted", "first step", "all"], rows)


def _runs(results: Row) -> Table:
    title = title_of(results["effects"]).capitalize()
    text = f"{title} of the base model, SFT and the method, also on the forgetting sets."
    rows = []
    for name, cell in results["cells"].items():
        for data_set, models in cell.get("sets", {}).items():
            if data_set != NEUTRAL:
                shares = [_share(models.get(model)) for model in MODELS]
                rows.append([name, data_set, *shares])
    return Table("Every run", text, ["run", "set", "base", "SFT", "method"], rows)


def _made_with(results: Row) -> Table:
    rows = []
    for made in results["made_with"]:
        versions = ", ".join(map(" ".join, made["versions"].items()))
        rows.append([made["device"] or "-", versions or "-", str(made["runs"])])
    return Table("Made with", "", ["device", "versions", "runs"], rows)


def _share(means: Row | None) -> str:
    return "-" if means is None else f"{means.get('score', means.get('accuracy')):.3f}"


def _seeds(row: Row) -> str:
    return str((worth(row) or {})["seeds"])


def title_of(effects: Sequence[Row]) -> str:
    """What answers are worth in these effects: "accuracy", or "score" if any has one."""
    names = {"score" if "score" in row else "accuracy" for row in effects}
    return " or ".join(sorted(names)) or "accuracy"


def _who(row: Row) -> list[str]:
    return [row["task"], row["forget"], row["method"]]


def _p_value(effect: Row) -> str:
    return f"{effect['p_holm']:.3g}"


def _difference(effect: Row, digits: int, unit: float = 1) -> str:
    """A difference with its interval, if it has one."""
    text = f"{unit * effect['difference']:+.{digits}f}"
    low, high = effect["ci95"]
    if low is None:
        return text
    return f"{text} [{unit * low:+.{digits}f}, {unit * high:+.{digits}f}]"


def _percent(value: float | None, interval: list[float] | None) -> str:
    if value is None or interval is None:
        return "-"
    return f"{100 * value:+.1f} % [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def _by_model(values: Mapping[str, float], digits: int) -> str:
    return " > ".join(f"{values[model]:.{digits}f}" for model in MODELS if model in values)
