"""Figures of a study's results."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from letgo.evaluation.effects import worth
from letgo.run.folder import Row
from letgo.study.markdown import title_of
from letgo.study.plan import Cell, settings_of

COLUMNS = 4
FAR = 30  # points; longer intervals, which few seeds can have, end in an arrow there


def draw(results: Row, files: Mapping[Cell, Row], folder: Path) -> None:
    """Draw `forest.png`, `curves.png`, and per method with several sets `heatmap-METHOD.png`.

    Methods with the same settings share one heat map, named after the first.
    """
    if results["effects"]:
        _forest(results["effects"], folder / "forest.png")
    _curves(files, folder / "curves.png")
    same_settings: dict[str, list[str]] = {}
    for name, method in results["study"]["methods"].items():
        same_settings.setdefault(settings_of(method), []).append(name)
    for names in same_settings.values():
        rows = [row for row in results["effects"] if row["method"] in names]
        if len({row["forget"] for row in rows}) > 1:
            _heat_map(rows, ", ".join(names), folder / f"heatmap-{names[0]}.png")


def _curves(files: Mapping[Cell, Row], file: Path) -> None:
    """Learning losses of the method and of SFT, means over the runs that logged both."""
    groups: dict[str, list[Row]] = {}
    for cell, content in files.items():
        if all(losses for _, losses in content["curves"].values()):  # no SFT: not --optimum full
            groups.setdefault(", ".join(cell[:3]), []).append(content["curves"])
    if not groups:
        return
    height = -(-len(groups) // COLUMNS)
    figure, axes = plt.subplots(height, COLUMNS, figsize=(3 * COLUMNS, 2 * height), squeeze=False)
    for (title, runs), axis in zip(groups.items(), axes.flat, strict=False):
        length = min(len(losses) for run in runs for _, losses in run.values())
        for name, color in (("sft", "tab:gray"), ("method", "tab:blue")):
            mean = np.mean([run[name][1][:length] for run in runs], 0)
            axis.plot(runs[0]["method"][0][:length], mean, linewidth=1, color=color, label=name)
        axis.set_title(f"{title} ({len(runs)})", size=8)
        axis.set_yscale("log")
        axis.tick_params(which="both", labelsize=6)
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    axes[0, 0].legend(fontsize=7)
    figure.supxlabel("learning steps", size=8)
    figure.supylabel("learning loss (runs)", size=8)
    figure.tight_layout()
    _save(figure, file)


def _forest(rows: list[Row], file: Path) -> None:
    """One line per task, forgetting set and method."""
    rows = sorted(rows, key=lambda row: (row["task"], row["forget"], row["method"]))
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.26 * len(rows)))
    effects = [worth(row) or {} for row in rows]
    means = [100 * effect["difference"] for effect in effects]
    ends = 100 * np.array([effect["ci95"] for effect in effects]).T
    heights = np.arange(len(rows))[::-1]
    axes.hlines(heights, *ends, color="tab:blue")
    axes.plot(means, heights, "o", color="tab:blue", markersize=4)
    bound = 1.05 * max(np.abs(means).max(), min(FAR, np.abs(ends).max()))
    for side, arrow, end in ((-1, "<", ends[0]), (1, ">", ends[1])):
        cut = heights[side * end > bound]
        axes.plot(np.full(len(cut), side * bound), cut, arrow, color="tab:blue", clip_on=False)
    axes.set_xlim(-bound, bound)
    axes.axvline(0, color="black", linewidth=0.8)
    names = [
        f"{row['task']}, {row['forget']}, {row['method']} ({effect['seeds']})"
        for row, effect in zip(rows, effects, strict=True)
    ]
    axes.set_yticks(heights, names, size=8)
    axes.set_xlabel(f"{title_of(rows)} minus SFT's, points, 95 % interval (seeds)")
    axes.margins(y=0.5 / len(rows))
    _save(figure, file)


def _heat_map(rows: list[Row], title: str, file: Path) -> None:
    """Accuracy differences of methods with the same settings, task by forgetting set."""
    tasks, sets = (list(dict.fromkeys(row[key] for row in rows)) for key in ("task", "forget"))
    values = np.full((len(tasks), len(sets)), np.nan)
    for row in rows:
        cell = tasks.index(row["task"]), sets.index(row["forget"])
        values[cell] = 100 * (worth(row) or {})["difference"]
    bound = max(1.0, float(np.nanmax(np.abs(values))))
    figure, axes = plt.subplots(figsize=(2.5 + 0.8 * len(sets), 1.5 + 0.5 * len(tasks)))
    image = axes.imshow(values, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            color = "white" if abs(value) > 0.6 * bound else "black"
            axes.text(x, y, f"{value:+.1f}", ha="center", va="center", size=8, color=color)
    axes.set_xticks(range(len(sets)), sets, rotation=45, ha="right")
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set(xlabel="forgetting set", ylabel="learning task", title=title)
    figure.colorbar(image, label="points")
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=130, bbox_inches="tight")
    plt.close(figure)
