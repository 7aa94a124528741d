"""The pictures of the page, each from data to the text of an inline SVG and its description."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from scipy.stats import spearmanr

from letgo.report.drawing import COLOURS, INK, MARKERS, Picture, draw, new_figure
from letgo.report.formats import clean, decimal, shorten, significant
from letgo.report.training import Training

# Above this many marks an embedded bitmap is smaller than a drawn element for each.
_MANY = 800
_BINS = 30
# Powers of ten would come as formulas, which letters left to the browser cannot show.
_PLAIN = "{x:g}"


def loss_curves(sft: Training, lwf: Training) -> Picture | None:
    """Draw learning loss over learning steps, and below it the NLL of the texts unlearned.

    Args:
        sft: the plain fine-tuning run, with empty curves where it is not known.
        lwf: the run with forgetting.

    Returns:
        The picture, or None where there is nothing to draw.
    """
    runs = [("SFT", sft, COLOURS[0], "--"), ("LWF", lwf, COLOURS[1], "-")]
    runs = [run for run in runs if run[1].learning[0]]
    panels = bool(runs) + bool(lwf.unlearning[0])
    if not panels:
        return None
    said = []
    with new_figure(1.1 + 1.7 * panels) as figure:
        axes = list(figure.subplots(panels, sharex=True, squeeze=False)[:, 0])
        if runs:
            for name, run, colour, line in runs:
                single = "o" if len(run.learning[0]) == 1 else ""
                axes[0].plot(*run.learning, line, marker=single, color=colour, label=name)
                said.append(_ends(f"learning loss of {name}", run.learning[1]))
            axes[0].set_ylabel("learning loss")
        if lwf.unlearning[0]:
            steps, nll = lwf.unlearning
            many = len(steps) > _MANY
            axes[-1].plot(steps, nll, "o-", color=COLOURS[3], markersize=2.5, rasterized=many)
            axes[-1].set_ylabel("unlearning NLL\n(nats per token)")
            axes[0].plot(steps, np.full(len(steps), 0.02), "|", color=COLOURS[3], markersize=6,
                         transform=axes[0].get_xaxis_transform(), label="unlearning step",
                         rasterized=many)  # fmt: skip
            said.append(_ends("NLL of the unlearned texts", nll))
        axes[-1].set_xlabel("learning steps")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside upper center", ncols=3)
        return draw(figure, "loss", "Line chart over learning steps: " + "; ".join(said))


def confidence_histogram(texts: list[dict[str, Any]], threshold: float | None) -> Picture:
    """Draw how the confidence of each forgetting set is spread, and where selection began.

    Args:
        texts: rows with "forget_set", "confidence" (finite) and "selected".
        threshold: the lowest confidence selected, None where nothing was.
    """
    sets = _by_set(texts)
    values = [row["confidence"] for row in texts]
    edges = _bin_edges(values)
    with new_figure(0.8 + 1.2 * len(sets)) as figure:
        panels = figure.subplots(len(sets), sharex=True, squeeze=False)[:, 0]
        for i, (axes, (name, rows)) in enumerate(zip(panels, sets.items(), strict=True)):
            colour = COLOURS[i % len(COLOURS)]
            groups = [[row["confidence"] for row in rows if row["selected"] == kept]
                      for kept in (True, False)]  # fmt: skip
            axes.hist(groups[0] + groups[1], edges, color=colour, alpha=0.45)
            axes.hist(groups[0], edges, color=colour)
            axes.set_title(f"{_label(name)}, n = {len(rows)}", loc="left")
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            if threshold is not None:
                axes.axvline(threshold, color=INK, linestyle="--", linewidth=1)
        if _wide(values):
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
        return draw(figure, "histogram", said)


def confidence_scatter(texts: list[dict[str, Any]], key: str, label: str) -> Picture:
    """Draw the confidence of each text against another number known of it.

    Args:
        texts: rows with "forget_set", "confidence" and `key` (both finite).
        key: the column for the horizontal axis.
        label: what that column is called.
    """
    with new_figure(3.4) as figure:
        axes: Axes = figure.subplots()
        for i, (name, rows) in enumerate(_by_set(texts).items()):
            axes.scatter([row[key] for row in rows], [row["confidence"] for row in rows], s=11,
                         alpha=0.75, linewidths=0, color=COLOURS[i % len(COLOURS)],
                         marker=MARKERS[i % len(MARKERS)], label=_label(name),
                         rasterized=len(texts) > _MANY)  # fmt: skip
        values = [row["confidence"] for row in texts]
        correlation = rank_correlation([row[key] for row in texts], values)
        said = f"Spearman's \N{GREEK SMALL LETTER RHO} = {decimal(correlation)}, n = {len(texts)}"
        axes.set_title(said)
        if _wide(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_PLAIN)
        axes.set_xlabel(label)
        axes.set_ylabel("confidence")
        figure.legend(loc="outside lower center", ncols=3, markerscale=2)
        return draw(figure, key, f"Scatter plot of confidence against {label}. {said}")


def rank_correlation(x: list[float], y: list[float]) -> float | None:
    """Return Spearman's rank correlation, None where there is too little to have one."""
    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return float(spearmanr(x, y).statistic)


def _by_set(texts: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    names = dict.fromkeys(row["forget_set"] for row in texts)
    return {name: [row for row in texts if row["forget_set"] == name] for name in names}


def _wide(values: list[float]) -> bool:
    # A squared distance may spread over orders of magnitude.
    return min(values) > 0 and max(values) > 100 * min(values)


def _bin_edges(values: list[float]) -> Any:
    low, high = min(values), max(values)
    if _wide(values):
        return np.geomspace(low, high, _BINS + 1)
    if high - low <= 1e-9 * abs(high):  # too little to cut into bins
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    return np.linspace(low, high, _BINS + 1)


def _label(name: str) -> str:
    return shorten(clean(name), 24)


def _ends(name: str, values: list[float]) -> str:
    return f"{name} from {decimal(values[0])} to {decimal(values[-1])}"
