"""The pictures of a run as plotly figures, for the screen: plain mappings, drawn by plots.js.

They bear the names of the drawings in figures.py that they stand in for. What has the colour "ink"
gets that of the page's letters; fonts, grids and margins are plots.js's too.
"""

import html
import math
import textwrap
from typing import Any

import numpy as np

from letgo.report.drawing import COLOURS
from letgo.report.figure_data import (
    CONFOUNDERS,
    Shown,
    acted,
    bin_edges,
    by_set,
    correlation,
    each_figure,
    is_wide,
    runs,
)
from letgo.report.formats import clean, decimal, shorten, significant

Plot = dict[str, Any]

_SYMBOLS = ("circle", "triangle-up", "square", "diamond", "triangle-down", "cross")
_MOST_POINTS = 1000


def plot_all(shown: Shown) -> dict[str, Plot]:
    """Return every plot there is something to show in, by the name of its drawing."""
    return each_figure(shown, _training, _confidence, _confounder, _layers)


def _training(shown: Shown) -> Plot:
    steps, nll = shown.lwf.unlearning
    guards, curves = acted(shown.lwf), runs(shown)
    heights = [170] * bool(curves) + [130] * bool(steps) + [18 * len(guards)] * bool(guards)
    domains = _stack(heights)
    # The last panel's y axis carries the axis that all share.
    last = _number(len(heights))
    layout: Plot = {
        "height": 110 + sum(heights) + 20 * len(heights),
        "hovermode": "x",
        "xaxis": {"title": {"text": "learning steps"}, "anchor": f"y{last}"},
    }
    data: list[Plot] = []
    for name, run in curves.items():
        line = {"color": COLOURS[name == "LWF"], "dash": "dash" if name == "SFT" else "solid"}
        data.append(
            {
                "name": name,
                "x": run.learning[0],
                "y": _finite(run.learning[1]),
                "mode": "lines+markers" if len(run.learning[0]) == 1 else "lines",
                "line": line,
                "hovertemplate": name + " %{y:.3f}<extra></extra>",
            }
        )
        layout["yaxis"] = {"title": {"text": "learning loss"}, "domain": domains[0]}
    if steps:
        axis = _number(1 + bool(curves))
        colour = {"color": COLOURS[3]}
        data += [
            {
                "name": "unlearning NLL",
                "x": steps,
                "y": _finite(nll),
                "mode": "lines+markers",
                "line": colour,
                "marker": {"size": 4},
                "yaxis": f"y{axis}",
                "showlegend": False,
                "hovertemplate": "NLL %{y:.3f}<extra></extra>",
            },
            {
                "name": "unlearning step",
                "x": steps,
                "y": [0.02] * len(steps),
                "mode": "markers",
                "marker": {"symbol": "line-ns-open", "size": 9, **colour},
                "yaxis": "y9",
                "hoverinfo": "skip",
            },
        ]
        layout[f"yaxis{axis}"] = {
            "title": {"text": "unlearning NLL<br>(nats per token)"},
            "domain": domains[bool(curves)],
        }
        layout["yaxis9"] = {
            "overlaying": "y",
            "range": [0, 1],
            "visible": False,
            "fixedrange": True,
        }
    for label, (at, counts) in guards.items():
        data.append(
            {
                "name": label,
                "x": at,
                "y": [label] * len(at),
                "text": counts,
                "mode": "markers",
                "marker": {"symbol": "x-thin-open", "color": "ink"},
                "yaxis": f"y{last}",
                "showlegend": False,
                "hovertemplate": label + ": %{text}<extra></extra>",
            }
        )
        layout[f"yaxis{last}"] = {
            "domain": domains[-1],
            "fixedrange": True,
            "autorange": "reversed",
            "type": "category",
        }
    return {"data": data, "layout": layout}


def _confidence(texts: list[dict[str, Any]], threshold: float | None) -> Plot:
    sets = by_set(texts)
    values = [row["confidence"] for row in texts]
    edges = bin_edges(values)
    domains = _stack([100] * len(sets), gap=0.3 / max(1, len(sets)))
    layout: Plot = {
        "height": 75 + 110 * len(sets),
        "showlegend": False,
        "hovermode": "x",
        "xaxis": {
            "title": {"text": "confidence"},
            "anchor": f"y{_number(len(sets))}",
            "type": "log" if is_wide(values) else "linear",
        },
        "annotations": [],
        "shapes": [],
    }
    if threshold is not None:
        layout["shapes"].append(
            {
                "type": "line",
                "xref": "x",
                "yref": "paper",
                "x0": threshold,
                "x1": threshold,
                "y0": 0,
                "y1": 1,
                "line": {"color": "ink", "dash": "dash", "width": 1},
            }
        )
    data = []
    for i, (name, rows) in enumerate(sets.items(), start=1):
        counts = [
            np.histogram([row["confidence"] for row in group], edges)[0].tolist()
            for group in (rows, [row for row in rows if row["selected"]])
        ]
        said = [
            f"{significant(low, 3)} to {significant(high, 3)}: {every} texts, {kept} selected"
            for low, high, every, kept in zip(edges, edges[1:], *counts, strict=False)
        ]
        colour = COLOURS[(i - 1) % len(COLOURS)]
        for j, (heights, tint) in enumerate(zip(counts, ("73", "ff"), strict=True)):
            # Steps between edges: bars have no width of their own on a logarithmic axis.
            data.append(
                {
                    "name": _label(name),
                    "x": edges.tolist(),
                    "y": [*heights, heights[-1]],
                    "yaxis": f"y{_number(i)}",
                    "mode": "lines",
                    "fill": "tozeroy",
                    "line": {"shape": "hv", "width": 0},
                    "fillcolor": colour + tint,
                    "text": [*said, said[-1]],
                    "hoverinfo": "skip" if j else "text",
                }
            )
        layout[f"yaxis{_number(i)}"] = {
            "domain": domains[i - 1],
            "rangemode": "tozero",
            "nticks": 4,
            "tickformat": "d",
            "fixedrange": True,
        }
        layout["annotations"].append(
            {
                "text": f"{_label(name)}, n = {len(rows)}",
                "xref": "paper",
                "yref": "paper",
                "x": 0,
                "y": domains[i - 1][1],
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
            }
        )
    return {"data": data, "layout": layout}


