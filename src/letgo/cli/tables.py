"""Results as text for the terminal."""

import textwrap
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from letgo.evaluation.asking import LABELS
from letgo.run.folder import read_json
from letgo.run.inputs import Run


def result_table(metrics: dict[str, Any]) -> str:
    """Accuracy of base, SFT and LWF with intervals, and the paired difference, as text."""
    sets = list(metrics["models"]["lwf"])
    lines = [f"{'accuracy, 95 % interval':26}" + "".join(f"{name:>24}" for name in sets)]
    for model, label in LABELS.items():
        if model in metrics["models"]:
            cells = [_cell(metrics["models"][model].get(name)) for name in sets]
            lines.append(f"{label:26}" + "".join(f"{cell:>24}" for cell in cells))
    lines.append(f"{'n':26}" + "".join(f"{metrics['models']['lwf'][n]['n']:>24}" for n in sets))
    neutral = ", ".join(f"{m} {value:.2f}" for m, value in metrics["neutral_perplexity"].items())
    neutral = f"perplexity of neutral text: {neutral}"
    if not metrics["lwf_minus_sft"]:
        return "\n".join([*lines, neutral])
    paired = [metrics["lwf_minus_sft"][name] for name in sets]
    cells = [f"{p['difference']:+.3f} [{p['ci95'][0]:+.3f}, {p['ci95'][1]:+.3f}]" for p in paired]
    lines.append(f"{'LWF - SFT, paired':26}" + "".join(f"{cell:>24}" for cell in cells))
    lines.append(f"{'p (McNemar, exact)':26}" + "".join(f"{p['p_value']:>24.3g}" for p in paired))
    return "\n".join([*lines, neutral])


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "-"
    return f"{score['accuracy']:.3f} [{score['ci95'][0]:.3f}, {score['ci95'][1]:.3f}]"


def texts(folder: Path, count: int = 3) -> str:
    """The self-generated texts with the highest and the lowest confidence, as text."""
    scores = pq.read_table(folder / "scores.parquet").to_pylist()
    known = {t["id"]: t for t in pq.read_table(folder / "self_knowledge.parquet").to_pylist()}
    ranked = sorted(scores, key=lambda row: (-row["confidence"], row["id"]))
    lines = []
    for title, rows in (("highest", ranked[:count]), ("lowest", ranked[-count:])):
        lines.append(f"\n{title} forgetting confidence:")
        for row in rows:
            text = known[row["id"]]
            said = textwrap.shorten(
                f"{text['prompt']} -> {text['completion']}", 90, placeholder=" ..."
            )
            lines.append(f"  {row['confidence']:.4g}  [{row['forget_set']}] {said}")
    return "\n".join(lines) + "\n"


def _verdict(run: Run) -> str:
    metrics, kept = read_json(run.folder / "metrics.json"), run.folder / "model"
    count = metrics.get("models", {}).get("lwf", {}).get("validation", {}).get("n")
    return {
        "lwf": f"verdict: LWF gains on {count} validation examples; {kept} is LWF's",
        "sft": f"verdict: no gain shown on {count} validation examples; {kept} is that of plain "
        f"fine-tuning (LWF's: {run.folder / 'lwf'})"
        if count
        else f"verdict: nothing was unlearned; {kept} is that of plain fine-tuning",
        "no baseline": f"{kept} is LWF's; with --optimum full it would be compared with plain "
        "fine-tuning",
        None: "no verdict yet: letgo evaluate asks the models",
    }[metrics.get("verdict")]
