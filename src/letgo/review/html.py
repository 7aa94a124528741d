"""What the page shows, as HTML; nothing of a text is ever markup."""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from letgo.report.formats import clean, significant
from letgo.review.session import Review
from letgo.review.token_losses import Piece

BINS = 60
WIDTH, HEIGHT = 600, 120
HARD = 4.0  # nats of a token in the strongest colour


def plain(text: str) -> str:
    """A text that a browser shows as it is: no markup, no control characters, no template."""
    shown = html.escape(clean(text))
    return shown.replace("$", "&#36;").replace("{", "&#123;").replace("`", "&#96;")


def status(review: Review) -> str:
    """How many texts are to be forgotten, and by whose will."""
    forced, kept = (int((review.person == way).sum()) for way in (1, -1))
    chosen = int(review.selected.sum())
    said = f"<b>{chosen:,} of {len(review.ids):,} texts</b> are to be forgotten"
    if forced:
        said += f", {forced:,} because a person said so"
    if kept:
        said += f"; {kept:,} are kept because a person said so"
    arrived, left = review.selected & ~review.before, ~review.selected & review.before
    if arrived.any() or left.any():
        said += f". Last step: {int(arrived.sum()):,} in, {int(left.sum()):,} out"
    banner = f"Read-only: {plain(review.read_only)}. " if review.read_only else ""
    return f'<p id="status"><b class="banner">{banner}</b>{said}.</p>'


def trial(arrive: int, leave: int) -> str:
    """What a threshold would do that is being dragged."""
    return f'<p id="status">Letting go here: {arrive:,} texts come in, {leave:,} go out.</p>'


def histogram(review: Review, fraction: float | None = None) -> str:
    """How the confidence is spread, which of it is to be forgotten, and the threshold.

    Args:
        review: the run.
        fraction: of a threshold that is being tried.
    """
    confidence = review.texts.column("confidence")
    finite = np.isfinite(confidence)
    if not finite.any():
        return ""
    low, high = float(confidence[finite].min()), float(confidence[finite].max())
    high = high if high > low else low + 1.0
    edges = np.linspace(low, high, BINS + 1)
    every, _ = np.histogram(confidence[finite], edges)
    chosen, _ = np.histogram(confidence[finite & review.selected], edges)
    top, step = max(1, int(every.max())), WIDTH / BINS

    def bars(counts: np.ndarray, name: str) -> str:
        # The square root keeps what is rare in sight.
        heights = [HEIGHT * math.sqrt(count / top) for count in counts]
        return "".join(
            f'<rect class="{name}" x="{i * step:.1f}" y="{HEIGHT - height:.1f}" '
            f'width="{step - 1:.1f}" height="{height:.1f}"><title>{count:,} texts</title></rect>'
            for i, (count, height) in enumerate(zip(counts, heights, strict=True))
            if count
        )

    line, threshold = "", review.threshold(fraction)
    if threshold is not None:
        x = WIDTH * (threshold - low) / (high - low)
        line = f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{HEIGHT}"/>'
    return (
        f'<figure class="histogram"><svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
        f'role="img" aria-label="Histogram of confidence">{bars(every, "all")}'
        f"{bars(chosen, 'chosen')}{line}</svg><figcaption><span>{significant(low, 3)}</span>"
        f"<span>confidence ({plain(review.texts.score)}); "
        f"threshold <b>{significant(threshold, 4)}</b></span>"
        f"<span>{significant(high, 3)}</span></figcaption></figure>"
    )


def opened(review: Review, row: int, coloured: Sequence[Piece] | None, note: str = "") -> str:
    """One text: its numbers, its prompt, and its answer, coloured where losses are known.

    Args:
        review: the run.
        row: place of the text.
        coloured: the answer in pieces with their NLL in nats.
        note: why it is not coloured.
    """
    text: dict[str, Any] = review.texts.table.slice(row, 1).to_pylist()[0]
    fate = "to be forgotten" if review.selected[row] else "kept"
    who = "a person" if review.person[row] else "the score"
    answer = plain(text["completion"])
    if coloured is not None:
        answer = "".join(
            f'<span class="token" style="--loss: {min(nll / HARD, 1):.2f}" '
            f'title="{nll:.2f} nats">{plain(letters)}</span>'
            for letters, nll in coloured
        )
    end = " (cut off)" if text["finish_reason"] == "length" else ""
    return (
        f'<div class="opened"><p class="facts"><b>{plain(text["id"])}</b> '
        f"set {plain(text['forget_set'])} · {fate}, by {who} · "
        f"confidence {significant(text['confidence'])} · loss "
        f"{significant(text['loss_base'], 4)} nats per token · {text['tokens']} tokens{end}</p>"
        f'<p class="label">prompt</p><p class="said" dir="auto">{plain(text["prompt"])}</p>'
        f'<p class="label">the base model\'s answer</p><p class="said" dir="auto">{answer}</p>'
        f'<p class="label">{plain(note)}</p></div>'
    )
