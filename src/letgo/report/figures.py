"""The pictures of a run as drawings: for print, for papers, and for pages without JavaScript."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from letgo.report.drawing import COLOURS, FORMATS, INK, MARKERS, Drawing, new_figure, save
from letgo.report.figure_data import (
    CONFOUNDERS,
    Shown,
    acted,
    bin_edges,
    by_set,
    collect,
    correlation,
    each_figure,
    is_wide,
    runs,
)
from letgo.report.formats import clean, decimal, percent, shorten, significant
from letgo.run import folder as files

# Above this many marks an embedded bitmap is smaller than a drawn element for each.
_MANY = 800
# Powers of ten would come as formulas, which letters left to the browser cannot show.
_PLAIN = "{x:g}"
_LINES = {"SFT": (COLOURS[0], "--"), "LWF": (COLOURS[1], "-")}
_UNLEARNING = COLOURS[3]


def draw_all(shown: Shown) -> dict[str, Drawing]:
    """Return every drawing there is something to show in, by the name of its file."""
    return each_figure(shown, _training, confidence, _confounder, _layers)


def save_figures(folder: Path, formats: list[str]) -> list[Path]:
    """Write every drawing of a run to `figures/NAME.FORMAT` in its folder.

    Args:
        folder: the run's folder.
        formats: out of `drawing.FORMATS`.

    Returns:
        the files.

    Raises:
        InputError: the folder lacks a file no picture can do without.
    """
    assert set(formats) <= set(FORMATS)
    files.check(folder)
    made = []
    (folder / "figures").mkdir(exist_ok=True)
    for name, drawing in draw_all(collect(folder, files.read_texts(folder))).items():
        for kind in formats:
            made.append(folder / "figures" / f"{name}.{kind}")
            save(drawing, made[-1])
    return made


def _training(shown: Shown) -> Drawing:
    """Learning loss over learning steps, below it the NLL of the texts unlearned, and guards."""
    steps, nll = shown.lwf.unlearning
    guards, curves = acted(shown.lwf), runs(shown)
    heights = (
        [1.7] * bool(curves) + [1.3] * bool(steps) + [0.12 + 0.16 * len(guards)] * bool(guards)
    )
    said = []
    with new_figure(0.9 + sum(heights)) as figure:
        axes = list(
            figure.subplots(len(heights), sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        )
        for name, run in curves.items():
            colour, line = _LINES[name]
            single = "o" if len(run.learning[0]) == 1 else ""
            axes[0].plot(*run.learning, line, marker=single, color=colour, label=name)
            axes[0].set_ylabel("learning loss")
            said.append(_ends(f"learning loss of {name}", run.learning[1]))
        if steps:
            axis = axes[bool(curves)]
            many = len(steps) > _MANY
            axis.plot(steps, nll, "o-", color=_UNLEARNING, markersize=2.5, rasterized=many)
            axis.set_ylabel("unlearning NLL\n(nats per token)")
            axes[0].plot(
                steps,
                np.full(len(steps), 0.02),
                "|",
                color=_UNLEARNING,
                markersize=6,
                transform=axes[0].get_xaxis_transform(),
                label="unlearning step",
                rasterized=many,
            )
            said.append(_ends("NLL of the unlearned texts", nll))
        for row, (label, (at, counts)) in enumerate(guards.items()):
            axes[-1].plot(at, np.full(len(at), row), "x", color=INK, markersize=4)
            said.append(f"{label}: {sum(counts)}")
        if guards:
            axes[-1].set_yticks(range(len(guards)), list(guards), fontsize=7)
            axes[-1].set_ylim(len(guards) - 0.5, -0.5)
        axes[-1].set_xlabel("learning steps")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper center", ncols=3)
        return Drawing(figure, "Line chart over learning steps: " + "; ".join(said))


def confidence(texts: list[dict[str, Any]], threshold: float | None) -> Drawing:
    """Draw how the confidence of each forgetting set is spread, and where selection began.

    Args:
        texts: rows with "forget_set", "confidence" (finite) and "selected".
        threshold: the lowest confidence selected, None where nothing was.
    """
    sets = by_set(texts)
    values = [row["confidence"] for row in texts]
    edges = bin_edges(values)
    with new_figure(0.8 + 1.2 * len(sets)) as figure:
        panels = figure.subplots(len(sets), sharex=True, squeeze=False)[:, 0]
        for i, (axes, (name, rows)) in enumerate(zip(panels, sets.items(), strict=True)):
            colour = COLOURS[i % len(COLOURS)]
            groups = [
                [row["confidence"] for row in rows if row["selected"] == kept]
                for kept in (True, False)
            ]
            axes.hist(groups[0] + groups[1], edges, color=colour, alpha=0.45)
            axes.hist(groups[0], edges, color=colour)
            axes.set_title(f"{_label(name)}, n = {len(rows)}", loc="left")
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            if threshold is not None:
                axes.axvline(threshold, color=INK, linestyle="--", linewidth=1)
        if is_wide(values):
            panels[-1].set_xscale("log")
            panels[-1].xaxis.set_major_formatter(_PLAIN)
        panels[-1].set_xlabel("confidence")
        figure.supylabel("texts", fontsize=9)
        medians = "; ".join(
            f"{clean(name)}: {len(rows)} texts, median "
            + significant(float(np.median([row["confidence"] for row in rows])))
            for name, rows in sets.items()
        )
        said = f"Histograms of confidence; {medians}; selected from {significant(threshold)} up"
        return Drawing(figure, said)


def _confounder(texts: list[dict[str, Any]], key: str) -> Drawing:
    """The confidence of each text against another number known of it."""
    label = CONFOUNDERS[key]
    with new_figure(3.4) as figure:
        axes: Axes = figure.subplots()
        for i, (name, rows) in enumerate(by_set(texts).items()):
            axes.scatter(
                [row[key] for row in rows],
                [row["confidence"] for row in rows],
                s=11,
                alpha=0.75,
                linewidths=0,
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                label=_label(name),
                rasterized=len(texts) > _MANY,
            )
        values = [row["confidence"] for row in texts]
        said = correlation(texts, key)
        axes.set_title(said)
        if is_wide(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_PLAIN)
        axes.set_xlabel(label)
        axes.set_ylabel("confidence")
        figure.legend(loc="outside lower center", ncols=3, markerscale=2)
        return Drawing(figure, f"Scatter plot of confidence against {label}. {said}")


def _layers(shares: dict[str, dict[str, float]]) -> Drawing:
    """Each layer group's share of the score: by what a matrix is, and by where it is."""
    kinds, blocks = shares["matrix"], shares["block"]
    with new_figure(2.2 + 0.17 * len(kinds)) as figure:
        above, below = figure.subplots(2, height_ratios=[0.17 * len(kinds), 1.4])
        above.barh(range(len(kinds)), list(kinds.values()), color=COLOURS[0])
        above.set_yticks(range(len(kinds)), [_label(name) for name in kinds])
        above.invert_yaxis()
        above.xaxis.set_major_formatter(PercentFormatter(1, 0))
        below.bar(range(len(blocks)), list(blocks.values()), color=COLOURS[0])
        every = range(0, len(blocks), -(-len(blocks) // 10))
        names = [_label(name.removeprefix("block ")) for name in blocks]
        below.set_xticks(every, [names[i] for i in every])
        below.yaxis.set_major_formatter(PercentFormatter(1, 0))
        below.set_xlabel("block")
        figure.supylabel("share of the score", fontsize=9)
        most = [max(group, key=lambda name: group[name]) for group in (kinds, blocks)]
        said = ", ".join(
            f"{clean(name)} has most with {percent(group[name])} %"
            for name, group in zip(most, (kinds, blocks), strict=True)
        )
        return Drawing(figure, f"Bar charts of layers' shares of the score: {said}")


def _label(name: str) -> str:
    return shorten(clean(name), 24)


def _ends(name: str, values: list[float]) -> str:
    return f"{name} from {decimal(values[0])} to {decimal(values[-1])}"
