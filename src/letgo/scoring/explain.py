"""What a ranking is made of: layers, and the two confounders, length and loss."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
from scipy.stats import spearmanr

from letgo.errors import InputError

MOST = 0.8  # of the ranking's variance that a confounder may explain without a warning


def kind(name: str) -> str:
    """What a matrix is in its block: "self_attn.q_proj" for "model.layers.3.self_attn.q_proj"."""
    return re.sub(r"^.*?\.\d+\.|\[\d+\]$", "", name)


def block(name: str) -> str:
    """Which block a matrix is in, or what it is if it is in none."""
    found = re.search(r"\.(\d+)\.", name)
    return f"block {found.group(1)}" if found else name


def layer_shares(metadata: Mapping[bytes, bytes] | None) -> dict[str, dict[str, float]]:
    """Each layer group's share of the product that the scores are made of, a fraction of 1.

    Args:
        metadata: of the schema of a `scores.parquet`.

    Returns:
        shares by "matrix" and by "block", blocks in their order; empty for a score that is made of
        losses.
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
    """What stands behind the ranking in a `scores.parquet`, as text.

    The share of a group of matrices is the mean size of what it adds to the product that the score
    is made of. A confounder explains the squared rank correlation of the ranking.

    Raises:
        InputError: no such file, or one of an older letgo.
    """
    if not file.exists():
        raise InputError(f"--output_dir: there is no {file}; run `letgo score` first")
    table = pq.read_table(file)
    rows = [row for row in table.to_pylist() if row["confidence"] == row["confidence"]]
    name = rows[0]["score"]
    lines = [f"score {name}, {len(rows)} texts", ""]
    grouped = layer_shares(table.schema.metadata)
    for title, shares in grouped.items():
        lines += [f"{'share by ' + title:40}", *_bars(shares), ""]
    if not grouped:
        lines += ["made of losses, not of gradients: no layer has a share", ""]
    for label, column in (("length in tokens", "tokens"), ("loss of the base model", "loss_base")):
        values = [row[column] for row in rows]
        confidence = [row["confidence"] for row in rows]
        varied = len(set(values)) > 1 and len(set(confidence)) > 1
        rho = float(spearmanr(confidence, values).statistic) if varied else 0.0
        lines.append(f"rank correlation with {label:24} {rho:+.2f} (explains {rho**2:.0%})")
        if rho**2 > MOST:
            lines.append(f"WARNING: the ranking is hardly more than the {label}; change --score")
    return "\n".join(lines)


def _in_order(name: str) -> list[str | int]:
    """A key that puts block 10 behind block 9; the file has the order of a backward pass."""
    parts: list[str | int] = re.split(r"(\d+)", name)  # words and numbers take turns
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _bars(shares: dict[str, float]) -> list[str]:
    return [f"  {name:28} {share:6.1%} {'#' * round(40 * share)}" for name, share in shares.items()]
