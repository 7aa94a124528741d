"""Time of the review's operations with a hundred thousand texts.

usage: python benchmarks/review.py [--texts 100000]   writes benchmarks/results/review.json
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from machine import machine

from letgo.review import html, view
from letgo.review.query import take_page
from letgo.review.session import Review
from letgo.review.view import Controls
from letgo.run import decisions
from letgo.run.provenance import git_revision, versions

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from helpers.review_runs import write_texts

RESULTS = Path(__file__).parent / "results" / "review.json"
REPEATS = 9


def milliseconds(work: Callable[[], Any]) -> dict[str, float]:
    """Median and slowest of several calls."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return {"median": round(statistics.median(times), 1), "slowest": round(max(times), 1)}


def main() -> None:
    """Generate a run, time the operations of a reviewer on it, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=100_000)
    count = parser.parse_args().texts
    with TemporaryDirectory() as scratch:
        folder = write_texts(Path(scratch) / "run", count)
        size = sum(file.stat().st_size for file in folder.iterdir())
        times = measure(folder)
    result = {
        "texts": count,
        "megabytes": round(size / 1e6, 1),
        "repeats": REPEATS,
        "milliseconds": times,
        "machine": machine(),
        "versions": versions(),
        "git_revision": git_revision(),
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """Milliseconds of every operation."""
    review = Review(folder)
    shares = iter([0.3, 0.5] * REPEATS)
    acts = iter([decisions.EXCLUDE, decisions.BY_SCORE] * REPEATS)
    trivia = view.find_texts(review, Controls(forget_set="trivia"))

    def show(**controls: str | int) -> Callable[[], Any]:
        def work() -> None:
            html.status(review)
            html.histogram(review)
            indices = view.find_texts(review, Controls(**controls))
            view.table_rows(review, take_page(indices, controls.get("page", 1))[0])

        return work

    command = [sys.executable, "-m", "letgo", "show", str(folder), "--grep", "mountain.*king"]
    return {
        "open the run": milliseconds(review.reload),
        "first page": milliseconds(show()),
        "last page": milliseconds(show(page=10**6)),
        "filter by text": milliseconds(show(words="mountain KING")),
        "filter by set": milliseconds(show(forget_set="trivia")),
        "order by length": milliseconds(show(sort="shortest first")),
        "preview another share": milliseconds(lambda: html.histogram(review, 0.42)),
        "apply another share": milliseconds(lambda: review.set_fraction(next(shares))),
        "decide on a third of the texts": milliseconds(
            lambda: review.decide(next(acts), trivia, "trivia")
        ),
        "undo": milliseconds(review.undo),
        "letgo show --grep": milliseconds(
            lambda: subprocess.run(command, check=True, capture_output=True)
        ),
    }


if __name__ == "__main__":
    main()
