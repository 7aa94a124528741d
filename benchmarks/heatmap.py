"""A heat map of scores by cases, with a number in every cell."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np


def draw(
    judged: Mapping[str, Mapping[str, float]],
    cases: Sequence[str],
    neutral: float,
    label: str,
    file: Path,
) -> None:
    """Draw the figures of every score in every case, the best scores first.

    Args:
        judged: figures by score and case.
        cases: the columns, in this order.
        neutral: the figure of a random score; a perfect one has 1.
        label: name of the figures, for the color bar.
        file: the PNG file to write.
    """
    values = {n: [by.get(case, np.nan) for case in cases] for n, by in judged.items()}
    names = sorted(values, key=lambda name: -np.nanmean(values[name]))
    table = np.array([values[name] for name in names])
    figure, axes = plt.subplots(figsize=(4 + 0.45 * len(cases), 2.5 + 0.3 * len(names)))
    image = axes.imshow(table, cmap="RdBu", vmin=2 * neutral - 1, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(table):
        if np.isfinite(value):
            strong = abs(value - neutral) > 0.6 * (1 - neutral)
            text = f"{value:.2f}".replace("0.", ".")
            axes.text(
                x, y, text, ha="center", va="center", size=6, color="white" if strong else "black"
            )
    axes.set_xticks(range(len(cases)), cases, rotation=60, ha="right", size=7)
    axes.set_yticks(range(len(names)), names, size=7)
    figure.colorbar(image, label=label)
    figure.savefig(file, dpi=130, bbox_inches="tight")
    plt.close(figure)
