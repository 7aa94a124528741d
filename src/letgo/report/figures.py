"""The figures of a run, drawn once for the page and for papers."""

import math
from pathlib import Path
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from letgo.evaluation.asking import LABELS
from letgo.report import figure_data as numbers
from letgo.report.curves import Guards
from letgo.report.drawing import (
    COLOURS,
    INK,
    MARKERS,
    WIDTH,
    Drawing,
    HoverTexts,
    new_figure,
    save,
)
from letgo.report.formats import clean, decimal, percent, shorten, significant
from letgo.report.outcomes import NAMES, measure
from letgo.report.tables import direction
from letgo.run.folder import Row

_MOST_MARKS = 800  # more become one bitmap, which is smaller and has no hover texts
_MOST_CURVE_MARKS = 100  # longer curves have no marks
_PLAIN = "{x:g}"  # matplotlib writes powers of ten as formulas, which SVG text cannot show
# Colours of models and styles of their learning curves, and those of the unlearning curve.
_LINES = {
    "base": (COLOURS[5], ":"),
    "SFT": (COLOURS[0], "--"),
    "SFT, rule": (COLOURS[2], "--"),
    "LWF": (COLOURS[1], "-"),
    "": (COLOURS[3], "-"),
}
_OUTCOME_PART = 0.58  # of the width of other figures: three outcomes are side by side


def draw_all(data: numbers.FigureData) -> dict[str, Drawing]:
    """Every figure that the run has numbers for, by the name of its file."""
    drawings = {name.replace("_", "-"): outcome(name, row) for name, row in data.outcomes.items()}
    if data.sft.learning[0] or data.lwf.learning[0] or data.lwf.unlearning[0]:
        drawings["training"] = _training(data)
    if data.texts:
        drawings["confidence"] = confidence(data.texts, data.threshold)
    for column in numbers.CONFOUNDERS:
        if texts := numbers.with_finite(data.texts, column):
            drawings[f"confidence-{column}"] = _confounder(texts, column)
    if data.shares:
        drawings["layers"] = _layers(data.shares)
    return drawings


def save_figures(folder: Path, formats: list[str]) -> list[Path]:
    """Write every figure of a run to `figures/NAME.FORMAT` in its folder.

    Raises:
        InputError: the folder lacks a required file.
    """
    paths = []
    (folder / "figures").mkdir(exist_ok=True)
    data = numbers.collect(folder, numbers.scored_texts(folder))
    for name, drawing in draw_all(data).items():
        for suffix in formats:
            paths.append(folder / "figures" / f"{name}.{suffix}")
            save(drawing, paths[-1])
    return paths


def outcome(name: str, main: Row) -> Drawing:
    """The deciding figure of an outcome: a mark for each model and a line for its 95 % interval.

    Args:
        name: "learned", "let_go" or "kept".
        main: the outcome, as in `metrics.json`.
    """
    how = measure(main["figure"])
    models = [model for model in LABELS if model in main]
    wanted = f"({direction(name, main['figure'])})"
    hover: HoverTexts = []
    with new_figure(1.25, WIDTH * _OUTCOME_PART) as figure:
        axes = figure.subplots()
        for row, model in enumerate(models):
            value, limits, n = (main[model][key] for key in ("value", "ci95", "n"))
            interval = (
                f" (95 % interval {how.write_interval(limits)})" if None not in limits else ""
            )
            text = f"{LABELS[model]} {how.write(value)}{interval}, n = {n}"
            colour, _ = _LINES[LABELS[model]]
            if interval:
                (line,) = axes.plot([how.factor * limit for limit in limits], [row] * 2, c=colour)
                hover.append((line, [text]))
            (mark,) = axes.plot(how.factor * value, row, "o", color=colour)
            hover.append((mark, [text]))
        values = [how.write(main[model]["value"]) for model in models]
        labels = [f"{LABELS[model]} {value}" for model, value in zip(models, values, strict=True)]
        axes.set_yticks(range(len(models)), labels)
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(_PLAIN)
        title = f"{NAMES[name]}: {how.title} "
        lines = wrap(title + wanted.replace(" ", "\N{NO-BREAK SPACE}"), 33)
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=9)
    return Drawing(figure, f"{title}{wanted}: {', '.join(labels)}", hover)