def _confounder(texts: list[dict[str, Any]], key: str) -> Plot:
    values = [row["confidence"] for row in texts]
    # Evenly from the most to the least confident: more would make a browser slow.
    ranked = sorted(texts, key=lambda row: -row["confidence"])
    drawn = ranked[:: -(-len(ranked) // _MOST_POINTS)]
    said = correlation(texts, key)
    if len(drawn) < len(texts):
        said += f" ({len(drawn)} of them drawn)"
    data = []
    for i, name in enumerate(by_set(texts)):
        rows = [row for row in drawn if row["forget_set"] == name]
        marker = {
            "size": 7,
            "opacity": 0.75,
            "color": COLOURS[i % len(COLOURS)],
            "symbol": _SYMBOLS[i % len(_SYMBOLS)],
        }
        data.append(
            {
                "name": _label(name),
                "mode": "markers",
                "x": [row[key] for row in rows],
                "y": [row["confidence"] for row in rows],
                "marker": marker,
                "text": [_words(row) for row in rows],
                "hoverinfo": "text",
            }
        )
    layout = {
        "height": 360,
        "hovermode": "closest",
        "showlegend": True,
        "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
        "title": {"text": said},
        "xaxis": {"title": {"text": CONFOUNDERS[key]}},
        "yaxis": {"title": {"text": "confidence"}, "type": "log" if is_wide(values) else "linear"},
    }
    return {"data": data, "layout": layout}


def _layers(shares: dict[str, dict[str, float]]) -> Plot:
    kinds, blocks = shares["matrix"], shares["block"]
    heights = [22 * len(kinds), 130]
    domains = _stack(heights, gap=0.15)
    bar = {"type": "bar", "marker": {"color": COLOURS[0]}, "textposition": "none"}
    data = [
        {
            **bar,
            "orientation": "h",
            "x": list(kinds.values()),
            "y": [_escape(n) for n in kinds],
            "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
        },
        {
            **bar,
            "x": [_escape(n.removeprefix("block ")) for n in blocks],
            "y": list(blocks.values()),
            "xaxis": "x2",
            "yaxis": "y2",
            "hovertemplate": "block %{x}: %{y:.1%}<extra></extra>",
        },
    ]
    share = {"tickformat": ".0%", "rangemode": "tozero"}
    layout = {
        "height": 110 + sum(heights),
        "showlegend": False,
        "xaxis": {**share, "anchor": "y"},
        "yaxis": {"domain": domains[0], "autorange": "reversed", "type": "category"},
        "xaxis2": {
            "anchor": "y2",
            "type": "category",
            "title": {"text": "block"},
            "tickangle": 0,
            "nticks": 12,
        },
        "yaxis2": {**share, "domain": domains[1]},
    }
    return {"data": data, "layout": layout}


def _number(place: int) -> str:
    """Return what plotly calls an axis by, behind its letter: the first has no number."""
    return "" if place == 1 else str(place)


def _stack(heights: list[int], gap: float = 0.06) -> list[list[float]]:
    """Return where panels of these heights lie, the first on top: [lowest, highest] of 0 to 1."""
    scale = (1 - gap * (len(heights) - 1)) / sum(heights)
    tops = [1 - sum(heights[:i]) * scale - i * gap for i in range(len(heights))]
    return [[max(0, top - height * scale), top] for top, height in zip(tops, heights, strict=True)]


def _words(row: dict[str, Any]) -> str:
    kept = "selected" if row["selected"] else "not selected"
    numbers = f"{row['tokens']} tokens, loss of the base model {decimal(row['loss_base'], 3)}"
    parts = [
        [
            f"{shorten(clean(row['forget_set']), 24)}: "
            f"confidence {significant(row['confidence'])}, {kept}",
            numbers,
        ],
        *(textwrap.wrap(shorten(clean(row[key]), 120), 60) for key in ("prompt", "completion")),
    ]
    return "<br>".join(_escape(line) for lines in parts for line in lines)


def _label(name: str) -> str:
    return _escape(shorten(clean(name), 24))


def _escape(text: str) -> str:
    # Plotly takes texts for HTML, if only for a little of it.
    return html.escape(clean(text), quote=False)


def _finite(values: list[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]
