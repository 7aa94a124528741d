"""Explaining a ranking: the shares of the layers, and two confounders, length and loss."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
from scipy.stats import spearmanr

from letgo.errors import InputError

WARN_ABOVE = 0.8  # squared rank correlation with a confounder


def kind(name: str) -> str:
    """A matrix's name in its block: "self_attn.q_proj" of "model.layers.3.self_attn.q_proj"."""
    return re.sub(r"^.*?\.\d+\.|\[\d+\]$", "", name)


def block(name: str) -> str:
    """The block of a matrix ("block 3"), or the matrix's name if it is in none."""
    match = re.search(r"\.(\d+)\.", name)
    return f"block {match.group(1)}" if match else name


def layer_shares(metadata: Mapping[bytes, bytes] | None) -> dict[str, dict[str, float]]:
    """Each layer group's share, a fraction of 1, of the gradient product that the score uses.

    It is read from the metadata of the schema of a `scores.parquet`.

    Returns:
        shares by "matrix" and by "block", blocks in ascending order; empty for a score that uses
        losses only.
    """
    shares: dict[str, float] = json.loads((metadata or {}).get(b"shares", b"{}"))
    total = sum(shares.values())
    if not total:
        return {}
    grouped: dict[str, dict[str, float]] = {"matrix": {}, "block": {}}
    for name in sorted(shares, key=_in_order):
        for groups, key in ((grouped["matrix"], kind(name)), (grouped["block"], block(name))):
            groups[key] = groups.get(key, 0.0) + shares[name] / total
    return grouped


def explain(file: Path) -> str:
    """The text that `letgo score --explain` prints about a `scores.parquet`.

    The share of a group of matrices is the mean absolute value of its part of the gradient product
    that the score uses. A confounder explains as much of the ranking as the square of its rank
    correlation with the score.

    Raises:
        InputError: there is no such file.
    """
    if not file.exists():
        raise InputError(f"--output_dir: there is no {file}; run `letgo score` first")
    table = pq.read_table(file)
    rows = [row for row in table.to_pylist() if row["confidence"] == row["confidence"]]
    name = rows[0]["score"]
    lines = [f"score {name}, {len(rows)} texts", ""]
    grouped = layer_shares(table.schema.metadata)
    for title, shares in grouped.items():
        bars = [f"  {n:28} {share:6.1%} {'#' * round(40 * share)}" for n, share in shares.items()]
        lines += [f"{'share by ' + title:40}", *bars, ""]
    if not grouped:
        lines += ["this score uses losses, not gradients, so layers have no shares", ""]
    for label, column in (("length in tokens", "tokens"), ("loss of the base model", "loss_base")):
        values = [row[column] for row in rows]
        confidence = [row["confidence"] for row in rows]
        varied = len(set(values)) > 1 and len(set(confidence)) > 1
        rho = float(spearmanr(confidence, values).statistic) if varied else 0.0
        lines.append(f"rank correlation with {label:24} {rho:+.2f} (explains {rho**2:.0%})")
        if rho**2 > WARN_ABOVE:
            lines.append(f"WARNING: the ranking follows the {label}; choose another --score")
    return "\n".join(lines)


def _in_order(name: str) -> list[str | int]:
    """A sort key that puts block 10 after block 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