def _training(data: numbers.FigureData) -> Drawing:
    """Panels for the losses in learning and validation, the unlearned texts, and the guards."""
    steps, nll = data.lwf.unlearning
    guards = numbers.guard_counts(data.lwf)
    both = {"SFT": data.sft.learning, "LWF": data.lwf.learning}
    curves = {name: curve for name, curve in both.items() if curve[0]}
    tested = {"SFT": data.sft.validation, "LWF": data.lwf.validation}
    tested = {name: curve for name, curve in tested.items() if curve[0]}
    heights = [1.7] * bool(curves) + [1.3] * (bool(tested) + bool(steps))
    heights += [0.12 + 0.16 * len(guards)] * bool(guards)
    hover: HoverTexts = []
    with new_figure(0.9 + sum(heights)) as figure:
        grid = figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)
        panels = list(grid[:, 0])
        for name, curve in curves.items():
            hover += _curve(panels[0], "learning loss", name, *curve)
        for name, curve in tested.items():
            hover += _curve(panels[bool(curves)], "validation loss", name, *curve)
            if name in curves:  # its line is in the legend
                panels[1].get_lines()[-1].set_label("_")
        if steps:
            label = "unlearning NLL\n(nats per token)"
            hover += _curve(panels[bool(curves) + bool(tested)], label, "", steps, nll)
            panels[0].plot(
                steps,
                [0.02] * len(steps),
                "|",
                color=_LINES[""][0],
                transform=panels[0].get_xaxis_transform(),
                label="unlearning step",
                rasterized=len(steps) > _MOST_MARKS,
            )
        if guards:
            hover += _guard_marks(panels[-1], guards)
        panels[-1].set_xlabel("learning steps")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper center", ncols=3)
    parts = [_ends(f"learning loss of {name}", losses) for name, (_, losses) in curves.items()]
    parts += [_ends(f"validation loss of {name}", losses) for name, (_, losses) in tested.items()]
    parts += [_ends("NLL of the unlearned texts", nll)] if steps else []
    parts += [f"{label}: {sum(counts)}" for label, (_, counts) in guards.items()]
    return Drawing(figure, "Line chart over learning steps: " + "; ".join(parts), hover)


def _curve(axes: Axes, label: str, name: str, steps: list[int], values: list[float]) -> HoverTexts:
    """Draw values over learning steps; `name` is in the legend unless it is empty."""
    colour, style = _LINES[name]
    few = len(steps) <= _MOST_CURVE_MARKS
    marker = "o" if few else ""
    (line,) = axes.plot(steps, values, style, marker=marker, ms=3, color=colour, label=name)
    axes.set_ylabel(label)
    quantity = f"{name} {label}".strip().partition("\n")[0]
    if not few:
        return [(line, [_ends(quantity, values)])]
    # Matplotlib draws no marker where a value is not finite.
    points = [(at, value) for at, value in zip(steps, values, strict=True) if math.isfinite(value)]
    return [(line, [f"step {at}: {quantity} {decimal(value, 3)}" for at, value in points])]


def _guard_marks(axes: Axes, guards: Guards) -> HoverTexts:
    hover: HoverTexts = []
    for row, (label, (steps, counts)) in enumerate(guards.items()):
        (marks,) = axes.plot(steps, [row] * len(steps), "X", color=INK, markersize=4, mew=0)
        marks.set_rasterized(len(steps) > _MOST_MARKS)
        points = zip(steps, counts, strict=True)
        hover.append((marks, [f"step {at}: {label} ({count})" for at, count in points]))
    axes.set_yticks(range(len(guards)), list(guards), fontsize=7)
    axes.set_ylim(len(guards) - 0.5, -0.5)
    return hover


def confidence(texts: list[Row], threshold: float | None) -> Drawing:
    """Histograms of the confidence of each forgetting set, with the selection threshold if any.

    `texts` are rows with "forget_set", "confidence" (finite) and "selected".
    """
    sets = numbers.by_set(texts)
    confidences = {name: [row["confidence"] for row in rows] for name, rows in sets.items()}
    values = [row["confidence"] for row in texts]
    edges = numbers.bin_edges(values)
    hover: HoverTexts = []
    with new_figure(0.8 + 1.2 * len(sets)) as figure:
        panels = figure.subplots(len(sets), sharex=True, squeeze=False)[:, 0]
        for i, (axes, (name, rows)) in enumerate(zip(panels, sets.items(), strict=True)):
            colour = COLOURS[i % len(COLOURS)]
            chosen = [row["confidence"] for row in rows if row["selected"]]
            pale = axes.hist(confidences[name], edges, color=colour, alpha=0.45)[2]
            strong = axes.hist(chosen, edges, color=colour)[2]
            for low, high, *bars in zip(edges, edges[1:], pale, strong, strict=False):
                n, n_chosen = (round(bar.get_height()) for bar in bars)
                span = f"confidence {significant(low, 3)} to {significant(high, 3)}"
                text = f"{span}: {n} texts, {n_chosen} selected"
                hover += [(bar, [text]) for bar in bars if bar.get_height()]
            axes.set_title(f"{_label(name)}, n = {len(rows)}", loc="left")
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            if threshold is not None:
                axes.axvline(threshold, color=INK, linestyle="--", linewidth=1)
        if numbers.is_wide(values):
            panels[-1].set_xscale("log")
            panels[-1].xaxis.set_major_formatter(_PLAIN)
        panels[-1].set_xlabel("confidence")
        figure.supylabel("texts", fontsize=9)
    medians = "; ".join(
        f"{clean(name)}: {len(group)} texts, median {significant(float(np.median(group)))}"
        for name, group in confidences.items()
    )
    description = f"Histograms of confidence; {medians}; selected from {significant(threshold)} up"
    return Drawing(figure, description, hover)


