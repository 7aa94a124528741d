"""Parts of the page as HTML; nothing in a text can become markup."""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from letgo.errors import InputError
from letgo.report.formats import clean, shorten, significant
from letgo.report.outcomes import summaries
from letgo.review.session import Review
from letgo.run.audit import UNLEARN
from letgo.run.decisions import DROP
from letgo.run.folder import METRICS, read_json, readable

# Part of a text, its NLL in nats under the base model, and by how much learning has raised it.
Piece = tuple[str, float, float | None]

BINS, WIDTH, HEIGHT = 60, 600, 120
HARD = 4.0  # NLL in nats that gets the strongest colour


def escape(text: str) -> str:
    """A text without markup, control characters and the placeholders of gradio's templates."""
    escaped = html.escape(clean(text))
    return escaped.replace("$", "&#36;").replace("{", "&#123;").replace("`", "&#96;")


def status(review: Review, error: str = "") -> str:
    """How many texts will be forgotten, who decided, and why the last request failed if it did."""
    included, excluded = (int((review.person == sign).sum()) for sign in (1, -1))
    count = int(review.selected.sum())
    text = f"<b>{count:,} of {len(review.ids):,} texts</b> will be forgotten"
    if included:
        text += f", {included:,} of them by a person's decision"
    if excluded:
        text += f"; {excluded:,} are kept by a person's decision"
    entered, left = review.selected & ~review.previous, ~review.selected & review.previous
    if entered.any() or left.any():
        text += f". Last action: {int(entered.sum()):,} in, {int(left.sum()):,} out"
    if review.audit is not None:
        counts = {name: int((review.treatments == name).sum()) for name in (UNLEARN, DROP)}
        learned = (
            f"of {len(review.audit_ids):,} learning examples {counts[UNLEARN]:,} are unlearned"
        )
        learned += f" and {counts[DROP]:,} dropped"
        text = f"{text}; {learned}" if review.ids else f"<b>{learned}</b>"
    notes = [f"Read-only: {review.read_only}"] * bool(review.read_only) + review.warnings
    notes += [error] * bool(error)
    banner = "".join(f'<b class="banner">{escape(shorten(note, 500))}.</b> ' for note in notes)
    return f'<p id="status">{banner}{text}.</p>{outcomes(review)}'


def outcomes(review: Review) -> str:
    """What the last evaluation of the run found; nothing before it."""
    file = review.folder / METRICS.name
    try:
        with readable(file):
            metrics = read_json(file)
            lines = summaries(metrics.get("outcomes") or {})
            if not lines:
                return ""
            returned = "the SFT baseline" if metrics["verdict"] == "sft" else "LWF's"
    except InputError as error:
        return f'<p id="outcomes">{escape(str(error))}</p>'
    found = escape(" \N{MIDDLE DOT} ".join(lines))
    return (
        f'<p id="outcomes">Evaluated on test prompts: {found}. '
        f"<code>model/</code> is {returned}.</p>"
    )


def preview(entering: int, leaving: int) -> str:
    """The effect of a share that was typed but not applied."""
    return f"<p>{entering:,} texts come in, {leaving:,} go out.</p>"


def histogram(review: Review, fraction: float | None = None) -> str:
    """Histograms of the confidence of all and of the selected texts, as SVG.

    The line marks the threshold for this fraction, by default for the current one.
    """
    confidence = review.texts.column("confidence")
    finite = np.isfinite(confidence)
    if not finite.any():
        return ""
    low, high = float(confidence[finite].min()), float(confidence[finite].max())
    high = high if high > low else low + 1.0
    edges = np.linspace(low, high, BINS + 1)
    every, _ = np.histogram(confidence[finite], edges)
    selected, _ = np.histogram(confidence[finite & review.selected], edges)
    most = max(1, int(every.max()))
    bars = _bars(every, most, "all") + _bars(selected, most, "selected")
    line, threshold = "", review.threshold(fraction)
    if threshold is not None:
        x = WIDTH * (threshold - low) / (high - low)
        line = f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>'
    return (
        f'<figure class="histogram"><svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
        f'role="img" aria-label="Histogram of confidence">{bars}{line}</svg>'
        f"<figcaption><span>{significant(low, 3)}</span>"
        f"<span>confidence ({escape(review.texts.score)}); "
        f"threshold <b>{significant(threshold, 4)}</b></span>"
        f"<span>{significant(high, 3)}</span></figcaption></figure>"
    )


def _bars(counts: np.ndarray, most: int, css_class: str) -> str:
    step = WIDTH / BINS
    # The square root keeps small counts visible.
    heights = [HEIGHT * math.sqrt(count / most) for count in counts]
    return "".join(
        f'<rect class="{css_class}" x="{i * step:.1f}" y="{HEIGHT - height:.1f}" '
        f'width="{step - 1:.1f}" height="{height:.1f}"><title>{count:,} texts</title></rect>'
        for i, (count, height) in enumerate(zip(counts, heights, strict=True))
        if count
    )


def text(review: Review, index: int, pieces: Sequence[Piece] | None, note: str = "") -> str:
    """One text: its numbers, its prompt and its answer, coloured by NLL if split into `pieces`.

    What learning has made less likely is underlined.
    """
    row: dict[str, Any] = review.texts.table.slice(index, 1).to_pylist()[0]
    outcome = "to be forgotten" if review.selected[index] else "kept"
    decider = "a person" if review.person[index] else "the score"
    answer = escape(row["completion"])
    if pieces is not None:
        answer = "".join(_token(*piece) for piece in pieces)
    end = " (cut off)" if row["finish_reason"] == "length" else ""
    return (
        f'<div class="opened"><p class="facts"><b>{escape(row["id"])}</b> '
        f"set {escape(row['forget_set'])} · {outcome}, by {decider} · "
        f"confidence {significant(row['confidence'])} · loss "
        f"{significant(row['loss_base'], 4)} nats per token · {row['tokens']} tokens{end}</p>"
        f'<p class="label">prompt</p><p class="passage" dir="auto">{escape(row["prompt"])}</p>'
        f'<p class="label">the base model\'s answer</p>'
        f'<p class="passage" dir="auto">{answer}</p><p class="label">{escape(note)}</p></div>'
    )


def _token(piece: str, nll: float, change: float | None) -> str:
    """A piece of an answer as HTML."""
    conflict = " conflict" if change is not None and change > 0 else ""
    changed = "" if change is None else f", {change:+.2f} by learning"
    return (
        f'<span class="token{conflict}" style="--loss: {min(nll / HARD, 1):.2f}" '
        f'title="{nll:.2f} nats{changed}">{escape(piece)}</span>'
    )