def _confounder(texts: list[Row], column: str) -> Drawing:
    """The confidence of each text against its length or loss."""
    label = numbers.CONFOUNDERS[column]
    values = [row["confidence"] for row in texts]
    rho = numbers.rank_correlation([row[column] for row in texts], values)
    title = f"Spearman's \N{GREEK SMALL LETTER RHO} = {decimal(rho)}, n = {len(texts)}"
    hover: HoverTexts = []
    with new_figure(3.4) as figure:
        axes = figure.subplots()
        for i, (name, rows) in enumerate(numbers.by_set(texts).items()):
            marks = axes.scatter(
                [row[column] for row in rows],
                [row["confidence"] for row in rows],
                s=16,
                alpha=0.75,
                linewidths=0,
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                label=_label(name),
                rasterized=len(texts) > _MOST_MARKS,
            )
            hover.append((marks, [_summary(row) for row in rows]))
        axes.set_title(title)
        if numbers.is_wide(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_PLAIN)
        axes.set_xlabel(label)
        if column == "tokens":
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.set_ylabel("confidence")
        figure.legend(loc="outside lower center", ncols=3, markerscale=2)
    return Drawing(figure, f"Scatter plot of confidence against {label}. {title}", hover)


def _layers(shares: dict[str, dict[str, float]]) -> Drawing:
    """The shares of the score by kind of matrix and by block."""
    matrices, blocks = shares["matrix"], shares["block"]
    with new_figure(2.2 + 0.17 * len(matrices)) as figure:
        above, below = figure.subplots(2, height_ratios=[0.17 * len(matrices), 1.4])
        bars = above.barh(range(len(matrices)), list(matrices.values()), color=COLOURS[0])
        above.set_yticks(range(len(matrices)), [_label(name) for name in matrices])
        above.invert_yaxis()
        above.xaxis.set_major_formatter(PercentFormatter(1, 0))
        bars = [*bars, *below.bar(range(len(blocks)), list(blocks.values()), color=COLOURS[0])]
        ticks = range(0, len(blocks), -(-len(blocks) // 10))
        names = [_label(name.removeprefix("block ")) for name in blocks]
        below.set_xticks(ticks, [names[i] for i in ticks])
        below.yaxis.set_major_formatter(PercentFormatter(1, 0))
        below.set_xlabel("block")
        figure.supylabel("share of the score", fontsize=9)
    groups = (matrices, blocks)
    texts = [f"{clean(name)}: {percent(n)} %" for group in groups for name, n in group.items()]
    largest = (max(group.items(), key=lambda item: item[1]) for group in groups)
    description = "Bar charts of layers' shares of the score; the largest are " + " and ".join(
        f"{clean(name)} with {percent(share)} %" for name, share in largest
    )
    hover = [(bar, [text]) for bar, text in zip(bars, texts, strict=True)]
    return Drawing(figure, description, hover)


def _label(name: str) -> str:
    return shorten(clean(name), 24)


def _ends(name: str, values: list[float]) -> str:
    return f"{name} from {decimal(values[0])} to {decimal(values[-1])}"


def _summary(row: Row) -> str:
    """The hover text of a text: its numbers, and the beginnings of its prompt and completion."""
    selected = "selected" if row["selected"] else "not selected"
    lines = [
        f"{_label(row['forget_set'])}: confidence {significant(row['confidence'])}, {selected}",
        f"{row['tokens']} tokens, loss of the base model {decimal(row['loss_base'], 3)}",
        *(shorten(clean(" ".join(row[key].split())), 80) for key in ("prompt", "completion")),
    ]
    return "\n".join(lines)
